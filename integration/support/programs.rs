//! Programs that tests need, ports for them, and waiting.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Whether the programs are there that these tests need. With `BOSH_AGENT_TEST_REQUIRE_ALL` in the environment a
/// missing one is a failure.
pub(crate) fn require(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let places = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&places)
            // Where Debian puts servers, which is not in everybody's path.
            .chain([PathBuf::from("/usr/sbin")])
            .any(|directory| directory.join(program).is_file());
        if !found {
            assert!(
                std::env::var_os("BOSH_AGENT_TEST_REQUIRE_ALL").is_none(),
                "this test needs {program}"
            );
            eprintln!("skipped: this test needs {program}");
        }
        found
    })
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
