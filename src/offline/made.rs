//! A package that was compiled in this run, for caches.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::compiled_release::CompiledBlob;

/// A package that was compiled in this run.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub blob: Arc<CompiledBlob>,
    pub log: PathBuf,
    pub elapsed: Duration,
    pub is_unrestricted: bool,
    pub last_lines: Vec<String>,
    pub warnings: Vec<String>,
}
