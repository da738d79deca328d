//! Opens files of a cache that others write to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::fs::{self, Context as _};

/// Opens a file. A FIFO or a device is refused: reading it may never end.
pub(super) fn open_regular(file: &Path) -> fs::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(nix::libc::O_NONBLOCK);
    let opened = fs::open_with(&options, file)?;
    let is_file = opened.metadata().at("examine", file)?.is_file();
    match is_file {
        true => Ok(opened),
        false => Err(io::Error::other("it is not a regular file")).at("open", file),
    }
}
