//! Advice about stemcell images that cannot be used, and about runs with several images or results.

use nix::errno::Errno;

use super::error::OfflineError;
use crate::archive::UnpackError;
use crate::image::ImageError;

/// Advice about an image that cannot be used, if there is any.
pub(super) fn image_hint(error: &ImageError) -> Option<String> {
    match error {
        ImageError::TooLarge { .. } => Some(
            "free disk space, or choose a directory on a larger disk with --image-dir".to_owned(),
        ),
        ImageError::UnpackedImage { kind, .. } => Some(format!("pass the {kind} itself")),
        ImageError::OfOthers { path } => Some(format!(
            "remove `{}`, or choose another directory with --image-dir",
            path.display()
        )),
        ImageError::OtherOwner { .. } => Some(
            "the file system decides about owners, as network file systems and folders that a host shares with a virtual machine do: \
             choose a directory on a local disk with --image-dir"
                .to_owned(),
        ),
        ImageError::Unpack {
            source: UnpackError::File(error),
            ..
        } if matches!(error.source.raw_os_error(), Some(OWNER_UNMAPPED | NOT_PERMITTED)) => {
            Some(
                "an ordinary user can give files only to the owners in a range of /etc/subuid and /etc/subgid: add one of 65536 owners \
                 (`usermod --add-subuids`, `--add-subgids`), or run as root"
                    .to_owned(),
            )
        }
        _ => None,
    }
}

/// Advice about a run with several images or results, if the error has to do with their number.
pub(super) fn several_hint(error: &OfflineError) -> Option<String> {
    match error {
        OfflineError::SameStemcell { .. } => {
            Some("compile for them in separate runs, with different output directories".to_owned())
        }
        OfflineError::OneDocument { path, .. } => Some(format!(
            "end the path with `/` to get a directory with one file for each result, such as `{}/`",
            path.with_extension("").display()
        )),
        OfflineError::SameDocument { .. } => Some(
            "compile the releases in separate runs, with different directories for the documents"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The error code for an owner that the user namespace does not map.
const OWNER_UNMAPPED: i32 = Errno::EINVAL as i32;

/// The error code for an owner to whom this process may not give files.
const NOT_PERMITTED: i32 = Errno::EPERM as i32;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs;
    use crate::image::UnpackedFile;
    use crate::offline::FailureKind;

    #[test]
    fn unpacked_image_is_of_the_input_and_has_a_hint() {
        for (kind, expected) in [
            (UnpackedFile::Stemcell, "pass the stemcell itself"),
            (
                UnpackedFile::DockerSave,
                "pass the file of docker save itself",
            ),
        ] {
            let image = "/unpacked".into();
            let error = ImageError::UnpackedImage { image, kind };
            assert_eq!(image_hint(&error).as_deref(), Some(expected));
            let kind = FailureKind::of(&OfflineError::from(error));
            assert_eq!(kind, Some(FailureKind::Input));
        }
    }

    #[test]
    fn full_disk_and_unmapped_owners_are_of_the_machine() {
        let failed = |errno: Errno| {
            let system = std::io::Error::from_raw_os_error(errno as i32);
            let error = fs::Error::new("set the owner of", Path::new("/etc/x"), system);
            ImageError::Unpack {
                file: "/image".into(),
                source: error.into(),
            }
        };
        let is_of_the_machine =
            |error| FailureKind::of(&OfflineError::from(error)) == Some(FailureKind::Machine);
        let damaged = ImageError::Decode {
            file: "/image".into(),
            source: std::io::Error::other("ends early"),
        };
        assert!(!is_of_the_machine(damaged));
        for errno in [Errno::ENOSPC, Errno::EIO] {
            assert!(is_of_the_machine(failed(errno)) && image_hint(&failed(errno)).is_none());
        }
        let full = OfflineError::from(failed(Errno::ENOSPC));
        assert!(full.is_no_space());
        let unmapped = image_hint(&failed(Errno::EINVAL));
        assert!(unmapped.is_some_and(|it| it.contains("/etc/subuid")));
        let missing = std::io::Error::from_raw_os_error(Errno::ENOENT as i32);
        let missing = fs::Error::new("open", Path::new("/image"), missing);
        assert!(!is_of_the_machine(ImageError::Files(missing)));
    }
}
