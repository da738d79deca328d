//! The command line, parsed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::FromArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;

use super::cache::{self, CacheCommand};
use super::compile_flags::{Compile, CompileCommand};
use super::compile_package::{self, CompilePackage};
use super::daemon_flags::{self, Daemon};
use super::enter;
use super::flags;
use super::generated::{self, Generated};
use super::inspect::{self, InspectCommand};
use crate::diag::most_similar;
use crate::offline::is_tarball;

/// A parsed command line.
#[derive(Debug)]
pub(super) enum Command {
    Compile(Box<Compile>),
    /// Compiles one package, without a release.
    CompilePackage(Box<CompilePackage>),
    Daemon(Daemon),
    /// Opens a shell in the sandbox of a kept package.
    Enter(PathBuf),
    /// Lists, verifies or prunes a cache.
    Cache(CacheCommand),
    /// Shows what a release holds, and what is wrong with it.
    Inspect(InspectCommand),
    /// Prints completions or a manual page.
    Generate(Generated),
    Version {
        /// Also print the commit and the target.
        verbose: bool,
    },
    Help(String),
}

const USAGE: &str = "\
Usage:

  bosh-agent compile [FLAGS] TARBALL...   compile BOSH releases
  bosh-agent compile-package FLAGS        compile one package without a release
  bosh-agent inspect [FLAGS] FILE.tgz     show what a release holds and what is wrong with it
  bosh-agent cache ls|verify|prune|path   list, verify or prune the cache of compiled packages, or print its path
  bosh-agent enter DIR                    open a shell in the sandbox of a package that
                                          `compile --keep-failed` has kept
  bosh-agent -P PLATFORM -C AGENT.JSON    run the agent of a VM, which serves a Director
                                          (-P ubuntu or dummy; -b BASE replaces /var/vcap)
  bosh-agent help COMMAND                 show the flags of a command
  bosh-agent man [COMMAND]                print a manual page
  bosh-agent completions bash|zsh|fish    print shell completions
  bosh-agent -v                           print only the version
  bosh-agent --version                    print the version, the commit and the target
  bosh-agent -h                           print this help
";

/// Parses the arguments after the program's name. The error is a text for the user.
pub(super) fn parse(arguments: &[OsString]) -> Result<Command, String> {
    let Some((first, rest)) = arguments.split_first() else {
        return Err(format!("Error: no command is given\n\n{USAGE}"));
    };
    match first.to_str() {
        Some("compile") => compile(rest),
        Some("compile-package") => compile_package(rest),
        Some("enter") if flags::help(rest).is_some() => Ok(Command::Help(enter::HELP.to_owned())),
        Some("enter") => enter::parse(rest).map(Command::Enter),
        Some("cache") => cache(rest),
        Some("inspect") => inspect(rest),
        Some("completions") if flags::help(rest).is_some() => {
            Ok(Command::Help(generated::HELP_OF_COMPLETIONS.to_owned()))
        }
        Some("completions") => generated::parse_completions(rest).map(Command::Generate),
        Some("man") if flags::help(rest).is_some() => {
            Ok(Command::Help(generated::HELP_OF_MAN.to_owned()))
        }
        Some("man") => generated::parse_man(rest).map(Command::Generate),
        Some("-v" | "--v") => Ok(Command::Version { verbose: false }),
        Some("-version" | "--version") => Ok(Command::Version { verbose: true }),
        Some("help" | "-h" | "--h" | "-help" | "--help") => help(rest),
        _ if daemon_flags::is_for_daemon(arguments) && flags::help(arguments).is_some() => {
            help(&[])
        }
        _ if daemon_flags::is_for_daemon(arguments) => {
            daemon_flags::parse(arguments).map(Command::Daemon)
        }
        _ => Err(unknown_command(&first.to_string_lossy())),
    }
}

