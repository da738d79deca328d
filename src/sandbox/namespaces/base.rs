//! The base directory, which must exist as long as something is mounted over it.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Vcap;
use crate::fs::{self, Context, MadeDirectories};
use crate::sandbox::error::SandboxError;

/// The maximum number of attempts to open the base directory. An attempt fails if another run ends at the same time and removes the
/// directory.
const ATTEMPTS: usize = 100;

/// Creates and locks the base directory, and returns it as the directory to cover. If this user may not create it, returns the nearest
/// existing directory above it, which is not locked.
pub(super) fn find_cover(
    vcap: &Vcap,
    made: &mut MadeDirectories,
) -> Result<(PathBuf, Option<File>), SandboxError> {
    match lock(vcap, made) {
        Ok(base) => Ok((vcap.base().to_owned(), Some(base))),
        Err(error) => match fs::nearest_existing(vcap.base()) {
            cover if cover != Path::new("/") && cover != vcap.base() && is_denied(&error) => {
                Ok((cover, None))
            }
            _ => {
                made.remove_empty();
                Err(error)
            }
        },
    }
}

/// Creates and locks the base directory.
fn lock(vcap: &Vcap, made: &mut MadeDirectories) -> Result<File, SandboxError> {
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        made.make(vcap.base())?;
        let base = match fs::open(vcap.base()) {
            Err(error) if error.is_not_found() => {
                failure = Some(error);
                continue;
            }
            other => other?,
        };
        base.lock_shared().at("lock", vcap.base())?;
        let inode = base.metadata().at("examine", vcap.base())?.ino();
        // Try again if another run removed the directory before it was locked.
        if fs::lookup(vcap.base())?
            .is_some_and(|metadata| metadata.is_symlink() || metadata.ino() == inode)
        {
            return Ok(base);
        }
    }
    let error = || fs::Error::new("open", vcap.base(), ErrorKind::NotFound.into());
    Err(failure.unwrap_or_else(error).into())
}

/// Whether a directory could not be created because this user lacks the permission, or because the file system is read-only.
fn is_denied(error: &SandboxError) -> bool {
    let SandboxError::Files(error) = error else {
        return false;
    };
    matches!(
        error.source.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}
