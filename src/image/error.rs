//! Why an image cannot be used.

use std::io;
use std::path::PathBuf;

use super::kind::{UnknownImage, UnpackedFile};
use super::layers::LayerError;
use super::manifest::{ManifestError, Platform};
use crate::archive::{ReadError, UnpackError};
use crate::diag::Bytes;
use crate::fs;
use crate::release::DigestMismatch;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is not an image.
    #[error("`{}` is not a stemcell image", image.display())]
    Unknown {
        /// The image.
        image: PathBuf,
        /// The kinds of images that are supported.
        source: UnknownImage,
    },
    /// It is a directory into which an image was unpacked.
    #[error("`{}` is the directory of an unpacked {kind}", image.display())]
    UnpackedImage {
        /// The directory.
        image: PathBuf,
        /// What was unpacked.
        kind: UnpackedFile,
    },
    /// A document of the image cannot be used.
    #[error("failed to read the image `{}`", image.display())]
    Manifest {
        /// The image.
        image: PathBuf,
        /// The reason.
        source: ManifestError,
    },
    /// An archive cannot be read.
    #[error("failed to read `{}`", file.display())]
    Archive {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: ReadError,
    },
    /// An archive cannot be decompressed.
    #[error("failed to read `{}`", file.display())]
    Decode {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A layer has an entry that must not be merged.
    #[error("`{}` has an entry that must not be unpacked", file.display())]
    Layer {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: LayerError,
    },
    /// A layer cannot be unpacked.
    #[error("failed to unpack `{}`", file.display())]
    Unpack {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: UnpackError,
    },
    /// A file does not have the digest in the image's documents.
    #[error("`{}` is damaged: its {algorithm} is {found}, not {expected}", file.display())]
    Digest {
        /// The file.
        file: PathBuf,
        /// The algorithm.
        algorithm: &'static str,
        /// The digest of the file.
        found: String,
        /// The digest in the image's documents.
        expected: String,
    },
    /// The root file system of a stemcell does not have the digest in `stemcell.MF`.
    #[error("`{}` is damaged", file.display())]
    Root {
        /// The file.
        file: PathBuf,
        /// How the digest differs.
        source: DigestMismatch,
    },
    /// A blob does not have the length in the image's documents.
    #[error("`{}` is damaged: it has {found} bytes, not {expected}", file.display())]
    Size {
        /// The file.
        file: PathBuf,
        /// The length of the file, in bytes.
        found: u64,
        /// The length in the image's documents, in bytes.
        expected: u64,
    },
    /// A file of an image is a symbolic link that leads out of the image.
    #[error("`{}` leads out of the image", file.display())]
    Outside {
        /// The file.
        file: PathBuf,
    },
    /// The image is for another platform.
    #[error("`{}` is an image for {found}, and this machine is {wanted}", image.display())]
    Platform {
        /// The image.
        image: PathBuf,
        /// Its platform.
        found: Platform,
        /// The platform of this program.
        wanted: Platform,
    },
    /// A stemcell does not have the archive with its root file system.
    #[error("the stemcell `{}` has no file `image`", image.display())]
    NoRoot {
        /// The stemcell.
        image: PathBuf,
    },
    /// The description of a stemcell cannot be read.
    #[error("`stemcell.MF` in `{}` is invalid: {reason}", image.display())]
    Description {
        /// The stemcell.
        image: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The image was changed between the computation of its digest and the end of unpacking.
    #[error("`{}` was changed while it was read", image.display())]
    Changed {
        /// The image.
        image: PathBuf,
    },
    /// The files of the image need too much space. Files that later layers have replaced do not count.
    #[error("`{}` has files of more than {} of free space", file.display(), Bytes(*limit))]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// How much space they may use, in bytes.
        limit: u64,
    },
    /// Another user could change an unpacked image.
    #[error("`{}` is not a directory that only this user can change", path.display())]
    OfOthers {
        /// The directory for images, or an image in it.
        path: PathBuf,
    },
    /// New files in the directory for images belong to another user, as on NFS with `root_squash`.
    #[error("new directories in `{}` belong to another user", directory.display())]
    OtherOwner {
        /// The directory for images.
        directory: PathBuf,
    },
    /// The run was stopped.
    #[error("stopped")]
    Stopped,
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] fs::Error),
}
