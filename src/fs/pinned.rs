//! Remembers directories that scripts may move or replace, so that such a change can be detected
//! and undone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Context, Error, Result};

/// The action in errors of this file.
const USE: &str = "use";

/// A directory and what its path led to when it was recorded. A packaging script that runs as root
/// can replace the directory by a link, and operations on the path would then change the link's
/// target.
#[derive(Debug)]
pub(crate) struct Pinned {
    path: PathBuf,
    /// The path without links.
    real: PathBuf,
    /// The target of the link, if the path itself was a link.
    link: Option<PathBuf>,
    /// The open directory, which stays valid if the directory is moved. `None` if it did not exist.
    directory: Option<OwnedFd>,
}

impl Pinned {
    /// Records a directory, which may be missing. Its parent must exist.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (real, link, directory) = match super::lookup(path)? {
            None => {
                let above = super::canonicalize(super::parent(path))?;
                (above.join(super::file_name(path)), None, None)
            }
            Some(metadata) => {
                let link = metadata.is_symlink().then(|| super::read_link(path));
                let directory = rustix::fs::open(path, flags, Mode::empty());
                let directory = directory.map_err(io::Error::from).at("open", path)?;
                (
                    super::canonicalize(path)?,
                    link.transpose()?,
                    Some(directory),
                )
            }
        };
        Ok(Self {
            path: path.to_owned(),
            real,
            link,
            directory,
        })
    }

    /// The path.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path without links.
    #[must_use]
    pub(crate) fn real(&self) -> &Path {
        &self.real
    }

    /// The open directory, even if it was moved; `None` if it did not exist.
    pub(crate) fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// What the path leads to now, if that has changed. A missing directory is not a change. A new
    /// link is not followed, because it may lead to a file system that does not respond.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn replacement(&self) -> Result<Option<PathBuf>> {
        if let Ok(Some(metadata)) = super::lookup(&self.path)
            && metadata.is_symlink()
        {
            let link = super::read_link(&self.path)?;
            if self.link.as_ref() != Some(&link) {
                return Ok(Some(super::parent(&self.path).join(link)));
            }
        }
        match super::canonicalize(&self.path) {
            Ok(real) if real != self.real => Ok(Some(real)),
            Ok(_) => {
                let is_directory = super::metadata(&self.path)?.is_dir();
                Ok((!is_directory).then(|| self.path.clone()))
            }
            Err(error) => match super::lookup(&self.path) {
                Ok(None) => Ok(None),
                // The path leads to a dangling link or a loop of links.
                Ok(Some(metadata)) if metadata.is_symlink() => {
                    super::read_link(&self.path).map(Some)
                }
                Ok(Some(_)) => Err(error),
                // A parent of the path is now a file.
                Err(_) => Ok(Some(super::nearest_existing(&self.path))),
            },
        }
    }

    /// Removes a link or a file in the place of the directory, and moves the directory back if it
    /// still exists. Call this for outer directories before inner ones.
    ///
    /// # Errors
    /// If the path still leads elsewhere, for example because a parent directory was replaced by a
    /// link. The caller must then not use the path.
    pub(crate) fn put_back(&self) -> Result<()> {
        let is_in_the_way = match super::lookup(&self.path)? {
            Some(metadata) if metadata.is_symlink() => {
                Some(super::read_link(&self.path)?) != self.link
            }
            Some(metadata) => !metadata.is_dir(),
            None => false,
        };
        if is_in_the_way {
            super::clear_flags(super::parent(&self.path))?;
            super::clear_flags(&self.path)?;
            super::remove_file(&self.path)?;
        }
        if super::lookup(&self.path)?.is_none() {
            self.return_directory()?;
        }
        match self.replacement()? {
            None => Ok(()),
            Some(found) => {
                let leads = io::Error::other(format!("it now leads to `{}`", found.display()));
                Err(Error::new(USE, &self.path, leads))
            }
        }
    }

    /// Restores the original link or directory at the path, where nothing exists.
    fn return_directory(&self) -> Result<()> {
        if let Some(target) = &self.link {
            return super::if_there(super::symlink(target, &self.path)).map(drop);
        }
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        // If the directory was removed, the kernel returns a path that does not exist.
        let Ok(moved_to) = super::read_link(&by_descriptor) else {
            return Ok(());
        };
        let id = |path: &Path| super::metadata(path).map(|found| (found.dev(), found.ino()));
        match (id(&moved_to), id(&by_descriptor)) {
            (Ok(found), Ok(own)) if found == own => super::rename(&moved_to, &self.path),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs;

    fn scene() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let (own, other) = (scratch.path().join("own"), scratch.path().join("other"));
        for directory in [&own, &other] {
            fs::create_dir(directory).unwrap();
            fs::write(&directory.join("file"), b"").unwrap();
        }
        (scratch, own, other)
    }

    #[test]
    fn unchanged_or_missing_directory_is_not_replaced() {
        let (_scratch, own, _) = scene();
        let pinned = Pinned::new(&own).unwrap();
        assert_eq!(pinned.replacement().unwrap(), None);
        fs::remove_tree(&own).unwrap();
        assert_eq!(pinned.replacement().unwrap(), None);
        pinned.put_back().unwrap();
        fs::create_dir(&own).unwrap();
        assert_eq!(pinned.replacement().unwrap(), None);
    }

    #[test]
    fn link_in_its_place_is_reported_and_removed() {
        let (scratch, own, other) = scene();
        let pinned = Pinned::new(&own).unwrap();
        for target in [other.clone(), scratch.path().join("nowhere")] {
            fs::rename(&own, &scratch.path().join("moved")).unwrap();
            fs::symlink(&target, &own).unwrap();
            assert_eq!(pinned.replacement().unwrap(), Some(target));
            pinned.put_back().unwrap();
            assert_eq!(pinned.replacement().unwrap(), None);
            assert!(own.join("file").exists() && other.join("file").exists());
        }
        fs::remove_tree(&own).unwrap();
        fs::write(&own, b"").unwrap();
        assert_eq!(pinned.replacement().unwrap(), Some(own.clone()));
        pinned.put_back().unwrap();
        assert_eq!(fs::lookup(&own).unwrap().map(|it| it.len()), None);
    }

    #[test]
    fn original_link_is_put_back() {
        let (scratch, own, other) = scene();
        let link = scratch.path().join("link");
        fs::symlink(&own, &link).unwrap();
        let pinned = Pinned::new(&link).unwrap();
        assert_eq!(pinned.replacement().unwrap(), None);
        fs::remove_file(&link).unwrap();
        fs::symlink(&other, &link).unwrap();
        assert_eq!(pinned.replacement().unwrap(), Some(other));
        pinned.put_back().unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), own);
    }

    #[test]
    fn replaced_parent_is_an_error() {
        let (scratch, own, other) = scene();
        let inner = own.join("inner");
        let pinned = Pinned::new(&inner).unwrap();
        fs::rename(&own, &scratch.path().join("moved")).unwrap();
        fs::symlink(&other, &own).unwrap();
        fs::create_dir(&other.join("inner")).unwrap();
        let error = pinned.put_back().unwrap_err();
        assert!(error.source.to_string().contains("other/inner"), "{error}");
        assert!(other.join("inner").exists());
    }
}
