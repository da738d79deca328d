//! The lock file of the tree. It names the run that holds it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use crate::config::Vcap;
use crate::fs::{self, Context, MadeDirectories};
use crate::sandbox::error::SandboxError;

/// The name of the lock file in the data directory.
pub(super) const LOCK: &str = ".bosh-agent-compile.lock";

/// How often to try: that fails if another run ends, and removes the directory, at the same moment.
const ATTEMPTS: usize = 100;

/// Creates the data directory and locks the tree. `who` is reported to other runs.
pub(super) fn lock(
    vcap: &Vcap,
    who: &str,
    made: &mut MadeDirectories,
) -> Result<File, SandboxError> {
    let path = vcap.data().join(LOCK);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        made.make(&vcap.data())?;
        let mut file = match fs::open_with(&options, &path) {
            // A run that has just ended removed the directory.
            Err(error) if error.is_not_found() => {
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
            let write = |file: &mut File| {
                file.seek(SeekFrom::Start(0))?;
                file.set_len(0)?;
                file.write_all(who.as_bytes())
            };
            if let Err(error) = write(&mut file) {
                // The lock is held, so this is not the file of another run.
                let _ = fs::remove_file_if_there(&path);
                return Err(fs::Error::new("write", &path, error).into());
            }
            return Ok(file);
        }
    }
    Err(failure
        .unwrap_or_else(|| fs::Error::new("lock", &path, std::io::ErrorKind::NotFound.into()))
        .into())
}

/// What the holder of a lock has written into the file, if it has yet.
fn holder(file: &mut File) -> String {
    let mut holder = String::new();
    let _ = file.read_to_string(&mut holder);
    match holder.trim() {
        "" => "it has not said who it is".to_owned(),
        holder => holder.to_owned(),
    }
}
