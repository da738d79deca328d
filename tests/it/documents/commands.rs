//! The commands of guides, executed as a reader would; and the messages that guides quote.

use std::path::Path;
use std::process::Command;

use super::markdown::Document;
use crate::support::{ReleaseBuilder, World, copied_agent, mount_at_var_vcap};

/// The first words of commands that need more than this program. Tests in `integration/` run those of docker and of the stemcell.
const ELSEWHERE: [&str; 3] = ["docker", "bosh", "packaging-scripts/stemcell/repack"];

/// Runs all commands of the page for this program, one after another in one directory, which has the releases that the page names.
pub(super) fn run(page: &str, document: &Document) {
    let world = World::outside_tmp();
    let directory = world.path("reader");
    std::fs::create_dir_all(directory.join("releases")).unwrap();
    let release = ReleaseBuilder::new("release", "1")
        .package("app", &[], "echo app >$BOSH_INSTALL_TARGET/app")
        .job("app", &["app"]);
    for name in ["release.tgz", "releases/release.tgz"] {
        release.write(&directory.join(name));
    }
    copied_agent(&directory);
    for place in ["vcap", "var"] {
        std::fs::create_dir(world.path(place)).unwrap();
    }
    let mut count = 0;
    for command in document.shell.iter().filter(|it| !it.is_empty()) {
        let program = command.split(' ').next().unwrap();
        if ELSEWHERE.contains(&program) {
            continue;
        }
        assert_eq!(program, "bosh-agent", "{page}: {command}");
        execute(page, command, &world, &directory);
        count += 1;
    }
    assert!(count > 0, "{page} has no commands");
}

fn execute(page: &str, command: &str, world: &World, directory: &Path) {
    let script = mount_at_var_vcap(&world.path("var"), &world.path("vcap")) + command;
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
fn planted_messages_are_found() {
    let page =
        "| message | cause |\n|---|---|\n| `a b`, `c` | x |\n| a Director: `d` | x |\n\n`e`\n";
    assert_eq!(unknown_messages(page, "some a b"), ["c"]);
}
