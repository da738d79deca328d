//! Stops the tasks of a schedule. A cancellation stops all tasks. A failure stops builds, packing, and the fetches of packages that the
//! caller no longer wants.

use std::collections::HashMap;

use tokio_util::sync::CancellationToken;

use super::caller::ScheduleCaller;
use super::error::CompileError;
use super::queue::Id;

/// The tokens that stop the tasks of a schedule.
pub(super) struct Stopping<'a> {
    /// Stops all tasks.
    all: &'a CancellationToken,
    /// Stops the tasks that build and pack.
    builds: CancellationToken,
    /// The token of each running fetch.
    fetches: HashMap<Id, CancellationToken>,
    /// Whether other packages still start after a failure.
    keep_going: bool,
}

impl<'a> Stopping<'a> {
    pub(super) fn new(all: &'a CancellationToken, keep_going: bool) -> Self {
        Self {
            all,
            builds: all.child_token(),
            fetches: HashMap::new(),
            keep_going,
        }
    }

    pub(super) fn builds(&self) -> &CancellationToken {
        &self.builds
    }

    /// Stops builds and packing after a failure, unless `keep_going` is set. If the disk is full, stops all tasks in any case.
    pub(super) fn handle_failure(&self, failure: &CompileError) {
        if failure.is_no_space() {
            self.all.cancel();
        } else if !self.keep_going {
            self.builds.cancel();
        }
    }

    /// Creates the token of a fetch that starts.
    pub(super) fn fetch_started(&mut self, id: Id) -> CancellationToken {
        let token = self.all.child_token();
        self.fetches.insert(id, token.clone());
        token
    }

    /// Records the end of a fetch. Returns whether it had been stopped.
    pub(super) fn fetch_ended(&mut self, id: Id) -> bool {
        let token = self.fetches.remove(&id);
        token.is_some_and(|token| token.is_cancelled())
    }

    /// Whether the blob of a package is still to be fetched.
    pub(super) fn wants_fetch(&self, id: Id, caller: &dyn ScheduleCaller) -> bool {
        match self.builds.is_cancelled() {
            false => true,
            true => !self.all.is_cancelled() && caller.still_wants(id),
        }
    }

    /// Stops the running fetches of packages that the caller no longer wants.
    pub(super) fn stop_unwanted_fetches(&self, caller: &dyn ScheduleCaller) {
        for (id, token) in &self.fetches {
            if !self.wants_fetch(*id, caller) {
                token.cancel();
            }
        }
    }
}
