//! `bosh-agent -P … -C agent.json`: options, signals, and the run. On a VM that does not compile packages, this process becomes the Go
//! agent before it changes anything.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::compile::{NO_PROC, NO_PROC_HINT};
use super::daemon_flags::Daemon;
use super::stopping::SignalHandler;
use super::this_process::{program, who};
use super::{DONE, FAILED, invalid_level, on_threads, run_on_threads};
use crate::config::{Environment, Vcap};
use crate::daemon::{self, DaemonError, DaemonOptions, GO_AGENT, ServingAgent, StartContext};
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::process::{self, ForkServer};
use crate::runtime::{InvalidLevel, Signals, StopSignal};
use crate::sandbox::{self, Isolation, UserNamespace};
use crate::tls::SystemCertificates;

/// Two worker threads: requests are answered even while one thread is blocked.
const WORKERS: usize = 2;

/// How long to wait for the threads that have read the settings.
const THREADS_END_WITHIN: Duration = Duration::from_secs(10);

/// The name under which the Go agent is another program.
const MONIT_ACCESS: &str = "bosh-enable-monit-access";

/// If this program was started under the name of another program of the Go agent: becomes that program, or returns the exit code.
pub(super) fn other_program(environment: &Environment) -> Option<u8> {
    let name = std::env::args_os().next()?;
    if Path::new(&name).file_name()? != MONIT_ACCESS {
        return None;
    }
    let Some(go_agent) = daemon::find_go_agent(&program(), &Vcap::default()) else {
        super::print_error(&format!(
            "Error: `{MONIT_ACCESS}` needs the Go agent, which is not installed as `{GO_AGENT}`"
        ));
        return Some(FAILED);
    };
    let error = become_go_agent(&go_agent, environment);
    super::print_error(&format!(
        "Error: failed to execute `{}`: {error}",
        go_agent.display()
    ));
    Some(FAILED)
}

/// Executes the Go agent with the arguments of this process. Returns only if that failed.
fn become_go_agent(go_agent: &Path, environment: &Environment) -> io::Error {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    sandbox::replace_this_process(go_agent, &arguments, environment)
}

/// Runs the daemon. A wrong `level` of the log is an error only on a VM that this agent serves.
pub(super) fn main(flags: Daemon, environment: Environment, level: Result<(), InvalidLevel>) -> u8 {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "Starting agent");
    let vcap = Vcap::new(&flags.base);
    if sandbox::has_proc()
        && let Some(go_agent) = daemon::find_go_agent(&program(), &vcap)
        && let Err(code) = stand_aside(&go_agent, &flags, &vcap, &environment)
    {
        return code;
    }
    if let Err(error) = level {
        return invalid_level(&error);
    }
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
        vcap,
        environment,
        fork_server: ForkServer::default(),
        who: who(),
        isolation,
        user_namespace,
        program: program(),
    };
    on_threads(WORKERS, run(options, flags.ignored))
}

/// Becomes the Go agent unless this agent serves the VM. Otherwise, returns with no thread left, as if nothing had happened.
///
/// # Errors
/// The exit code if the daemon failed or was stopped.
fn stand_aside(
    go_agent: &Path,
    flags: &Daemon,
    vcap: &Vcap,
    environment: &Environment,
) -> Result<(), u8> {
    let (config, vcap, own) = (flags.config.clone(), vcap.clone(), environment.clone());
    let deciding = async move {
        let stop = CancellationToken::new();
        let mut stopping = handle_signals(&stop)?;
        sandbox::leave_stop_signals_to_tasks();
        // Its process ends before this process becomes another program.
        let fork_server = ForkServer::default();
        let context = StartContext {
            config: &config,
            vcap: &vcap,
            environment: &own,
            fork_server: &fork_server,
            isolation: Isolation::Auto,
        };
        let chosen = daemon::choose_agent(&context, &stop).await;
        Ok((chosen, stopping.signal().await))
    };
    sandbox::note_stop_signals(FAILED);
    let decided: io::Result<_> = run_on_threads(WORKERS, deciding, THREADS_END_WITHIN)?;
    // No task listens to signals now. Those after this line end this process.
    let late = sandbox::end_at_stop_signals(FAILED);
    let (chosen, signal) = decided.map_err(|error| cannot_start(&error))?;
    match (chosen, signal.or(late.and_then(StopSignal::of))) {
        (Ok(ServingAgent::ThisAgent), None) => Ok(()),
        (Ok(ServingAgent::GoAgent { reason }), None) => {
            let program = go_agent.display();
            tracing::info!(%program, reason, "becoming the Go agent");
            let error = become_go_agent(go_agent, environment);
            tracing::error!("Agent exited with error: failed to execute `{program}`: {error}");
            Err(FAILED)
        }
        (chosen, signal) => Err(exit_code(chosen.map(drop), signal)),
    }
}

fn cannot_start(error: &io::Error) -> u8 {
    tracing::error!(%error, "Agent exited with error: startup failed");
    FAILED
}

async fn run(options: DaemonOptions, ignored: Vec<String>) -> u8 {
    if !sandbox::has_proc() {
        tracing::error!(hint = NO_PROC_HINT, "Agent exited with error: {NO_PROC}");
        return FAILED;
    }
    for ignored in &ignored {
        tracing::warn!(ignored, "ignoring an unknown argument");
    }
    let stop = CancellationToken::new();
    let listening = handle_signals(&stop).and_then(|stopping| {
        sandbox::leave_stop_signals_to_tasks();
        process::adopt_orphans()?;
        Ok(stopping)
    });
    let mut stopping = match listening {
        Ok(stopping) => stopping,
        Err(error) => return cannot_start(&error),
    };
    let result = daemon::run(options, &stop).await;
    exit_code(result, stopping.signal().await)
}

/// Cancels `stop` on the first signal, and exits on the second one.
fn handle_signals(stop: &CancellationToken) -> io::Result<SignalHandler> {
    let signals = Signals::listen()?;
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
