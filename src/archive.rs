//! Tar archives and their compression: packs directory trees into archives, and unpacks archives. Independent of BOSH.
//!
//! ```text
//! reading:  file → compression::Decoder → read::Reader → unpack          writing:  pack ──────┐
//!                  (format, checksums)      (entries)      (files, safely)          tarball ───┴→ gzip::GzipWriter → file
//! ```
//!
//! - [`compression`] detects how an archive is compressed and decodes it, including checksums and trailers.
//! - [`entry`] decides which entries may be unpacked, from their names. No I/O.
//! - [`read`] reads the entries of a tar stream: GNU, PAX, ustar and v7, long names, all formats of sparse files.
//! - [`unpack()`] creates the files of the entries as root's `tar --no-same-owner -xf` does, and changes nothing outside the destination.
//! - [`pack()`] writes a tree as GNU `tar -cf - -C TREE .` does, in sorted order.
//! - [`tarball`] writes single entries, for archives whose content is not a tree on disk.
//! - [`gzip`] compresses on all idle cores, and writes one gzip member. It stores incompressible content unchanged.
//!
//! The `tar` crate defines the layout of headers. Its entry iterator is not used, because it splits PAX records at line ends, reads
//! headers of any length into memory, and treats PAX sparse files as ordinary files.

pub mod compression;
pub mod entry;
pub mod gzip;
mod header;
mod number;
pub mod pack;
mod pax;
pub mod read;
mod size;
mod sparse;
pub mod tarball;
pub mod unpack;

#[cfg(test)]
mod tests;

pub(crate) use compression::DecodeError;
pub use compression::{Compression, Decoder};
pub use entry::Kind;
pub(crate) use gzip::Compress;
pub use gzip::GzipWriter;
pub(crate) use header::EntryHeader;
pub use pack::{Owners, PackError, Packed, SystemOwners, pack};
pub use read::{Entry, Owner, ReadError, Reader};
pub(crate) use size::{is_whole, least_unpacked};
pub use tarball::AppendError;
pub(crate) use tarball::EntryWriter;
pub(crate) use unpack::Files;
#[cfg(test)]
pub(crate) use unpack::unpack_file;
pub use unpack::{Skipped, UnpackError, Unpacked, unpack, unpack_whole};

/// The unit of a tar archive, in bytes: a header is one block, and content is padded to whole blocks.
const BLOCK: usize = 512;

/// The size of buffers for copying, in bytes.
const CHUNK: usize = 128 * 1024;
