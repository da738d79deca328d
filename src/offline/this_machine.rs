//! The parts of a run that are needed to set up the compilation on this machine, at its start or after a server was given up.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::call_record::CallRecord;
use super::options::Options;
use super::progress::Progress;
use crate::compile::WorkDirectory;
use crate::release::Slug;

/// The parts of a run from which the compiler of this machine is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThisMachine<'a> {
    pub options: &'a Options,
    pub stemcell: &'a Slug,
    pub work_directory: &'a WorkDirectory,
    pub progress: &'a Arc<Progress>,
    pub record: &'a Arc<CallRecord>,
    pub cancel: &'a CancellationToken,
}
