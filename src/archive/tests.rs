//! Comparison with GNU tar, bsdtar, Python and the programs for compression.

mod compressed;
mod gzip;
mod hostile;
mod packing;
mod raw;
mod sparse;
pub(in crate::archive) mod support;
mod tarball;
mod trees;
mod unpacking;
