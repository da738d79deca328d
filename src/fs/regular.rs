//! Opens files in directories where scripts can replace files by links, FIFOs or devices.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::glimpse::{is_mount_point, is_mounted};
use super::{Context, Error, Result};

/// Opens a regular file. `options` must not truncate the file. Returns `None` for anything else: a
/// link, because its target must not be changed; a FIFO, because it would block; and a file over
/// which another file is mounted.
///
/// # Errors
/// As `std::fs::OpenOptions::open`.
pub(crate) fn open_regular(mut options: OpenOptions, path: &Path) -> Result<Option<File>> {
    // Check first, because opening a device can have side effects.
    if is_mount_point(path)? || super::lookup(path)?.is_some_and(|found| !found.is_file()) {
        return Ok(None);
    }
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    // A process may have replaced the file after the check.
    match super::open_with(&options, path) {
        Ok(file) => {
            let is_file = file.metadata().at("examine", path)?.is_file();
            Ok((is_file && !is_mounted(&file, path)?).then_some(file))
        }
        // A link, a FIFO that no process reads, or a socket.
        Err(error) if is_irregular(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_irregular(error: &Error) -> bool {
    let irregular = [Errno::ELOOP, Errno::ENXIO];
    let code = error.source.raw_os_error();
    irregular.iter().any(|it| code == Some(*it as i32))
}

/// Opens an existing regular file for reading. `None` for anything else; see [`open_regular`].
///
/// # Errors
/// As `std::fs::File::open`.
pub(crate) fn open_regular_to_read(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true);
    open_regular(options, path)
}

/// Opens a file for reading, also through links. A FIFO, which may block forever, or a device is an error.
///
/// # Errors
/// As `std::fs::File::open`, and if it is not a regular file.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = super::open_with(&options, path)?;
    match file.metadata().at("examine", path)?.is_file() {
        true => Ok(file),
        false => Err(not_regular()).at("open", path),
    }
}

/// Creates a file, or truncates an existing one. A FIFO, a socket or a device at the path, or a link to one of these, is removed first.
///
/// # Errors
/// As `std::fs::File::create`.
pub(crate) fn create_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlag::O_NONBLOCK.bits());
    match super::open_with(&options, path) {
        Ok(file) if file.metadata().at("examine", path)?.is_file() => return Ok(file),
        Ok(_) => {}
        Err(error) if is_irregular(&error) => {}
        Err(error) => return Err(Error::new("create", path, error.source)),
    }
    super::remove_file(path)?;
    let created = super::open_with(options.create_new(true), path);
    created.map_err(|error| Error::new("create", path, error.source))
}

/// The error for something that is not a regular file.
pub(super) fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

/// The beginning of a file, at most `limit` bytes; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// As `std::io::Read::read`.
pub(crate) fn beginning(file: &File, limit: u64) -> io::Result<String> {
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs;

    #[test]
    fn only_regular_files_are_opened() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        fs::write(&path("file"), b"text\xff").unwrap();
        fs::symlink("file".as_ref(), &path("link")).unwrap();
        fs::create_dir(&path("directory")).unwrap();
        fs::make_fifo(&path("fifo")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let mut options = OpenOptions::new();
        options.write(true);
        for name in ["link", "directory", "fifo", "socket"] {
            let read = open_regular_to_read(&path(name)).unwrap();
            let written = open_regular(options.clone(), &path(name)).unwrap();
            assert!(read.is_none() && written.is_none(), "{name}");
        }
        let file = open_regular_to_read(&path("file")).unwrap().unwrap();
        assert_eq!(beginning(&file, 3).unwrap(), "tex");
        let error = open_regular_to_read(&path("none")).unwrap_err();
        assert!(error.is_not_found());
    }

    #[test]
    fn fifos_are_neither_read_nor_written() {
        let scratch = tempfile::tempdir().unwrap();
        let (fifo, link) = (scratch.path().join("fifo"), scratch.path().join("link"));
        fs::symlink(&fifo, &link).unwrap();
        for path in [&fifo, &link] {
            fs::make_fifo(&fifo).unwrap();
            let error = open_file(path).unwrap_err();
            assert!(error.source.to_string().contains("regular"), "{error}");
            fs::for_each_block(path, |_| ()).unwrap_err();
            fs::read_end(path, 1).unwrap_err();
            create_file(path).unwrap();
            assert!(fs::lookup(path).unwrap().unwrap().is_file());
            let _ = fs::remove_file(&fifo);
        }
        fs::write(&fifo, b"text").unwrap();
        fs::remove_file(&link).unwrap();
        fs::symlink(&fifo, &link).unwrap();
        assert_eq!(create_file(&link).unwrap().metadata().unwrap().len(), 0);
        open_file(&link).unwrap();
        assert!(fs::lookup(&link).unwrap().unwrap().is_symlink());
    }
}
