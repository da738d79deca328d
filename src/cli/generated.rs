//! `bosh-agent completions SHELL` and `bosh-agent man [COMMAND]`: texts for shells and for `man`, made from the flags of all commands.

use std::ffi::OsString;
use std::io;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command, CommandFactory, ValueHint, value_parser};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::cache::CacheCommand;
use super::compile_flags::CompileCommand;
use super::compile_package::CompilePackage;
use super::inspect::InspectCommand;
use super::{FAILED, print};
use crate::diag::most_similar;

/// The commands with a manual page of their own.
const PAGES: [&str; 7] = [
    "cache",
    "compile",
    "compile-package",
    "completions",
    "enter",
    "inspect",
    "man",
];

/// The shells with completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

pub(super) const HELP_OF_COMPLETIONS: &str = "\
Prints shell completions

Usage: bosh-agent completions SHELL

Arguments:
  SHELL  bash, zsh or fish

Options:
  -h, --help  Print help
";

pub(super) const HELP_OF_MAN: &str = "\
Prints a manual page for `man -l -`

Usage: bosh-agent man [COMMAND]

Arguments:
  COMMAND  Command with a page of its own, such as `compile`. Without it, the page of bosh-agent

Options:
  -h, --help  Print help
";

/// A text that is made from the flags.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Generated {
    /// The completions of a shell.
    Completions(Shell),
    /// The manual page of a command, or of the program.
    Manual(Option<String>),
}

/// Parses the arguments after `completions`.
pub(super) fn parse_completions(arguments: &[OsString]) -> Result<Generated, String> {
    let [shell] = arguments else {
        return Err("Error: expected one shell: bosh-agent completions bash|zsh|fish".to_owned());
    };
    let shell = shell.to_string_lossy();
    let known = |it: &&Shell| it.to_string() == shell;
    let found = SHELLS.iter().find(known);
    let found = found.ok_or_else(|| {
        format!("Error: there are no completions for `{shell}`: use `bash`, `zsh` or `fish`")
    })?;
    Ok(Generated::Completions(*found))
}

/// Parses the arguments after `man`.
pub(super) fn parse_man(arguments: &[OsString]) -> Result<Generated, String> {
    match arguments {
        [] => Ok(Generated::Manual(None)),
        [command] => {
            let name = command.to_string_lossy().into_owned();
            if PAGES.contains(&name.as_str()) {
                return Ok(Generated::Manual(Some(name)));
            }
            let similar = most_similar(&name, PAGES);
            let hint = similar.map(|it| format!("\nHint: did you mean `{it}`?"));
            let hint = hint.unwrap_or_default();
            Err(format!("Error: no manual page for `{name}`{hint}"))
        }
        _ => Err("Error: expected one command at most: bosh-agent man [COMMAND]".to_owned()),
    }
}

pub(super) fn main(generated: &Generated) -> u8 {
    let text = match generated {
        Generated::Completions(shell) => completions(*shell),
        Generated::Manual(command) => match manual(command.as_deref()) {
            Ok(page) => page,
            Err(_) => return FAILED,
        },
    };
    print(text.trim_end())
}

fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program(), "bosh-agent", &mut text);
    let text = String::from_utf8_lossy(&text);
    // clap_complete has two names for a program with a hyphen, and then completes nothing after a command in bash.
    text.replace("bosh__subcmd__agent", "bosh__agent")
}

fn manual(command: Option<&str>) -> io::Result<String> {
    let mut program = program();
    program.build();
    let page = match command {
        Some(name) => program
            .find_subcommand(name)
            .ok_or(io::ErrorKind::NotFound)?,
        None => &program,
    };
    let man = Man::new(page.clone());
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    synopsis(page).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    match command {
        None => man.render_subcommands_section(&mut text)?,
        Some(_) if page.has_subcommands() => actions(page).to_writer(&mut text)?,
        Some(_) => {}
    }
    let text = String::from_utf8_lossy(&text);
    // Each section repeats the definition of apostrophes.
    let (definition, rest) = text.split_once(".TH").unwrap_or(("", &text));
    Ok(format!("{definition}.TH{}", rest.replace(definition, "")))
}

