//! Stops the tasks of a schedule. A cancellation stops all tasks. A failure stops builds, packing, and the fetches of packages that the
//! caller no longer wants.

use std::collections::HashMap;

use tokio_util::sync::CancellationToken;

use super::queue::Id;

/// The tokens that stop the tasks of a schedule.
#[derive(Debug)]
pub(crate) struct Stopping<'a> {
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
    pub(crate) fn new(all: &'a CancellationToken, keep_going: bool) -> Self {
        Self {
            all,
            builds: all.child_token(),
            fetches: HashMap::new(),
            keep_going,
        }
    }

    pub(crate) fn builds(&self) -> &CancellationToken {
        &self.builds
    }

    /// Stops builds and packing after a failure, unless `keep_going` is set. If the disk is full, stops all tasks in any case.
    pub(crate) fn handle_failure(&self, is_no_space: bool) {
        if is_no_space {
            self.stop_all();
        } else if !self.keep_going {
            self.stop_builds();
        }
    }

    pub(crate) fn stop_all(&self) {
        self.all.cancel();
    }

    pub(crate) fn stop_builds(&self) {
        self.builds.cancel();
    }

    /// Creates the token of a fetch that starts.
    pub(crate) fn fetch_started(&mut self, id: Id) -> CancellationToken {
        let token = self.all.child_token();
        self.fetches.insert(id, token.clone());
        token
    }

    /// Records the end of a fetch. Returns whether it had been stopped.
    pub(crate) fn fetch_ended(&mut self, id: Id) -> bool {
        let token = self.fetches.remove(&id);
        token.is_some_and(|token| token.is_cancelled())
    }

    /// Whether the blob of a package is still to be fetched. After a failure, the caller decides.
    pub(crate) fn wants_fetch(&self, id: Id, still_wants: impl Fn(Id) -> bool) -> bool {
        match self.builds.is_cancelled() {
            false => true,
            true => !self.all.is_cancelled() && still_wants(id),
        }
    }

    /// Stops the running fetches of packages that the caller no longer wants.
    pub(crate) fn stop_unwanted_fetches(&self, still_wants: impl Fn(Id) -> bool) {
        if !self.builds.is_cancelled() {
            return;
        }
        for (id, token) in &self.fetches {
            if !self.wants_fetch(*id, &still_wants) {
                token.cancel();
            }
        }
    }
}
