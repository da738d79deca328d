//! The metadata of a BOSH release: its manifest, names, digests and dependencies, and the stemcell it is for.
//!
//! Everything here is pure: text and bytes in, values out. Nothing opens a file, reads a clock or calls the system, so that a test needs
//! only a string.
//!
//! ```text
//! manifest    release.MF in and out
//!  ├─ yaml      a tree that keeps the text of each scalar, and quoting that all readers understand
//!  ├─ digest    "sha1", "sha256:…;sha512:…": parse, compute, compare
//!  ├─ stemcell  "ubuntu-jammy/1.406", os-release
//!  └─ name      texts that are safe in a path
//! graph       the order in which packages are compiled
//! ```
//!
//! Read `manifest` first.

pub mod digest;
pub(crate) mod graph;
pub(crate) mod manifest;
pub(crate) mod name;
pub(crate) mod stemcell;
pub(crate) mod yaml;

pub use digest::{Algorithm, DigestMismatch, Digests, MultiDigest};
pub(crate) use manifest::FieldProblem;
pub use manifest::{CompiledPackage, Job, License, Manifest, ManifestProblem, Package};
pub use name::{InvalidName, Name, Version};
pub use stemcell::{Slug, output_name};
