//! `bosh-agent inspect`: lists the contents of a release tarball, and reports *findings*. A finding is
//! either a problem, which a Director, the CLI or an agent would refuse or silently handle wrongly, or
//! a note.
//!
//! ```text
//! run           one inspection
//!  ├─ read        reads the tarball in one pass: the manifest, and facts about each blob (module `blob`)
//!  ├─ manifest    checks release.MF by itself (`versions`; `unquoted`: values that Directors misread)
//!  ├─ check       compares release.MF with the tarball
//!  ├─ stemcell    predicts whether a Director uses the packages on a stemcell (--stemcell)
//!  ├─ source      compares the release with its source release (--source)
//!  └─ rules       the codes of findings, with their consequences
//! table, json   print the result for people and for programs
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
