//! `bosh-agent -P … -C agent.json`: options, signals, and the run.

use std::io;

use tokio_util::sync::CancellationToken;

use super::compile::{NO_PROC, NO_PROC_HINT};
use super::daemon_flags::Daemon;
use super::stopping::SignalHandler;
use super::this_process::who;
use super::{DONE, FAILED, on_threads};
use crate::config::{Environment, Vcap};
use crate::daemon::{self, DaemonError, DaemonOptions};
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::process::{self, ForkServer};
use crate::runtime::{Signals, StopSignal};
use crate::sandbox::{self, Isolation, UserNamespace};
use crate::tls::SystemCertificates;

/// Two worker threads: requests are answered even while one thread is blocked.
const WORKERS: usize = 2;

pub(super) fn main(flags: Daemon, environment: Environment) -> u8 {
    SystemCertificates::of(&environment).use_for_process();
    // The NATS client loads the system's certificates at every connect, even if the agent passes
    // other certificates to it, and refuses to connect if one of the system's certificates is
    // malformed. These variables hide the system's certificates from the client.
    sandbox::set_variable_before_threads("SSL_CERT_FILE", "/dev/null");
    sandbox::set_variable_before_threads("SSL_CERT_DIR", "");
    let isolation = Isolation::Auto;
    // Only a single-threaded process can enter a user namespace.
    let user_namespace = match sandbox::has_proc() {
        true => isolation.enter_user_namespace(),
        false => UserNamespace::Outside,
    };
    let options = DaemonOptions {
        platform: match flags.platform.as_str() {
            "dummy" => Platform::Dummy,
            _ => Platform::Linux,
        },
        config: flags.config,
        vcap: Vcap::new(&flags.base),
        environment,
        agent: ForkServer::default(),
        who: who(),
        isolation,
        user_namespace,
    };
    on_threads(WORKERS, run(options, flags.ignored))
}

async fn run(options: DaemonOptions, ignored: Vec<String>) -> u8 {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "Starting agent");
    if !sandbox::has_proc() {
        tracing::error!(hint = NO_PROC_HINT, "Agent exited with error: {NO_PROC}");
        return FAILED;
    }
    for ignored in &ignored {
        tracing::warn!(ignored, "ignoring an unknown argument");
    }
    let stop = CancellationToken::new();
    let mut stopping = match handle_signals(&stop) {
        Ok(stopping) => stopping,
        Err(error) => {
            tracing::error!(%error, "Agent exited with error: startup failed");
            return FAILED;
        }
    };
    let result = daemon::run(options, &stop).await;
    exit_code(result, stopping.signal().await)
}

/// Cancels `stop` on the first signal, and exits on the second one.
fn handle_signals(stop: &CancellationToken) -> io::Result<SignalHandler> {
    let signals = Signals::listen()?;
    process::adopt_orphans()?;
    let announce = |signal: StopSignal| {
        let (signal, grace) = (signal.name(), daemon::GRACE);
        tracing::info!(
            signal,
            ?grace,
            "stopping: scripts have the grace time to end; a second SIGTERM kills them at once"
        );
    };
    let killing = |signal: StopSignal| {
        let signal = signal.name();
        tracing::error!(
            "Agent exited with error: received a second signal ({signal}): killing all processes"
        );
    };
    Ok(SignalHandler::start(
        signals,
        stop,
        announce,
        killing,
        |_| FAILED,
    ))
}

/// Logs why the daemon ended, in the Go agent's words.
fn exit_code(result: Result<(), DaemonError>, signal: Option<StopSignal>) -> u8 {
    if let Err(error) = result {
        let hint = error.hint();
        tracing::error!(hint, "Agent exited with error: {}", Chain(&error));
        return FAILED;
    }
    let Some(signal) = signal else {
        return DONE;
    };
    let signal = match signal {
        StopSignal::Interrupt => "interrupt",
        StopSignal::HangUp => "hangup",
        StopSignal::Terminate => "terminated",
    };
    // Supervisors may look for this message and exit code of the Go agent.
    tracing::error!("Agent exited with error: received signal ({signal}): stopping now");
    FAILED
}
