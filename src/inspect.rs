//! `bosh-agent inspect`: what a release tarball holds, and everything that a Director, the CLI or an agent would refuse or silently handle
//! wrongly.
//!
//! ```text
//! run           one inspection
//!  ├─ read        one pass over the tarball: the manifest, and the facts of each blob (module `blob`)
//!  ├─ manifest    release.MF alone (unquoted: what Directors read differently; versions)
//!  ├─ check       release.MF against the tarball
//!  ├─ stemcell    would a Director use the packages there (--stemcell)
//!  ├─ source      does the release come from this source release (--source)
//!  └─ rules       the codes of findings, with their consequences
//! table, json   the result, for people and for programs
//! ```
//!
//! Nothing is written, and the memory does not depend on the size of the tarball: blobs are hashed and examined while they are read.

mod blob;
mod check;
mod finding;
mod inspection;
mod json;
mod manifest;
mod read;
mod rules;
mod run;
mod source;
mod stemcell;
mod table;
mod unquoted;
mod versions;

pub use inspection::Inspection;
pub use json::json;
pub use run::{InspectError, Request, inspect};
pub use table::table;
