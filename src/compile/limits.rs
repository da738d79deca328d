//! The limits of a schedule.

use std::num::NonZeroUsize;

/// If less memory than this is available, in bytes, no script is started while another one runs.
pub const MEMORY_FLOOR: u64 = 256 << 20;

/// How many scripts run concurrently.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The maximum number of concurrent scripts, and of packages that are packed concurrently.
    pub jobs: NonZeroUsize,
    /// If less memory than this is available, in bytes, no script is started while another one runs.
    pub memory_floor: u64,
    /// Whether packages that do not depend on a failed one still start. After a full disk, none does.
    pub keep_going: bool,
}
