//! Shell completions and manual pages, used by real shells and by `man`.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Agent, World, require_tools};

/// What the program prints with these arguments.
#[track_caller]
fn printed(arguments: &[&str]) -> String {
    output(env!("CARGO_BIN_EXE_bosh-agent"), arguments)
}

/// Writes the completions of a shell to a file of a new world.
fn completions(shell: &str) -> (World, String) {
    let world = World::new();
    let path = world.path("completions");
    std::fs::write(&path, printed(&["completions", shell])).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (world, path)
}

#[track_caller]
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    check(&output);
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn check(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
}

/// The completions that bash finds for the last of these words.
fn in_bash(words: &[&str]) -> Vec<String> {
    const SCRIPT: &str = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
        \"$(complete -p bosh-agent | sed 's/.*-F \\([^ ]*\\).*/\\1/')\" bosh-agent \"${@: -1}\" \"${@: -2:1}\"; \
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let (_world, file) = completions("bash");
    let arguments = [&["--norc", "-c", SCRIPT, "bash", &file], words].concat();
    let found = output("bash", &arguments);
    found.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_values_and_files() {
    let commands = in_bash(&["bosh-agent", "comp"]);
    assert_eq!(commands, ["compile", "compile-package", "completions"]);
    let flags = in_bash(&["bosh-agent", "compile", "--cache-"]);
    assert!(flags.contains(&"--cache-dir".to_owned()), "{flags:?}");
    let values = in_bash(&["bosh-agent", "compile", "--isolation", "name"]);
    assert_eq!(values, ["namespace"]);
    let flags = in_bash(&["bosh-agent", "cache", "prune", "--max"]);
    assert_eq!(flags, ["--max-size"]);
    let shells = in_bash(&["bosh-agent", "completions", "z"]);
    assert_eq!(shells, ["zsh"]);
    let pages = in_bash(&["bosh-agent", "man", "insp"]);
    assert_eq!(pages, ["inspect"]);
    // Without a candidate, `-o default` completes files.
    let (_world, file) = completions("bash");
    let script = "source \"$1\"; complete -p bosh-agent";
    let setting = output("bash", &["--norc", "-c", script, "bash", &file]);
    assert!(setting.contains("-o default"), "{setting}");
    let tarballs = in_bash(&["bosh-agent", "compile", ""]);
    assert!(!tarballs.iter().any(|it| it.contains('<')), "{tarballs:?}");
}

#[test]
fn fish_completes_commands_flags_and_values() {
    if !require_tools(&["fish"]) {
        return;
    }
    let (world, file) = completions("fish");
    let complete = |line: &str| {
        let script = format!("source {file}; complete -C '{line}'");
        let output = Command::new("fish")
            .args(["--no-config", "-c", &script])
            .env("HOME", world.path("home"))
            .output()
            .unwrap();
        check(&output);
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text
            .lines()
            .map(|line| line.split('\t').next().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    std::fs::create_dir_all(world.path("home")).unwrap();
    let commands = complete("bosh-agent comp");
    assert_eq!(commands, ["compile", "compile-package", "completions"]);
    let flags = complete("bosh-agent compile --cache-m");
    assert_eq!(flags, ["--cache-max-size"]);
    let values = complete("bosh-agent compile --isolation name");
    assert_eq!(values, ["namespace"]);
}

#[test]
fn zsh_loads_the_completions() {
    if !require_tools(&["zsh"]) {
        return;
    }
    let (_world, file) = completions("zsh");
    let script = "autoload -U compinit; compinit -D -u; source \"$1\"; print $_comps[bosh-agent]; print $+functions[_bosh-agent]";
    let found = output("zsh", &["-f", "-c", script, "zsh", &file]);
    assert_eq!(found, "_bosh-agent\n1\n");
}

/// Renders a manual page. It must have no warnings.
fn rendered(page: &Path) -> String {
    let output = Command::new("man")
        .args(["--warnings", "--no-hyphenation", "--local-file"])
        .arg(page)
        .env("MANWIDTH", "200")
        .env("LC_ALL", "C.UTF-8")
        .env("MAN_KEEP_FORMATTING", "")
        .output()
        .unwrap();
    check(&output);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn man_renders_all_pages_without_warnings() {
    if !require_tools(&["man", "groff"]) {
        return;
    }
    let world = World::new();
    let page = |arguments: &[&str]| {
        let path = world.path("page.1");
        std::fs::write(&path, printed(arguments)).unwrap();
        rendered(&path)
    };
    let main = page(&["man"]);
    let named = main.split_whitespace().filter_map(|word| {
        word.trim_end_matches(',')
            .strip_prefix("bosh-agent-")?
            .strip_suffix("(1)")
    });
    let named: Vec<&str> = named.collect();
    assert!(named.contains(&"compile"), "{main}");
    for command in named.into_iter().filter(|it| *it != "help") {
        let text = page(&["man", command]);
        let names: Vec<String> = match command {
            "completions" | "man" | "enter" => Vec::new(),
            _ => flags_of(command),
        };
        for flag in names {
            assert!(
                text.contains(&flag),
                "{flag} is not in the page of {command}: {text}"
            );
        }
    }
}

/// The flags in the help of a command.
fn flags_of(command: &str) -> Vec<String> {
    let help = printed(&[command, "--help"]);
    let words = help.split_whitespace().filter(|it| it.starts_with("--"));
    let flags = words.map(|it| it.trim_end_matches(|last: char| !last.is_ascii_alphanumeric()));
    flags
        .map(|it| it.split(['=', '[']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn unknown_shells_and_pages_are_usage_errors() {
    let world = World::new();
    let agent = |arguments: &[&str]| Agent::bare(&world.path("printed")).args(arguments).run();
    agent(&["completions", "tcsh"])
        .ends_with(2)
        .says("no completions for `tcsh`");
    agent(&["completions"])
        .ends_with(2)
        .says("expected one shell");
    agent(&["man", "compil"])
        .ends_with(2)
        .says("did you mean `compile`?");
}
