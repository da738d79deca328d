//! Keeps a list of the children that this process supervises, and kills orphans: descendants of a
//! dead child, which the kernel makes children of this process.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;

use super::tree;

/// The supervised children.
static SUPERVISED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// An entry in the list of supervised children. Dropping it removes the child from the list.
#[derive(Debug)]
pub(super) struct Known(Option<Pid>);

impl Known {
    /// Starts a child while holding the lock of the list. Otherwise, `end_orphans` could run before
    /// the child is in the list, and kill it as an orphan.
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

/// Makes this process the subreaper: if a child dies before its script, the script becomes a child
/// of this process.
///
/// # Errors
/// The error of the system.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Kills the orphans.
pub(crate) fn end_orphans() {
    tree::kill_orphans(&supervised());
}

/// Kills all descendants, including supervised children, and waits at most `limit` for their end.
/// Use this only right before the exit, because it reaps children that other tasks wait for.
pub(crate) fn kill_all_below(limit: Duration) {
    tree::kill_all(limit, |_, _| {});
}
