//! The log for those who look into the program itself. What a user is told goes another way (`offline::progress`).

use std::ffi::OsStr;

use tracing_subscriber::EnvFilter;

/// Sends log lines to stderr. `level` is the value of `BOSH_AGENT_LOG`, such as `debug` or `bosh_agent::compile=trace`;
/// without it only warnings and errors are shown.
pub fn init(level: Option<&OsStr>) {
    let filter = level
        .and_then(OsStr::to_str)
        .and_then(|level| EnvFilter::try_new(level).ok())
        .unwrap_or_else(|| EnvFilter::new("warn"));
    // A second call, in tests, keeps the first log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
