//! The limits of a schedule, that is, of the compilation of all packages of a run.

use std::num::NonZeroUsize;

/// The default of [`Limits::memory_floor`].
pub const MEMORY_FLOOR: u64 = 256 << 20;

/// Limits the scripts that run concurrently, and decides what happens after a failure.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The maximum number of concurrent scripts, and of packages that are packed concurrently.
    pub jobs: NonZeroUsize,
    /// If less memory than this is available, in bytes, no script is started while another one runs.
    pub memory_floor: u64,
    /// Whether packages still start after another package has failed, if they do not depend on it. If the disk is full, no package starts.
    pub keep_going: bool,
}
