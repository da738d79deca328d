//! The caller of a running schedule.

use super::error::CompileError;
use super::job::Compiled;
use super::queue::Id;

/// What a running schedule reports.
#[derive(Debug)]
pub enum PackageEvent {
    /// A package was started. Its [`Event`](super::Event)s carry the id's index as number.
    Started(Id),
    /// A package has ended; `None` for a package that was compiled before and only installed.
    Ended(Id, Box<Result<Option<Compiled>, CompileError>>),
    /// Fetching a package has ended by itself. If it was not fetched, the package is compiled, unless the schedule was stopped.
    Fetched(Id),
}

/// The caller of a running schedule.
pub trait ScheduleCaller: Send {
    /// Takes a report.
    fn hear(&mut self, event: PackageEvent);

    /// Whether a package that can be fetched is still needed, although nothing more is compiled after a failure.
    fn still_wants(&self, id: Id) -> bool;
}
