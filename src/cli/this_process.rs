//! This process, for its children and for other agents.

use std::path::PathBuf;

/// The path of this program, for later runs.
pub(super) fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("bosh-agent"))
}

/// The name of this process in the lock file, which another run shows in its error.
pub(super) fn who() -> String {
    let host = nix::unistd::gethostname().map_or_else(
        |_| "an unknown host".to_owned(),
        |name| format!("host `{}`", name.to_string_lossy()),
    );
    format!("process {} on {host}", std::process::id())
}
