//! The commands of guides, executed as a reader would; and the messages that guides quote.

use std::path::Path;
use std::process::Command;

use super::markdown::Document;
use crate::support::{ReleaseBuilder, World, copied_agent, mount_at_var_vcap};

/// The first words of commands that need more than this program, and the files with the tests that run them, with the code that does it.
const ELSEWHERE: [(&str, &str, &str); 2] = [
    (
        "docker",
        "integration/containers/pipelines.rs",
        "it.starts_with(\"docker run\")",
    ),
    (
        "packaging-scripts/stemcell/repack",
        "integration/compilation_vm/containers/repacked.rs",
        "join(\"packaging-scripts/stemcell/repack\")",
    ),
];

/// The first words of commands that no test runs, and why.
const UNTESTED: [(&str, &str); 2] = [
    ("bosh", "it needs a Director"),
    ("cosign", "Debian has no package of it"),
];

/// The words before the names of files that a command of another program reads.
const INPUTS: [&str; 2] = ["--statement", "--predicate"];

/// The stemcell of the machine on which the commands run.
const OS_RELEASE: &str = "ID=ubuntu\nVERSION_CODENAME=noble\n";

/// Runs all commands of the page for this program, one after another in one directory, which has the releases that the page names. Commands
/// of other programs can at least find the files that they read.
pub(super) fn run(page: &str, document: &Document) {
    let world = World::outside_tmp();
    let directory = world.path("reader");
    std::fs::create_dir_all(directory.join("releases")).unwrap();
    for (file, name, version) in [
        ("release.tgz", "release", "1"),
        ("releases/release.tgz", "release", "1"),
        ("redis-15.tgz", "redis", "15"),
    ] {
        let release = ReleaseBuilder::new(name, version)
            .package("app", &[], "echo app >$BOSH_INSTALL_TARGET/app")
            .job("app", &["app"]);
        release.write(&directory.join(file));
    }
    copied_agent(&directory);
    std::fs::create_dir(world.path("var")).unwrap();
    world.write("vcap/bosh/etc/stemcell_version", "1.406");
    world.write("os-release", OS_RELEASE);
    let mut count = 0;
    for command in document.shell.iter().filter(|it| !it.is_empty()) {
        let program = command.split(' ').next().unwrap();
        if is_of_another(program) {
            for input in inputs(command) {
                assert!(directory.join(input).exists(), "{page}: {command}: {input}");
            }
            continue;
        }
        assert_eq!(program, "bosh-agent", "{page}: {command}");
        execute(page, command, &world, &directory);
        count += 1;
    }
    assert!(count > 0, "{page} has no commands");
}

fn is_of_another(program: &str) -> bool {
    let elsewhere = ELSEWHERE.iter().map(|(name, ..)| *name);
    let untested = UNTESTED.iter().map(|(name, _)| *name);
    elsewhere.chain(untested).any(|name| name == program)
}

/// The files that a command of cosign reads and that commands before it have written.
fn inputs(command: &str) -> Vec<&str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    if words[0] != "cosign" {
        return Vec::new();
    }
    let named = words.windows(2).filter(|pair| INPUTS.contains(&pair[0]));
    let subject = words.last().filter(|word| word.ends_with(".tgz"));
    named.map(|pair| pair[1]).chain(subject.copied()).collect()
}

fn execute(page: &str, command: &str, world: &World, directory: &Path) {
    let mounts = mount_at_var_vcap(&world.path("var"), &world.path("vcap"));
    let stemcell = world.path("os-release");
    let script = format!(
        "{mounts}mount --bind {} /etc/os-release || exit 9\n{command}",
        stemcell.display()
    );
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "bash", "-c", &script])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", directory.display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{page}: {command}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The texts between backticks in the first column of the table of messages that are in none of these texts.
pub(super) fn unknown_messages(page: &str, texts: &str) -> Vec<String> {
    let (_, table) = page.split_once("| message | cause |").unwrap();
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    let messages = rows
        .filter(|row| !row.starts_with("| a Director"))
        .flat_map(|row| {
            let cell = row.split('|').nth(1).unwrap();
            cell.split('`').skip(1).step_by(2)
        });
    messages
        .filter(|message| !texts.contains(message))
        .map(str::to_owned)
        .collect()
}

#[test]
fn commands_of_other_programs_have_tests_or_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (program, file, code) in ELSEWHERE {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(code), "{file} does not run {program}");
    }
    // The page says what its reader cannot rely on.
    let page = std::fs::read_to_string(root.join("docs/supply-chain.md")).unwrap();
    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("No test of this project runs these commands"));
}

#[test]
fn inputs_of_a_command_are_found() {
    let command = "cosign attest-blob --predicate a.json --key b --bundle c a.tgz";
    assert_eq!(inputs(command), ["a.json", "a.tgz"]);
    assert_eq!(inputs("bosh upload-release a.tgz"), [""; 0]);
}

#[test]
fn planted_messages_are_found() {
    let page =
        "| message | cause |\n|---|---|\n| `a b`, `c` | x |\n| a Director: `d` | x |\n\n`e`\n";
    assert_eq!(unknown_messages(page, "some a b"), ["c"]);
}
