//! The command line: arguments, wiring, exit codes. The only place that ends the process.

mod arguments;
mod compile;
mod daemon;
mod daemon_flags;
mod flags;
mod stopping;

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::config::Environment;
use crate::fs;
use crate::process;
use crate::runtime::{self, LogFormat};
use crate::sandbox;

/// Everything was done.
const DONE: u8 = 0;
/// Something failed.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Before anything else: the server must have one thread and nothing open.
    if arguments
        .first()
        .is_some_and(|first| first == process::SERVER_ARGUMENT)
    {
        return sandbox::server_main();
    }
    // Before a process is started or a signal listened for. Whoever says `nohup` wants this program to outlive the terminal.
    sandbox::default_signals(&[Signal::SIGHUP]);
    // Scripts get a umask of their own.
    fs::forbid_writing_by_others();
    let environment = Environment::of_this_process();
    // Programs that this one starts are not to find what happened to be open in the shell or the supervisor above.
    sandbox::inherit_no_descriptors(&process::inherited_jobserver(&environment));
    let level = environment.get("BOSH_AGENT_LOG");
    let command = arguments::parse(&arguments);
    match command {
        Ok(arguments::Command::Daemon(_)) => {
            runtime::init_telemetry(level, "info", LogFormat::GoAgent);
        }
        // Whoever sets a level looks into the program itself.
        _ if level.is_some() => runtime::init_telemetry(level, "warn", LogFormat::Plain),
        _ => runtime::init_telemetry(None, "warn", LogFormat::Warnings),
    }
    ExitCode::from(match command {
        Ok(arguments::Command::Daemon(flags)) => daemon::main(flags, environment),
        Ok(arguments::Command::Compile(arguments)) => compile::main(*arguments, environment),
        Ok(arguments::Command::Version { verbose: false }) => print(env!("CARGO_PKG_VERSION")),
        Ok(arguments::Command::Version { verbose: true }) => print(VERSION),
        Ok(arguments::Command::Help(text)) => {
            tell(&text);
            DONE
        }
        Err(error) => {
            tell(&error);
            USAGE
        }
    })
}

/// Version, commit with its date, target.
const VERSION: &str = concat!(
    "bosh-agent ",
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("BOSH_AGENT_COMMIT"),
    ") ",
    env!("BOSH_AGENT_TARGET"),
);

/// How long an idle thread is kept: for ever.
const KEEP: Duration = Duration::from_secs(u32::MAX as u64);

/// Starts the program's threads: `workers` that carry everything that waits, and one for what blocks. While the system has no more
/// threads to give, blocking work waits for one that is there. Without any tokio would panic, so the first one is kept.
fn start_threads(workers: usize) -> io::Result<Runtime> {
    // Where the system has no thread or no descriptor to give, tokio panics, and would wait for threads that never end.
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

#[expect(clippy::exit, reason = "a panic could not be recovered from")]
fn cannot_start(reason: &str) -> ! {
    tell(&format!("Error: failed to start: {reason}"));
    std::process::exit(FAILED.into())
}

/// Runs to the end on the program's threads. `workers` of them carry everything that waits; what blocks has threads of its own.
///
/// All of it is a task of the workers, and the main thread waits: a task that wakes another on the same thread costs no
/// hand-over.
fn on_threads(workers: usize, run: impl Future<Output = u8> + Send + 'static) -> u8 {
    let tokio = match start_threads(workers) {
        Ok(tokio) => tokio,
        Err(error) => {
            tell(&format!("Error: failed to start: {error}"));
            return FAILED;
        }
    };
    let code = tokio.block_on(async { runtime::spawn("main", run).await });
    // A reader of some output that never ends must not keep us.
    tokio.shutdown_background();
    // A panic has been reported where it happened.
    code.unwrap_or(FAILED)
}

/// Prints what a program asks for.
fn print(text: &str) -> u8 {
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => DONE,
        Err(_) => FAILED,
    }
}

/// Tells a person something.
fn tell(text: &str) {
    // Nobody reads it: there is nobody to tell that to.
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}
