//! Compiles packages: runs the packaging script of a package with its direct dependencies, and packs the installed files into a blob.
//!
//! The input is a [`Job`] (plain data) and a [`Context`] (the sandbox, the store and settings). The result is a [`Compiled`]. This module
//! does not depend on its caller: it prints nothing, does not read the environment, and gets every path as an argument.
//!
//! ```text
//! plan (no I/O) → unpack the source → make the dependencies available → run the script → move the installed files into the store
//!               → pack and hash them
//! ```
//!
//! The *store* holds the installed packages for their dependents. The directory of an installed package is its *tree*. A tree is *sealed*
//! before dependents use it: its files get the owners and times that they would have after unpacking the compiled blob. Then the state of
//! its files is saved in a *record*, with which the tree is compared later.
//!
//! A good place to start reading is [`compile()`]. A [`Schedule`] compiles all packages of a run.

mod across;
mod caller;
mod changed;
mod check;
mod content;
mod context;
mod denials;
mod elf;
mod error;
mod error_line;
mod event;
mod filling;
mod finding;
mod forecast;
mod install;
mod installed;
mod job;
mod kept;
mod limits;
mod origin;
mod package;
mod pipeline;
mod plan;
mod printed;
mod protected;
mod queue;
mod references;
mod schedule;
mod scratch;
mod script_file;
mod script_runs;
mod seal;
mod second_run;
mod shell;
mod small_files;
mod source_date;
mod step_log;
mod stopping;
mod store;
mod turns;
mod undeclared;
mod work_directory;

pub use caller::{PackageEvent, ScheduleCaller};
pub use changed::{Changed, RestoreError};
pub use content::{CONTENT_FORM, content_digest};
pub use context::{Context, ScriptLines};
pub use denials::Denial;
pub use error::{Cause, CompileError, ScriptFailure};
pub(crate) use error_line::{find_error, find_error_in};
pub use event::{Event, Phase};
pub use finding::Finding;
pub use forecast::ForecastStep;
pub use install::install_compiled;
pub use installed::Installed;
pub use job::{Compiled, Dependency, Job};
pub use kept::{Keep, Kept, KeptError, KeptSettings, kept_dependency};
pub use limits::{Limits, MEMORY_FLOOR};
pub use origin::{Fetch, FetchedBlob, Origin, Source};
pub use package::compile;
pub use plan::{Plan, Surroundings};
pub use printed::PrintedLine;
pub use queue::{Claim, Graph, Holds, Id, Queue, Supply};
pub use references::{Reference, ReferenceKind};
pub use schedule::{Package, Schedule};
pub use script_runs::Suspects;
pub use second_run::{FirstRun, SecondRun, first_log};
pub use shell::{FailedRun, Shell, ShellWhen, Shells};
pub use source_date::{SOURCE_DATE_EPOCH, SourceDate, SourceDateError, SourceDates};
pub(crate) use stopping::Stopping;
pub use store::Store;
pub use work_directory::WorkDirectory;
