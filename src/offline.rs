//! `bosh-agent compile`: source releases in, compiled releases out.
//!
//! ```text
//! open        one pass over each tarball: manifest read, blobs to disk while they are hashed
//! inspect     what a release says against what its tarball holds: every problem, not the first
//! select      what is to be done with each: compile, pass on, leave; whose output goes where
//! releases    the packages of a release, one after another, through `compile`
//! assemble    the compiled release: written beside its place, read back, renamed
//! progress    what a person sees while it works
//! report      what a person is told when it failed
//! ```
//!
//! Nothing of a release is compiled before all releases of the call have been found to be in order.

mod assemble;
mod error;
mod inspect;
mod isolation;
mod open;
mod outputs;
mod progress;
mod releases;
mod report;
mod run;
mod select;
mod space;
mod stemcell;
mod verify;
mod workplace;

pub use error::OfflineError;
pub use isolation::Isolation;
pub use progress::Progress;
pub use report::report;
pub use run::{Options, run};
