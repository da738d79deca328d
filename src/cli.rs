//! The command line: arguments, wiring, exit codes. The only place that ends the process.

mod arguments;
mod compile;
mod flags;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use crate::config::Environment;
use crate::runtime;
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
    // Before anything else: the child must have one thread and nothing open.
    if arguments
        .first()
        .is_some_and(|first| first == sandbox::CHILD_ARGUMENT)
    {
        return sandbox::child_main();
    }
    let environment = Environment::of_this_process();
    runtime::init_telemetry(environment.get("BOSH_AGENT_LOG"));
    ExitCode::from(match arguments::parse(&arguments) {
        Ok(arguments::Command::Compile(arguments)) => compile::main(*arguments, environment),
        Ok(arguments::Command::Version) => print(env!("CARGO_PKG_VERSION")),
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

/// Prints what a program asks for.
fn print(text: &str) -> u8 {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => DONE,
        Err(_) => FAILED,
    }
}

/// Tells a person something.
fn tell(text: &str) {
    // Nobody reads it: there is nobody to tell that to.
    let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
}
