//! The path of this program, and the name of this process in error messages of other runs.

use std::path::PathBuf;

/// The path of this program's file.
pub(super) fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("bosh-agent"))
}

/// The name of this process in the lock file. Another run shows it in the error that the lock is held.
pub(super) fn who() -> String {
    let host = nix::unistd::gethostname().map_or_else(
        |_| "an unknown host".to_owned(),
        |name| format!("host `{}`", name.to_string_lossy()),
    );
    format!("process {} on {host}", std::process::id())
}
