//! `bosh-agent inspect`: lists the contents of a release tarball, and reports everything that a
//! Director, the CLI or an agent would refuse or would silently handle wrongly. A *finding* is one
//! such problem, or a note.
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
//! Nothing is written to disk. Memory use does not depend on the size of the tarball, because blobs
//! are hashed and examined while they are read.

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
