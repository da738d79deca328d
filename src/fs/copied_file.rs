//! Copies single files, including their holes, owner, mode and times.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::attributes::copy_attributes_to;
use super::descent::Descent;
use super::found::Found;
use super::walk::Walk;
use super::{Error, Result};

/// The number of bytes that are copied between checks of `stop`.
const PIECE: u64 = 64 << 20;

/// Files of up to this size are copied with one read and one write, which takes fewer system calls
/// than letting the kernel copy them.
const SMALL: usize = 128 << 10;

/// A file to copy: the opened original and its newly created copy.
#[derive(Debug)]
pub(super) struct CopiedFile {
    source: File,
    from: PathBuf,
    found: Found,
    target: File,
    to: PathBuf,
}

/// A reusable buffer for the contents of small files.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

impl CopiedFile {
    /// Opens a file of a walk's current directory and creates its copy, which is empty.
    ///
    /// # Errors
    /// The error of the system, with the path.
    pub(super) fn open(
        walk: &Walk,
        name: &OsStr,
        found: &Found,
        (target, new_name): (&Descent, &OsStr),
    ) -> Result<Self> {
        let source = walk.open(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(target.directory(), new_name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| target.failed("create", new_name, error.into()))?;
        Ok(Self {
            source,
            from: walk.path_of(name),
            found: *found,
            target: File::from(file),
            to: target.path_of(new_name),
        })
    }

    /// Copies the contents and the attributes. `stop` is called before each piece of [`PIECE`]
    /// bytes.
    ///
    /// # Errors
    /// The error of the system, with the path, or `stop` returned true.
    pub(super) fn copy(mut self, buffer: &mut Buffer, stop: &dyn Fn() -> bool) -> Result<()> {
        let (source, target) = (&mut self.source, &mut self.target);
        let has_holes = self.found.blocks * 512 < self.found.size;
        let copied = if has_holes {
            copy_data_segments(source, target, stop)
        } else if self.found.size <= SMALL as u64 {
            copy_small(source, target, buffer, stop)
        } else {
            copy_pieces(source, u64::MAX, target, stop)
        };
        copied.map_err(|error| match super::is_no_space(&error) {
            // A full disk concerns the copy, so the error names the copy.
            true => Error::new("write", &self.to, error),
            false => Error::new("copy", &self.from, error),
        })?;
        if has_holes {
            let resized = self.target.set_len(self.found.size);
            resized.map_err(|error| Error::new("resize", &self.to, error))?;
        }
        copy_attributes_to(self.target.as_fd(), OsStr::new(""), &self.found)
            .map_err(|(action, error)| Error::new(action, &self.to, error.into()))
    }
}

/// Fails if `stop` returns true.
pub(super) fn check(stop: &dyn Fn() -> bool) -> io::Result<()> {
    match stop() {
        true => Err(io::Error::other("stopped")),
        false => Ok(()),
    }
}

/// Copies a file that is probably not larger than the buffer.
fn copy_small(
    source: &mut File,
    target: &mut File,
    Buffer(buffer): &mut Buffer,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    buffer.resize(SMALL, 0);
    loop {
        check(stop)?;
        match source.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => target.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies at most `length` bytes in pieces. The kernel copies each piece, or lets both files share
/// its blocks if the file system supports that.
fn copy_pieces(
    source: &mut File,
    length: u64,
    target: &mut File,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut left = length;
    loop {
        check(stop)?;
        let copied = io::copy(&mut Read::by_ref(source).take(left.min(PIECE)), target)?;
        left -= copied;
        if copied == 0 || left == 0 {
            return Ok(());
        }
    }
}

fn copy_data_segments(
    source: &mut File,
    target: &mut File,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut offset = 0;
    loop {
        let start = match rustix::fs::seek(&*source, rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) => start,
            // There is no data after `offset`: the rest is a hole.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&*source, rustix::fs::SeekFrom::Hole(start))?;
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        copy_pieces(source, end - start, target, stop)?;
        target.flush()?;
        offset = end;
    }
}
