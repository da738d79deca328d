//! `bosh-agent compile`: source releases in, compiled releases out.
//!
//! ```text
//! open        one pass over each tarball: manifest read, blobs to disk while they are hashed
//! lookalike   what was given instead of a release
//! clutter     files that operating systems leave in tarballs
//! jobs        what a Director checks of job blobs
//! inspect     what a release says against what its tarball holds: every problem, not the first
//! select      what is to be done with each: compile, pass on, leave; whose output goes where
//! identity    which source blobs count as the same
//! graph       the packages of all releases, each once
//! release     one release: its packages, where they are, what it becomes
//! releases    the packages of all through `compile`, several at a time; each release assembled when its last package is done
//! durations   how long packages took before
//! assemble    the compiled release: written beside its place, read back, renamed
//! progress    what a person sees while it works
//! failure     what has become of the packages when it failed
//! report      what a person is told then
//! ```
//!
//! Nothing of a release is compiled before all releases of the call have been found to be in order.

mod assemble;
mod changed;
mod clutter;
mod durations;
mod error;
mod failure;
mod graph;
mod identity;
mod inspect;
mod isolation;
mod jobs;
mod lookalike;
mod open;
mod outputs;
mod progress;
mod release;
mod releases;
mod report;
mod run;
mod second_run;
mod select;
mod space;
mod stemcell;
#[cfg(test)]
mod texts;
mod verify;
mod workplace;

pub use error::OfflineError;
pub use failure::{Incomplete, PackageFailure, UnfinishedRelease};
pub use isolation::Isolation;
pub use progress::Progress;
pub use report::report;
pub use run::{Options, run};
