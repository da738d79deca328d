//! Stemcell images: what a file or directory is, and how its layers become one root file system. Independent of compiling.
//!
//! ```text
//! names of entries ─▶ kind        which kind of image an archive or a directory is
//! JSON documents   ─▶ manifest    the layers of an OCI layout or of a file of `docker save`, with their digests
//! entries of layers ─▶ layers     what each entry changes in the root file system: whiteouts, links, replaced files
//! file or directory ─▶ store      the root file system, unpacked once (open, unpack)
//! ```
//!
//! The first three do no I/O, nor does `budget`, which limits the space that an image uses.
//!
//! Images are not trusted. Names that leave the root, documents without limits and damaged blobs are errors; links are resolved inside
//! the root; devices are not created.

mod budget;
mod error;
mod kind;
mod layers;
mod manifest;
mod open;
mod store;
#[cfg(test)]
mod tests;
mod unpack;

pub use error::ImageError;
pub use kind::{UnknownImage, UnpackedFile};
pub use layers::LayerError;
pub use manifest::{ManifestError, Platform};
pub use open::Description;
pub use store::{ImageStore, Unpacked};
pub use unpack::Owners;
