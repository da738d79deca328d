//! Tar and its compressions: trees into archives, archives into trees. Knows no BOSH.
//!
//! ```text
//! reading:  file → compression::Decoder → read::Reader → unpack          writing:  pack ──────┐
//!                  (what it is, to its end) (entries)      (files, safely)          tarball ───┴→ gzip::GzipWriter → file
//! ```
//!
//! - [`compression`] finds out how an archive is compressed and decodes it, checks and trailers included.
//! - [`entry`] says which names may be unpacked; pure.
//! - [`read`] reads the entries of a tar stream: GNU, PAX, ustar and v7, long names, sparse files of every kind.
//! - [`unpack()`] makes files of them as root's `tar --no-same-owner -xf` does, and nothing outside the destination.
//! - [`pack()`] writes a tree as GNU `tar -cf - -C TREE .` does, in sorted order.
//! - [`tarball`] writes single entries, for archives that are not a tree on disk.
//! - [`gzip`] writes gzip in one member, on all cores, and leaves what is compressed already as it is.
//!
//! The headers' layout is the `tar` crate's; its entry iterator is not used, because it splits PAX records at line
//! ends, reads headers of any length into memory, and takes PAX sparse files for ordinary ones.

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

pub use compression::{Compression, Decoder};
pub use entry::Kind;
pub use gzip::GzipWriter;
pub use header::EntryHeader;
pub use pack::{Owners, PackError, Packed, SystemOwners, pack};
pub use read::{Entry, Owner, ReadError, Reader};
pub use size::{is_whole, least_unpacked};
pub use tarball::{AppendError, EntryWriter};
pub use unpack::{Skipped, UnpackError, Unpacked, unpack, unpack_file, unpack_whole};

/// The unit of a tar archive, in bytes: headers are one block, content is padded to whole blocks.
const BLOCK: usize = 512;

/// How much is copied at once, in bytes.
const CHUNK: usize = 128 * 1024;
