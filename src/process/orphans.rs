//! The processes that this process supervises, and the orphans that it adopts.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;

use super::tree;

/// The supervised children.
static SUPERVISED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// An entry in the list of supervised children; dropping it removes the child.
#[derive(Debug)]
pub(super) struct Known(Option<Pid>);

impl Known {
    /// Starts a child while holding the lock of the list: otherwise `end_orphans` could run before
    /// the child is in the list and kill it as an orphan.
    pub(super) fn start<P, E>(
        start: impl FnOnce() -> Result<(P, Option<Pid>), E>,
    ) -> Result<(P, Self), E> {
        let mut supervised = supervised();
        let (process, id) = start()?;
        supervised.extend(id);
        Ok((process, Self(id)))
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        supervised().retain(|process| Some(*process) != self.0);
    }
}

fn supervised() -> MutexGuard<'static, Vec<Pid>> {
    SUPERVISED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the subreaper of processes that a child leaves if it dies before its script.
///
/// # Errors
/// What the system answered.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Kills the orphans that this process adopted from children that died.
pub(crate) fn end_orphans() {
    tree::kill_orphans(&supervised());
}

/// Kills all descendants, supervised children included, and waits for their end for at most
/// `limit`. Only for use right before the exit: it reaps children that other tasks wait for.
pub(crate) fn kill_all_below(limit: Duration) {
    tree::kill_all(limit, |_, _| {});
}
