//! Describes damaged files of a cache.

use std::path::PathBuf;

use nix::libc;

use crate::fs;

/// A file of a cache that must not be used.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {kind}", file.display())]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub kind: DamageKind,
}

impl Damage {
    /// Whether verification sets the file aside: it is there, and is itself damaged.
    #[must_use]
    pub fn is_set_aside(&self) -> bool {
        self.kind.is_lasting() && !matches!(self.kind, DamageKind::Missing)
    }
}

impl DamageKind {
    /// Whether the file itself is damaged and must be set aside. Other failures concern the
    /// process, the machine or the privileges of this user.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Unreadable(error) => Self::is_lasting_error(error),
            _ => true,
        }
    }

    /// Whether a newer agent may have written the file, in a newer format.
    pub(super) fn may_be_newer(&self) -> bool {
        match self {
            Self::Foreign(_) | Self::OtherKey | Self::TooLarge => true,
            Self::Changed | Self::Missing | Self::Unreadable(_) => false,
        }
    }

    /// Whether an error of reading shows that the file itself is damaged.
    pub(super) fn is_lasting_error(error: &fs::Error) -> bool {
        let errno = error.source.raw_os_error();
        errno.is_none_or(|errno| [libc::EISDIR, libc::ELOOP, libc::ENXIO].contains(&errno))
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum DamageKind {
    /// Its contents do not have the digest that they should have.
    #[error("was changed: its SHA-256 is wrong")]
    Changed,
    /// It is not what this version of the agent writes.
    #[error("is not a file of this cache")]
    Foreign(#[source] serde_json::Error),
    /// It describes another package than its name says.
    #[error("describes another package")]
    OtherKey,
    /// It names a file that is too large to be a compiled package.
    #[error("names a file of more than 64 GiB")]
    TooLarge,
    /// It is missing, although an entry names it.
    #[error("is missing")]
    Missing,
    /// It cannot be read.
    #[error("cannot be read: {}", .0.source)]
    Unreadable(fs::Error),
}
