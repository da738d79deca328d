//! The flags that documents name, compared with those of the program.

use std::collections::BTreeSet;

use super::markdown::Document;
use crate::support::{Agent, World};

/// Flags of other programs that documents name between backticks.
const OTHERS: [&str; 1] = ["--security-opt"];

/// The flags in the help of a command.
pub(super) fn of_command(command: &str) -> BTreeSet<String> {
    let world = World::new();
    let agent = Agent::bare(&world.path("printed")).args(&[command, "--help"]);
    let help = agent.run().stdout;
    let flags: BTreeSet<String> = help.lines().filter_map(defined).collect();
    assert!(!flags.is_empty(), "no flags: {help}");
    flags
}

/// The flag that a line of a help text defines.
fn defined(line: &str) -> Option<String> {
    let line = line.trim_start();
    let long = line.strip_prefix("-h, ").unwrap_or(line);
    let name = long.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    // A line of a text may begin with `--flag),`.
    let is_name = name.chars().all(|it| it.is_ascii_lowercase() || it == '-');
    is_name.then(|| format!("--{name}"))
}

pub(super) fn of_all_commands() -> BTreeSet<String> {
    let world = World::new();
    let mut flags = of_command("compile");
    flags.extend(of_command("compile-package"));
    flags.extend(of_command("inspect"));
    flags.extend(["--version", "--help"].map(str::to_owned));
    for action in ["ls", "verify", "prune", "path"] {
        let agent = Agent::bare(&world.path("printed")).args(&["cache", action, "--help"]);
        flags.extend(agent.run().stdout.lines().filter_map(defined));
    }
    flags
}

/// The flags of this program that the document names and that do not exist: those in commands after `bosh-agent`, and those at the
/// start of a text between backticks.
pub(super) fn unknown(document: &Document, known: &BTreeSet<String>) -> Vec<String> {
    let commands = document.commands.iter();
    let arguments = commands.filter_map(|command| Some(command.rsplit_once("bosh-agent")?.1));
    let in_commands = arguments.flat_map(|arguments| arguments.split([' ', ',', '[', ']']));
    let spans = document.code.iter().map(|(_, code)| code.as_str());
    let in_prose = spans.filter_map(|code| code.split([' ', ',']).next());
    in_commands
        .chain(in_prose)
        .filter(|word| word.starts_with("--"))
        .map(|word| word.split('=').next().unwrap_or(word).to_owned())
        .filter(|flag| !known.contains(flag) && !OTHERS.contains(&flag.as_str()))
        .collect()
}

/// The flags that none of the documents names between backticks.
pub(super) fn unexplained(documents: &[&Document], flags: &BTreeSet<String>) -> Vec<String> {
    let spans = documents.iter().flat_map(|it| &it.code);
    let words = spans.flat_map(|(_, code)| code.split([' ', '=', ',']));
    let named: BTreeSet<&str> = words.collect();
    let missing = flags.iter().filter(|it| !named.contains(it.as_str()));
    missing.filter(|it| *it != "--help").cloned().collect()
}

#[test]
fn planted_flags_are_found() {
    let known = BTreeSet::from(["--jobs", "--force"].map(str::to_owned));
    let document = Document::parse(
        "`--jobs N`, `--job=N` and `docker --privileged`\n```sh\ndocker run --rm bosh-agent compile --jobs=1 --forse a.tgz\n```\n",
    );
    assert_eq!(unknown(&document, &known), ["--forse", "--job"]);
    assert_eq!(unexplained(&[&document], &known), ["--force"]);
}

#[test]
fn flags_are_read_from_a_help_text() {
    let lines = [
        "      --jobs <N>  Number",
        "  -h, --help",
        "      --color[=<WHEN>]",
        "text --no",
    ];
    let flags: Vec<String> = lines.iter().filter_map(|line| defined(line)).collect();
    assert_eq!(flags, ["--jobs", "--help", "--color"]);
}