/// The usage of a command as a section. The crate's own synopsis lists all flags, without the order that the agent requires.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage:").unwrap_or(&usage);
    let mut section = Roff::new();
    section.control("SH", ["SYNOPSIS"]).control("nf", []);
    for line in usage.lines() {
        section.text([roman(line.trim())]);
    }
    section.control("fi", []);
    section
}

/// The actions of a command with their flags as a section, because they have no pages of their own.
fn actions(command: &Command) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["SUBCOMMANDS"]);
    let text = |text: Option<&StyledStr>| roman(text.map(ToString::to_string).unwrap_or_default());
    for action in command.get_subcommands() {
        section.control("TP", []).text([bold(action.get_name())]);
        section.text([text(action.get_about())]).control("RS", []);
        let flags = action.get_arguments().filter(|it| !it.is_global_set());
        for (flag, long) in flags.filter_map(|it| Some((it, it.get_long()?))) {
            let value = match flag.get_action().takes_values() {
                true => flag.get_value_names().unwrap_or_default().join(" "),
                false => String::new(),
            };
            let name = [bold(format!("--{long} ")), italic(value)];
            section.control("TP", []).text(name);
            section.text([text(flag.get_help())]);
        }
        section.control("RE", []);
    }
    section
}

/// The command line of the program. Another module parses it, as the daemon's flags have the syntax of Go.
fn program() -> Command {
    let of_daemon = |id: &'static str, short, value| {
        Arg::new(id)
            .short(short)
            .value_name(value)
            .help_heading("Agent of a compilation VM")
    };
    Command::new("bosh-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Compiles BOSH releases")
        .long_about(
            "Compiles BOSH releases: turns source releases into compiled releases, for one stemcell. With -P and -C, runs the agent \
             of a compilation VM, to which a Director sends packages.",
        )
        .override_usage(
            "bosh-agent COMMAND [ARGUMENT]...\n       bosh-agent -P PLATFORM -C AGENT.JSON [-b DIR]",
        )
        .disable_version_flag(true)
        .arg(
            of_daemon("platform", 'P', "PLATFORM")
                .value_parser(["ubuntu", "dummy"])
                .help("Platform of the VM; `dummy` changes no settings of the machine"),
        )
        .arg(
            of_daemon("config", 'C', "AGENT.JSON")
                .value_hint(ValueHint::FilePath)
                .help("Configuration, which names the source of the agent's settings"),
        )
        .arg(
            of_daemon("base", 'b', "DIR")
                .value_hint(ValueHint::DirPath)
                .help("Directory that replaces /var/vcap"),
        )
        .arg(
            Arg::new("short-version")
                .short('v')
                .action(ArgAction::SetTrue)
                .help("Print only the version"),
        )
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Print the version, the commit and the target"),
        )
        .subcommands(subcommands())
}

fn subcommands() -> [Command; 7] {
    let directory = Arg::new("directory")
        .value_name("DIR")
        .value_parser(value_parser!(std::path::PathBuf))
        .value_hint(ValueHint::DirPath)
        .required(true)
        .help("Directory with the files of the package");
    let shell = Arg::new("shell")
        .required(true)
        .value_name("SHELL")
        .value_parser(["bash", "zsh", "fish"])
        .help("Shell to complete commands in");
    let page = Arg::new("command")
        .value_name("COMMAND")
        .value_parser(PAGES)
        .help("Command with a page of its own; without it, the page of bosh-agent");
    [
        CompileCommand::command().name("compile"),
        CompilePackage::command().name("compile-package"),
        InspectCommand::command().name("inspect"),
        CacheCommand::command().name("cache"),
        Command::new("enter")
            .about(
                "Opens a shell in the sandbox of a package that `compile --keep-failed` has kept",
            )
            .arg(directory),
        Command::new("completions")
            .about("Prints shell completions")
            .arg(shell),
        Command::new("man").about("Prints a manual page").arg(page),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_valid() {
        program().debug_assert();
    }
}
