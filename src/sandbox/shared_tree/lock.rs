//! The lock file of the tree. It names the run that holds it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::links::Links;
use crate::config::Vcap;
use crate::fs::{self, Context, MadeDirectories};
use crate::sandbox::error::SandboxError;

/// The name of the lock file in the data directory.
pub(super) const LOCK: &str = ".bosh-agent-compile.lock";

/// How often to try: that fails if another run ends, and removes the directory, at the same moment.
const ATTEMPTS: usize = 100;

/// Creates the data directory and locks the tree. `who` is reported to other runs. Also returns the links that a killed run has noted in
/// the file.
pub(super) fn lock(
    vcap: &Vcap,
    who: &str,
    made: &mut MadeDirectories,
) -> Result<(File, Option<Links>), SandboxError> {
    let path = vcap.data().join(LOCK);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.custom_flags(OFlag::O_NOFOLLOW.bits());
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        made.make(&vcap.data())?;
        let mut file = match fs::open_with(&options, &path) {
            // A run that has just ended removed the directory.
            Err(error) if error.is_not_found() => {
                failure = Some(error);
                continue;
            }
            // A link that a script left. What it leads to must stay as it is.
            Err(error) if error.source.raw_os_error() == Some(Errno::ELOOP as i32) => {
                fs::remove_file(&path)?;
                failure = Some(error);
                continue;
            }
            other => other?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(SandboxError::Busy {
                    base: vcap.base().to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(fs::Error::new("lock", &path, error).into());
            }
        }
        let inode = file.metadata().at("examine", &path)?.ino();
        // The previous holder removes the file before it unlocks it: then the locked file has no name any more.
        if fs::lookup(&path)?.is_some_and(|metadata| metadata.ino() == inode) {
            let links = Links::noted_in(&text_of(&mut file));
            let noted = links.clone().unwrap_or_default();
            if let Err(error) = write(&mut file, who, &noted) {
                // The lock is held, so this is not the file of another run.
                let _ = fs::remove_file_if_there(&path);
                return Err(fs::Error::new("write", &path, error).into());
            }
            return Ok((file, links));
        }
    }
    Err(failure
        .unwrap_or_else(|| fs::Error::new("lock", &path, io::ErrorKind::NotFound.into()))
        .into())
}

/// Writes who holds the lock, and which of the tree's directories are links.
pub(super) fn write(file: &mut File, who: &str, links: &Links) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    file.write_all(format!("{who}\n{}\n", links.line()).as_bytes())
}

/// What the holder of a lock has written into the file about itself, if it has yet.
fn holder(file: &mut File) -> String {
    match text_of(file).lines().next().unwrap_or_default().trim() {
        "" => "it has not said who it is".to_owned(),
        holder => holder.to_owned(),
    }
}

fn text_of(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    text
}
