//! A package that was compiled in this run, as far as caches need it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::compiled_release::CompiledBlob;

/// A package that was compiled in this run, and that caches can store.
#[derive(Debug, Clone)]
pub(super) struct Storable {
    pub blob: Arc<CompiledBlob>,
    pub log: PathBuf,
    pub elapsed: Duration,
    pub is_unrestricted: bool,
    pub last_lines: Vec<String>,
    pub warnings: Vec<String>,
}
