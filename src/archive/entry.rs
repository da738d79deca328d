//! Converts the names of entries to paths, and refuses unsafe names. No I/O.
//!
//! Names are not trusted. A name becomes a path below the destination, or an error; it is never corrected. Names that contain `..` or
//! begin with `/` are errors. GNU tar refuses `..`, too, but removes a leading `/`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, sparse or not.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; its target may be any text.
    Symlink,
    /// A hard link: another name of an earlier file.
    HardLink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A kind that cannot be unpacked, with the type byte of its header. The only one is `M`, the rest of a file that begins on another
    /// volume.
    Other(u8),
}

impl Kind {
    /// The kind for the type byte of a header (POSIX `pax`, "ustar Interchange Format"; GNU adds `S` and `D`).
    ///
    /// A regular file whose name ends in `/` is a directory: archives had this convention before there was a type byte, and GNU tar
    /// still supports it. As in GNU tar and POSIX, an entry of an unknown type is a regular file.
    #[must_use]
    pub(crate) fn from_type(byte: u8, name: &[u8]) -> Self {
        match byte {
            b'0' | 0 | b'7' if name.ends_with(b"/") => Self::Directory,
            b'0' | 0 | b'7' | b'S' => Self::File,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' => Self::CharacterDevice,
            b'4' => Self::BlockDevice,
            b'5' | b'D' => Self::Directory,
            b'6' => Self::Fifo,
            b'M' => Self::Other(b'M'),
            _ => Self::File,
        }
    }

    /// The type byte of a header.
    #[must_use]
    pub(crate) fn to_type(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharacterDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
            Self::Other(byte) => byte,
        }
    }
}

/// Why a name is not a path below the destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryPathError {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is an absolute path.
    #[error("`{}` is an absolute path", name.display())]
    Absolute {
        /// The name as the archive has it.
        name: PathBuf,
    },
    /// The name contains `..`.
    #[error("`{}` contains `..`", name.display())]
    Parent {
        /// The name as the archive has it.
        name: PathBuf,
    },
    /// The name contains a NUL byte, which is not allowed in file names.
    #[error("`{}` contains a NUL byte", name.escape_ascii())]
    Nul {
        /// The name as the archive has it.
        name: Vec<u8>,
    },
}

/// Converts a name in an archive to a path below the destination. The empty path means the destination itself.
///
/// A leading `./`, `.` between slashes, repeated slashes and a trailing slash are ignored.
///
/// # Errors
/// If the name is empty, absolute, or contains `..` or a NUL byte.
pub(crate) fn normalize(name: &[u8]) -> Result<PathBuf, EntryPathError> {
    let owned = || Path::new(OsStr::from_bytes(name)).to_owned();
    if name.is_empty() {
        return Err(EntryPathError::Empty);
    }
    if name.contains(&0) {
        return Err(EntryPathError::Nul {
            name: name.to_vec(),
        });
    }
    if name.starts_with(b"/") {
        return Err(EntryPathError::Absolute { name: owned() });
    }
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(EntryPathError::Parent { name: owned() }),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    fn path(name: &str) -> String {
        normalize(name.as_bytes())
            .unwrap()
            .into_os_string()
            .into_string()
            .unwrap()
    }

    #[test]
    fn redundant_dots_and_slashes_are_removed() {
        for (name, expected) in [
            ("a", "a"),
            ("./a", "a"),
            ("././a", "a"),
            ("./a/", "a"),
            ("./jobs//web.tgz", "jobs/web.tgz"),
            ("a//b", "a/b"),
            ("a/./b/.", "a/b"),
            (".", ""),
            ("./", ""),
            (".//", ""),
            ("..a/b..", "..a/b.."),
            ("...", "..."),
            ("a\nb", "a\nb"),
        ] {
            assert_eq!(path(name), expected, "{name:?}");
        }
    }

    #[test]
    fn unknown_types_are_files() {
        for byte in *b"ZAEIN89~\xff" {
            assert_eq!(Kind::from_type(byte, b"a"), Kind::File, "{byte}");
        }
        assert_eq!(Kind::from_type(b'M', b"a"), Kind::Other(b'M'));
    }

    #[test]
    fn name_outside_the_root_is_refused() {
        for name in [
            "..",
            "../a",
            "a/..",
            "./..",
            "a/../b",
            "a/../../etc/passwd",
            "a/b/../../../c",
            "/",
            "//a",
            "/etc",
        ] {
            assert!(normalize(name.as_bytes()).is_err(), "{name:?}");
        }
        assert_eq!(normalize(b""), Err(EntryPathError::Empty));
        assert!(matches!(
            normalize(b"a\0b"),
            Err(EntryPathError::Nul { .. })
        ));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept() {
        assert_eq!(
            normalize(b"./\xff\xfe/x").unwrap().as_os_str().as_bytes(),
            b"\xff\xfe/x"
        );
    }

    proptest! {
        #[test]
        fn normalized_path_is_below_the_root(name in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(path) = normalize(&name) {
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                if !path.as_os_str().is_empty() {
                    prop_assert_eq!(normalize(path.as_os_str().as_bytes()).unwrap(), path);
                }
            }
        }
    }
}
