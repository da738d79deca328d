//! The interface between a running [`Schedule`](super::Schedule), which compiles the packages of a run, and its caller.

use super::error::CompileError;
use super::job::Compiled;
use super::queue::Id;

/// What a running schedule reports.
#[derive(Debug)]
pub enum PackageEvent {
    /// A package was started. The job number in its [`Event`](super::Event)s is `Id::index`.
    Started(Id),
    /// The work on a package has ended. The result is `None` for a package that was already compiled and was only installed.
    Ended(Id, Box<Result<Option<Compiled>, CompileError>>),
    /// A fetch has succeeded or failed; a stopped fetch is not reported. After a failure, the package is compiled, unless the schedule was
    /// stopped.
    Fetched(Id),
}

/// Receives the reports of a running schedule.
pub trait ScheduleCaller: Send {
    /// Takes a report.
    fn on_event(&mut self, event: PackageEvent);

    /// Whether this package is still to be fetched after another package has failed. Such a failure stops the compilation of packages.
    fn still_wants(&self, id: Id) -> bool;
}
