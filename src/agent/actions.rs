//! The actions that a Director can request, one file for each method of the protocol; those
//! for disks share a file.
//!
//! Each file has a constant `ACTION`, which describes how the method runs.
//! [`Method`](super::method::Method) lists the files.

pub(super) mod apply;
pub(super) mod bundle_logs;
pub(super) mod cancel_task;
pub(super) mod compile_package;
pub(super) mod compile_package_with_signed_url;
pub(super) mod delete_arp_entries;
mod disks;
pub(super) mod drain;
pub(super) mod fetch_logs;
pub(super) mod fetch_logs_with_signed_url;
pub(super) mod get_state;
pub(super) mod get_task;
pub(super) mod info;
pub(super) mod list_disk;
pub(super) mod ping;
pub(super) mod prepare;
pub(super) mod remove_file;
pub(super) mod run_errand;
pub(super) mod run_script;
pub(super) mod shutdown;
pub(super) mod ssh;
pub(super) mod start;
pub(super) mod stop;
pub(super) mod sync_dns;
pub(super) mod sync_dns_with_signed_url;
pub(super) mod update_settings;
pub(super) mod upload_blob;

use std::error::Error as StdError;

use futures_util::future::BoxFuture;
use serde_json::Value;

pub(super) use disks::{
    add_dynamic_disk, add_persistent_disk, migrate_disk, mount_disk, remove_dynamic_disk,
    remove_persistent_disk, unmount_disk,
};

use super::Agent;
use super::arguments::ArgumentError;
use super::tasks::{Cancellation, TaskContext, TaskError};

/// How a method runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// The reply contains the result. Other requests are handled meanwhile, so the function must not
    /// block the thread.
    Immediate(RunImmediate),
    /// The reply contains the ID of a task. `get_task` returns the task's result.
    Task {
        /// The function that does the work.
        run: RunTask,
        /// Whether `cancel_task` stops it.
        cancellation: Cancellation,
        /// Whether the agent runs the task again after a restart that interrupted it. If not, the
        /// task is reported as failed.
        resumes: bool,
    },
}

pub(super) type RunImmediate = for<'a> fn(&'a Agent, &'a [Value]) -> BoxFuture<'a, ActionResult>;

pub(super) type RunTask =
    for<'a> fn(&'a Agent, &'a [Value], &'a TaskContext) -> BoxFuture<'a, ActionResult>;

pub(super) type ActionResult = Result<Value, ActionError>;

/// Why an action failed. The reply contains the text of the error, followed by the texts of its
/// sources.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct ActionError(Box<dyn StdError + Send + Sync>);

impl ActionError {
    pub(super) fn new(error: impl StdError + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }

    /// The error, if it has this type.
    pub(super) fn find<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl From<ArgumentError> for ActionError {
    fn from(error: ArgumentError) -> Self {
        Self::new(error)
    }
}

impl From<TaskError> for ActionError {
    fn from(error: TaskError) -> Self {
        Self::new(error)
    }
}
