//! The metadata of a BOSH release: its manifest, names, digests and dependencies, and the stemcell it is for.
//!
//! All of this is pure: functions take text or bytes, and return values. Nothing opens a file, reads a clock or calls the system.
//!
//! ```text
//! manifest    parses and writes release.MF
//!  ├─ yaml      parses YAML without converting values, and quotes texts for all readers
//!  ├─ digest    parses, computes and compares digests: "2fd4…" (a SHA-1), "sha256:…;sha512:…"
//!  ├─ stemcell  "ubuntu-jammy/1.406", and os-release
//!  └─ name      names and versions that are safe in a path
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
