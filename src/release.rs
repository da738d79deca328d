//! What a BOSH release says about itself: its manifest, names, digests and dependencies, and the stemcell it is for.
//!
//! Everything here is pure: text and bytes in, values out. Nothing opens a file, reads a clock or asks the system, so
//! that every rule can be tested with a string.
//!
//! ```text
//! manifest    release.MF in and out
//!  ├─ yaml      the tree that keeps each scalar's own text, and the scalars that every reader takes for a string
//!  ├─ digest    "sha1", "sha256:…;sha512:…": parse, compute, compare
//!  ├─ stemcell  "ubuntu-jammy/1.406", os-release
//!  └─ name      what may become part of a path
//! graph       the order in which packages are compiled
//! ```
//!
//! Read [`manifest`] first.

pub mod digest;
pub mod graph;
pub mod manifest;
pub mod name;
pub mod stemcell;
pub mod yaml;

pub use digest::{Algorithm, DigestMismatch, Digests, MultiDigest};
pub use manifest::{CompiledPackage, Job, License, Manifest, ManifestProblem, Package};
pub use name::{InvalidName, Name, Version};
pub use stemcell::{Slug, output_name};