/// Parses the arguments after `help`: nothing, or the name of a command.
fn help(topic: &[OsString]) -> Result<Command, String> {
    match topic.first().map(|topic| topic.to_string_lossy()) {
        None => Ok(Command::Help(USAGE.to_owned())),
        Some(topic) if topic == "compile" => compile(&["--help".into()]),
        Some(topic) if topic == "compile-package" => compile_package(&["--help".into()]),
        Some(topic) if topic == "cache" => cache(&["--help".into()]),
        Some(topic) if topic == "inspect" => inspect(&["--help".into()]),
        Some(topic) if topic == "enter" => Ok(Command::Help(enter::HELP.to_owned())),
        Some(topic) if topic == "completions" => {
            Ok(Command::Help(generated::HELP_OF_COMPLETIONS.to_owned()))
        }
        Some(topic) if topic == "man" => Ok(Command::Help(generated::HELP_OF_MAN.to_owned())),
        Some(topic) if topic.starts_with('-') => Ok(Command::Help(USAGE.to_owned())),
        Some(topic) => Err(unknown_command(&topic)),
    }
}

fn cache(arguments: &[OsString]) -> Result<Command, String> {
    match cache::parse(arguments) {
        Ok(command) => Ok(Command::Cache(command)),
        Err((text, true)) => Ok(Command::Help(text)),
        Err((text, false)) => Err(capitalized(&text)),
    }
}

fn compile_package(arguments: &[OsString]) -> Result<Command, String> {
    match compile_package::parse(arguments) {
        Ok(command) => Ok(Command::CompilePackage(Box::new(command))),
        Err((text, true)) => Ok(Command::Help(text)),
        Err((text, false)) => Err(capitalized(&text)),
    }
}

fn inspect(arguments: &[OsString]) -> Result<Command, String> {
    match inspect::parse(arguments) {
        Ok(command) => Ok(Command::Inspect(command)),
        Err((text, true)) => Ok(Command::Help(text)),
        Err((text, false)) => Err(capitalized(&text)),
    }
}

fn unknown_command(name: &str) -> String {
    let commands = [
        "cache",
        "compile",
        "compile-package",
        "completions",
        "enter",
        "help",
        "inspect",
        "man",
    ];
    let similar = match most_similar(name, commands) {
        Some(command) => format!("\nHint: did you mean `{command}`?"),
        None if is_tarball(name) => {
            format!("\nHint: to compile a release, run `bosh-agent compile {name}`")
        }
        None => String::new(),
    };
    format!("Error: unknown command `{name}`{similar}\n\n{USAGE}")
}

fn compile(arguments: &[OsString]) -> Result<Command, String> {
    // Other flags are refused after the tarballs, but `--help` is accepted.
    let arguments = flags::help(arguments).unwrap_or(arguments);
    let command = <CompileCommand as clap::CommandFactory>::command();
    let mut built = command.clone();
    built.build();
    let arguments =
        flags::normalize(&built, arguments).map_err(|error| format!("Error: {error}"))?;
    let with_name = std::iter::once(OsString::from("bosh-agent compile")).chain(arguments);
    let matches = match command.try_get_matches_from(with_name) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Command::Help(error.to_string()));
        }
        Err(error) if asks_for_version(&error) => {
            return Err(
                "Error: unexpected argument '--version' found\nHint: run bosh-agent --version"
                    .to_owned(),
            );
        }
        Err(error) => return Err(capitalized(&error.to_string())),
    };
    let parsed = CompileCommand::from_arg_matches(&matches)
        .map_err(|error| capitalized(&error.to_string()))?
        .compile;
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    parsed.remote.check_others(is_given)?;
    if parsed.compilation.script.base_directory.to_str().is_none() {
        return Err(format!(
            "Error: --base-directory `{}` is not valid UTF-8",
            parsed.compilation.script.base_directory.display()
        ));
    }
    if !parsed.compilation.script.base_directory.is_absolute() {
        return Err(format!(
            "Error: --base-directory `{}` is not an absolute path",
            parsed.compilation.script.base_directory.display()
        ));
    }
    if parsed.inspection.shell.is_some() && parsed.tarballs.len() > 1 {
        return Err("Error: --shell needs exactly one tarball".to_owned());
    }
    Ok(Command::Compile(Box::new(parsed)))
}

