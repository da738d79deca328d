//! Says what to do about an archive that cannot be unpacked.

use std::path::PathBuf;

use crate::archive::UnpackError;
use crate::diag::Bytes;

/// What to do about a blob that cannot be unpacked although it has the right digest.
pub(super) fn blob_hint((path, size): &(PathBuf, u64), error: &UnpackError) -> String {
    let (path, size) = (path.display(), Bytes(*size));
    let blob = format!("`{path}` ({size}) matches its digest in release.MF");
    match is_damage(error) {
        true => format!(
            "{blob}, so it was damaged before the release was created: create the release again"
        ),
        false => format!(
            "{blob}, so the release was created with this entry: correct the files of the package, and create the release again"
        ),
    }
}

/// What to do about a file that cannot be unpacked and whose digest is not known.
pub(super) fn file_hint((path, size): &(PathBuf, u64), error: &UnpackError) -> String {
    let (path, size) = (path.display(), Bytes(*size));
    match is_damage(error) {
        true => format!("`{path}` ({size}) is damaged: copy it again, or create it again"),
        false => format!(
            "`{path}` ({size}) was created with this entry: correct the files of the package, and create it again"
        ),
    }
}

/// Whether an archive is damaged. An archive with an entry that is not allowed is not.
fn is_damage(error: &UnpackError) -> bool {
    match error {
        UnpackError::Archive(_) | UnpackError::Decode { .. } | UnpackError::File(_) => true,
        UnpackError::Outside { .. }
        | UnpackError::ThroughSymlink { .. }
        | UnpackError::ParentNotDirectory { .. }
        | UnpackError::HardLinkOutside { .. }
        | UnpackError::HardLinkMissing { .. }
        | UnpackError::NoTarget { .. }
        | UnpackError::DirectoryInTheWay { .. }
        | UnpackError::RootNotDirectory
        | UnpackError::Unsupported { .. } => false,
    }
}
