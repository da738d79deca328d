//! `bosh-agent -P … -C agent.json`: options, signals, and the run.

use tokio_util::sync::CancellationToken;

use super::compile::{NO_PROC, NO_PROC_HINT, SELF, who};
use super::daemon_flags::Daemon;
use super::stopping::Stopping;
use super::{DONE, FAILED, on_threads};
use crate::config::{Environment, Vcap};
use crate::daemon::{self, DaemonOptions};
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::process;
use crate::runtime::{Signals, StopSignal};
use crate::sandbox;
use crate::tls::SystemCertificates;

/// Two worker threads: requests are answered even while one of them is blocked.
const WORKERS: usize = 2;

pub(super) fn main(flags: Daemon, environment: Environment) -> u8 {
    SystemCertificates::of(&environment).use_for_process();
    // The NATS client loads the system's certificates at every connect, even if it has been given
    // its own, and refuses to connect if one of them is malformed. Hide them from it.
    sandbox::set_variable_before_threads("SSL_CERT_FILE", "/dev/null");
    sandbox::set_variable_before_threads("SSL_CERT_DIR", "");
    on_threads(WORKERS, run(flags, environment))
}

async fn run(flags: Daemon, environment: Environment) -> u8 {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "Starting agent");
    if !sandbox::has_proc() {
        tracing::error!(hint = NO_PROC_HINT, "Agent exited with error: {NO_PROC}");
        return FAILED;
    }
    for ignored in &flags.ignored {
        tracing::warn!(ignored, "ignoring an unknown argument");
    }
    let ready = Signals::listen().and_then(|signals| process::adopt_orphans().map(|()| signals));
    let signals = match ready {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "Agent exited with error: startup failed");
            return FAILED;
        }
    };
    let stop = CancellationToken::new();
    let stopping = Stopping::start(
        signals,
        &stop,
        |signal| {
            let (signal, grace) = (signal.name(), daemon::GRACE);
            tracing::info!(
                signal,
                ?grace,
                "stopping: scripts have the grace time to end; a second SIGTERM kills them at once"
            );
        },
        |signal| {
            let signal = signal.name();
            tracing::error!(
                "Agent exited with error: received a second signal ({signal}): killing all processes"
            );
            FAILED
        },
    );
    let options = DaemonOptions {
        platform: match flags.platform.as_str() {
            "dummy" => Platform::Dummy,
            _ => Platform::Linux,
        },
        config: flags.config,
        vcap: Vcap::new(&flags.base),
        environment,
        agent: SELF.into(),
        who: who(),
    };
    let result = daemon::run(options, &stop).await;
    let signal = stopping.signal().await;
    match result {
        Err(error) => {
            tracing::error!("Agent exited with error: {}", Chain(&error));
            FAILED
        }
        Ok(()) if stop.is_cancelled() => {
            let signal = match signal {
                Some(StopSignal::Interrupt) => "interrupt",
                Some(StopSignal::HangUp) => "hangup",
                Some(StopSignal::Terminate) | None => "terminated",
            };
            // The Go agent's message and exit code, which supervisors may look for.
            tracing::error!("Agent exited with error: received signal ({signal}): stopping now");
            FAILED
        }
        Ok(()) => DONE,
    }
}
