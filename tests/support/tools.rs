//! The system's tools, optional features of a machine, and waiting.

use std::ffi::OsStr;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whether a test can run here. If not, prints the reason and the test passes, except with `BOSH_AGENT_TEST_REQUIRE_ALL`, set where
/// everything is installed: then the test fails.
pub(crate) fn require(is_there: bool, what: &str) -> bool {
    if !is_there {
        skip(&format!(
            "this test needs {what}, which this machine does not have"
        ));
    }
    is_there
}

/// Prints why a test is skipped, or fails it; see [`require`].
#[expect(clippy::print_stdout, reason = "a skipped test must be visible")]
#[track_caller]
pub(crate) fn skip(reason: &str) {
    assert!(
        std::env::var_os("BOSH_AGENT_TEST_REQUIRE_ALL").is_none(),
        "{reason}"
    );
    println!("skipped: {reason}");
}

/// Whether these tools are installed; see [`require`].
pub(crate) fn require_tools(tools: &[&str]) -> bool {
    tools.iter().all(|tool| {
        let places = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&places)
            // Debian's directory of servers, which is not in the PATH of ordinary users.
            .chain([PathBuf::from("/usr/sbin")])
            .any(|directory| directory.join(tool).is_file());
        require(found, &format!("the tool `{tool}`"))
    })
}

/// Whether the test runs as root; see [`require`].
pub(crate) fn require_root() -> bool {
    require(nix::unistd::geteuid().is_root(), "root's rights")
}

/// Whether the kernel has the features of Landlock that scripts need; see [`require`].
pub(crate) fn require_landlock() -> bool {
    use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V2))
        .and_then(Ruleset::create);
    require(ruleset.is_ok(), "Landlock")
}

/// Whether Landlock can prevent signals to other processes; see [`require`].
pub(crate) fn require_landlock_scopes() -> bool {
    use landlock::{ABI, Access, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::from_all(ABI::V6))
        .and_then(Ruleset::create);
    require(ruleset.is_ok(), "Landlock's scopes, of Linux 6.12")
}

/// Runs a tool that must succeed, and returns its output.
pub(crate) fn run_tool(tool: &str, arguments: &[impl AsRef<OsStr>]) -> String {
    String::from_utf8_lossy(&run_tool_with(tool, arguments, b"")).into_owned()
}

/// Runs a tool that must succeed, with an input.
pub(crate) fn run_tool_with(tool: &str, arguments: &[impl AsRef<OsStr>], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(tool);
    command.args(arguments).env("TZ", "UTC").env("LC_ALL", "C");
    with_input(command, input)
}

/// Runs a command that must succeed, with an input.
pub(crate) fn with_input(mut command: Command, input: &[u8]) -> Vec<u8> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown} cannot be started: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A tool may exit without reading its input.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(
        output.status.success(),
        "{shown} failed with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Waits until `look` returns `Ok`. Fails with its last error when the time is up.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(status) => assert!(
                start.elapsed() < limit,
                "waited {limit:?} for {what}, at last: {status}"
            ),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits up to a minute until `is_so` returns true.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, Duration::from_secs(60), || {
        is_so()
            .then_some(())
            .ok_or_else(|| "it is not so".to_owned())
    });
}

/// A port on which no process listens.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
