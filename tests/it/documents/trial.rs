//! The trial of the daemon's page, executed as a reader would.

use std::process::Command;

use crate::support::{World, copied_agent};

/// The lines of the section's blocks for a shell, as they are in the page.
pub(super) fn script(page: &str, heading: &str) -> String {
    let start = page.find(&format!("\n{heading}\n")).expect(heading) + 1;
    let section = &page[start + heading.len()..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let mut is_shell = false;
    let mut script = String::new();
    for line in section.lines() {
        match line {
            "```sh" => is_shell = true,
            "```" => is_shell = false,
            _ if is_shell => script.extend([line, "\n"]),
            _ => {}
        }
    }
    script
}

/// Runs the script in a network of its own, as its ports may be in use. Its processes end with it.
pub(super) fn run(script: &str) {
    let world = World::outside_tmp();
    let directory = world.path("reader");
    std::fs::create_dir(&directory).unwrap();
    copied_agent(&directory);
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["bash", "-euc", &format!("ip link set lo up\n{script}")])
        .current_dir(&directory)
        .env("PATH", format!("{}:{path}", directory.display()))
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let log = std::fs::read_to_string(directory.join("agent-trial/agent.log")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}\n{stdout}{stderr}{log}",
        output.status
    );
    assert!(stdout.contains("\"value\": \"pong\""), "{stdout}");
    assert!(stdout.ends_with("\nhello\n"), "{stdout}");
}

#[test]
fn script_of_a_section_keeps_its_indentation() {
    let page = "\n## A\n\n```sh\na\n  b\n```\ntext\n```json\nc\n```\n```sh\nd\n```\n\n## B\n```sh\ne\n```\n";
    assert_eq!(script(page, "## A"), "a\n  b\nd\n");
    assert_eq!(script(page, "## B"), "e\n");
}
