//! The interface between a running [`Schedule`](super::Schedule), which compiles the packages of a run, and its caller.

use super::error::CompileError;
use super::job::Compiled;
use super::queue::Id;

/// What a running schedule reports.
#[derive(Debug)]
pub enum PackageEvent {
    /// A package was started. The [`Event`](super::Event)s of the package carry `Id::index` as their job number.
    Started(Id),
    /// A package has ended. The result is `None` for a package that was compiled before and only installed.
    Ended(Id, Box<Result<Option<Compiled>, CompileError>>),
    /// A fetch has ended without being stopped. If it failed, the package is compiled, unless the schedule was stopped.
    Fetched(Id),
}

/// Receives the reports of a running schedule.
pub trait ScheduleCaller: Send {
    /// Takes a report.
    fn hear(&mut self, event: PackageEvent);

    /// Whether to fetch this package even after a failure, when no further package is compiled.
    fn still_wants(&self, id: Id) -> bool;
}
