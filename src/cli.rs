//! The command line: arguments, wiring, exit codes. The only module that exits the process.

mod arguments;
mod cache;
mod colors;
mod compile;
mod compile_flags;
mod compile_package;
mod daemon;
mod daemon_flags;
mod enter;
mod flags;
mod generated;
mod inspect;
mod options;
mod stopping;
mod this_process;
mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::config::Environment;
use crate::diag::printable_lines;
use crate::fs;
use crate::process;
use crate::runtime::{self, InvalidLevel, LogFormat};
use crate::sandbox;

/// Exit code for success.
const DONE: u8 = 0;
/// Exit code for a failure of the daemon, an internal error of this program, and a problem that `inspect` finds.
const FAILED: u8 = 1;
/// Exit code if the machine is to blame; the same as that of [`FailureKind::Machine`](crate::offline::FailureKind::Machine).
const MACHINE: u8 = 4;
/// Exit code for a usage error.
const USAGE: u8 = 2;

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(code) = other_role(&arguments) {
        return code;
    }
    // Reset the signals before any process is started and any signal handler is installed. SIGHUP stays ignored under
    // `nohup`, which asks this program to outlive the terminal.
    sandbox::default_signals(&[Signal::SIGHUP]);
    process::raise_limit_of_open_files();
    // Scripts set their own umask.
    fs::forbid_writing_by_others();
    let environment = Environment::of_this_process();
    // Child processes must not inherit files that the calling shell or supervisor left open.
    sandbox::inherit_no_descriptors(&process::inherited_jobserver(&environment));
    let level = environment.get("BOSH_AGENT_LOG");
    colors::set_for_errors(&arguments, &environment);
    let command = arguments::parse(&arguments);
    let checked = level.map_or(Ok(()), runtime::check_level);
    match (&command, &checked) {
        (Ok(arguments::Command::Daemon(_)), _) => {
            let level = level.filter(|_| checked.is_ok());
            runtime::init_telemetry(level, "info", LogFormat::GoAgent);
        }
        (Ok(command), Err(error)) if logs(command) => return invalid_level(error).into(),
        // BOSH_AGENT_LOG asks for debug logging, with times and modules.
        _ if level.is_some() => runtime::init_telemetry(level, "warn", LogFormat::Plain),
        _ => runtime::init_telemetry(None, "warn", LogFormat::Warnings),
    }
    ExitCode::from(match command {
        Ok(arguments::Command::Daemon(flags)) => daemon::main(flags, environment, checked),
        Ok(arguments::Command::Compile(arguments)) => compile::main(*arguments, environment),
        Ok(arguments::Command::CompilePackage(command)) => {
            compile_package::main(*command, environment)
        }
        Ok(arguments::Command::Enter(directory)) => enter::main(&directory),
        Ok(arguments::Command::Cache(command)) => cache::main(command, &environment),
        Ok(arguments::Command::Inspect(command)) => inspect::main(command),
        Ok(arguments::Command::Generate(generated)) => generated::main(&generated),
        Ok(arguments::Command::Version { verbose: false }) => print(env!("CARGO_PKG_VERSION")),
        Ok(arguments::Command::Version { verbose: true }) => print(VERSION),
        Ok(arguments::Command::Help(text)) => print(text.trim_end()),
        Err(error) => {
            print_error(&error);
            USAGE
        }
    })
}

/// Reports a wrong value of `BOSH_AGENT_LOG`.
fn invalid_level(error: &InvalidLevel) -> u8 {
    print_error(&format!("Error: {error}"));
    USAGE
}

/// Runs this process as a helper of another process of this program, or under the name of another program.
fn other_role(arguments: &[OsString]) -> Option<ExitCode> {
    // Do this first: the fork server must be single-threaded and have no open files.
    if arguments
        .first()
        .is_some_and(|first| first == process::SERVER_ARGUMENT)
    {
        process::restore_limit_of_open_files(arguments.get(1));
        return Some(sandbox::server_main());
    }
    if let Some((first, rest)) = arguments.split_first()
        && first == process::LIMITED_ARGUMENT
    {
        print_error(&format!(
            "failed to start a program: {}",
            process::become_limited(rest)
        ));
        return Some(ExitCode::from(FAILED));
    }
    // The other program must find this process as its caller has started it.
    daemon::other_program(&Environment::of_this_process()).map(ExitCode::from)
}

/// Whether a command writes a log.
fn logs(command: &arguments::Command) -> bool {
    !matches!(
        command,
        arguments::Command::Generate(_)
            | arguments::Command::Help(_)
            | arguments::Command::Version { .. }
    )
}

/// The version, the commit with its date, and the target.
const VERSION: &str = concat!(
    "bosh-agent ",
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("BOSH_AGENT_COMMIT"),
    ") ",
    env!("BOSH_AGENT_TARGET"),
);

/// How long tokio keeps an idle blocking thread: practically forever.
const KEEP: Duration = Duration::from_secs(u32::MAX as u64);

/// Starts a tokio runtime with `workers` worker threads and one blocking thread.
///
/// If tokio cannot start its first blocking thread, it panics. If it cannot start a further one, it
/// queues the work. The first blocking thread is therefore started here and kept.
fn start_threads(workers: usize) -> io::Result<Runtime> {
    // If the system refuses a thread or a descriptor, tokio panics and then waits for threads that
    // never end: exit in the panic hook instead.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|panic| {
        cannot_start(panic.payload_as_str().unwrap_or_default())
    }));
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_keep_alive(KEEP)
        .enable_all()
        .build();
    if let Ok(tokio) = &tokio {
        let _entered = tokio.enter();
        drop(runtime::spawn_blocking("start", || {}));
    }
    panic::set_hook(hook);
    tokio
}

#[expect(clippy::exit, reason = "tokio cannot recover from this panic")]
fn cannot_start(reason: &str) -> ! {
    print_error(&format!("Error: failed to start: {reason}"));
    std::process::exit(MACHINE.into())
}

/// Runs `run` to its end on a tokio runtime with `workers` worker threads, and returns its exit
/// code.
///
/// `run` is a task of the workers while the main thread waits: waking another task on the same
/// thread is cheaper than waking the main thread.
fn on_threads(workers: usize, run: impl Future<Output = u8> + Send + 'static) -> u8 {
    // A blocking task that reads from a pipe that is never closed must not delay the exit.
    match run_on_threads(workers, run, Duration::ZERO) {
        Ok(code) | Err(code) => code,
    }
}

/// Runs `run` as [`on_threads`] does, and returns its result. Then waits at most `limit` for the end of the threads.
///
/// # Errors
/// The exit code if the runtime cannot be started, or after a panic.
fn run_on_threads<T: Send + 'static>(
    workers: usize,
    run: impl Future<Output = T> + Send + 'static,
    limit: Duration,
) -> Result<T, u8> {
    let tokio = start_threads(workers).map_err(|error| {
        print_error(&format!("Error: failed to start: {error}"));
        MACHINE
    })?;
    let result = tokio.block_on(async { runtime::spawn("main", run).await });
    tokio.shutdown_timeout(limit);
    // The panic hook has already reported a panic.
    result.map_err(|_| FAILED)
}

/// Prints a line to stdout, for other programs.
fn print(text: &str) -> u8 {
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => DONE,
        // The reader, for example a pager, has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(_) => FAILED,
    }
}

/// Prints a text to stderr, for people.
fn print_error(text: &str) {
    let text = printable_lines(text.trim_end());
    let text = colors::for_errors().labels(&text);
    // If stderr is closed, there is nowhere to report that.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