/// Whether the unknown argument is `--version`, for which clap suggests `--verbose`.
fn asks_for_version(error: &clap::Error) -> bool {
    let argument = error.get(ContextKind::InvalidArg);
    matches!(argument, Some(ContextValue::String(text)) if text == "--version")
}

/// clap starts its errors in lower case; ours start with a capital letter.
fn capitalized(text: &str) -> String {
    match text.strip_prefix("error:") {
        Some(rest) => format!("Error:{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        parse(&arguments)
    }

    fn compile(arguments: &[&str]) -> Compile {
        match parsed(&[&["compile"], arguments].concat()) {
            Ok(Command::Compile(compile)) => *compile,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_command_has_help() {
        for command in [
            "cache",
            "compile",
            "compile-package",
            "completions",
            "enter",
            "inspect",
            "man",
        ] {
            let expected = format!("Usage: bosh-agent {command}");
            for arguments in [
                &["help", command][..],
                &[command, "--help"],
                &[command, "-h"],
            ] {
                match parsed(arguments) {
                    Ok(Command::Help(text)) => assert!(text.contains(&expected), "{text}"),
                    other => panic!("{arguments:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn go_agents_command_line_is_accepted() {
        for given in [
            &["-output-directory", "out", "a.tgz", "b.tgz"][..],
            &["--output-directory=out", "a.tgz", "b.tgz"],
            &[
                "-output-directory=first",
                "-output-directory=out",
                "--",
                "a.tgz",
                "b.tgz",
            ],
        ] {
            let compile = compile(given);
            assert_eq!(compile.results.output_directory, Some(PathBuf::from("out")));
            assert_eq!(compile.tarballs, ["a.tgz", "b.tgz"].map(PathBuf::from));
        }
    }

    #[test]
    fn usage_errors_name_the_mistake() {
        for (given, named) in [
            (&[][..], "no command"),
            (&["compiel"], "compiel"),
            (&["compile"], "TARBALL"),
            (&["compile", "-x", "a.tgz"], "-x"),
            (&["compile", "--output-directory"], "--output-directory"),
            (
                &["compile", "--output-directory=", "a.tgz"],
                "--output-directory",
            ),
            (&["compile", "--scratch-dir=", "a.tgz"], "--scratch-dir"),
            (
                &["compile", "--scratch-dir=d", "--no-shared-scratch", "a.tgz"],
                "--no-shared-scratch",
            ),
            (&["compile", "a.tgz", "-force"], "-force"),
            (&["compile", "--stemcell", "noble", "a.tgz"], "noble"),
            (&["compile", "--base-directory=vcap", "a.tgz"], "vcap"),
            (&["compile", "--jobs=0", "a.tgz"], "--jobs"),
        ] {
            let text = parsed(given).unwrap_err();
            assert!(
                text.starts_with("Error: ") && text.contains(named),
                "{given:?}: {text}"
            );
        }
    }

    #[test]
    fn help_and_version_are_not_errors() {
        for given in [
            &["-h"][..],
            &["--help"],
            &["compile", "-h"],
            &["compile", "-help"],
        ] {
            assert!(matches!(parsed(given), Ok(Command::Help(_))), "{given:?}");
        }
        for (given, expected) in [("-v", false), ("--version", true)] {
            assert!(
                matches!(parsed(&[given]), Ok(Command::Version { verbose }) if verbose == expected)
            );
        }
        let Ok(Command::Help(text)) = parsed(&["compile", "--help"]) else {
            panic!("no help");
        };
        for flag in [
            "--output-directory",
            "--work-dir",
            "--logs-dir",
            "--scratch-dir",
            "--no-shared-scratch",
            "--stemcell",
            "--isolation",
            "--protect-host",
            "--second-run",
            "--jobs",
        ] {
            assert!(text.contains(flag), "{flag} is missing:\n{text}");
        }
    }
}
