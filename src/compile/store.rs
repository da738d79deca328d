//! Installed packages of one run, each once, sealed.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::seal::seal;
use crate::archive::{self, UnpackError};
use crate::fs;
use crate::release::Name;
use crate::runtime::Cancellable;

/// A directory of installed packages that are never written to again.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// An installed package in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    tree: PathBuf,
}

impl Installed {
    /// The root of what the package installed.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.tree
    }
}

impl Store {
    /// A store in `directory`, which exists and is empty.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Takes what a script installed: seals the tree and moves it in.
    ///
    /// # Errors
    /// What the system answered.
    pub fn take(&self, name: &Name, tree: &Path) -> fs::Result<Installed> {
        let installed = self.place(name)?;
        seal(tree)?;
        fs::move_tree(tree, installed.tree())?;
        Ok(installed)
    }

    /// Installs a package from its compiled blob. When `cancel` is called it fails at its next read.
    ///
    /// # Errors
    /// When the blob cannot be unpacked. What was unpacked of it until then is nobody's.
    pub fn unpack(
        &self,
        name: &Name,
        blob: &Path,
        cancel: &CancellationToken,
    ) -> Result<Installed, UnpackError> {
        let installed = self.place(name)?;
        fs::create_dir(installed.tree())?;
        // An archive without an entry for its root leaves this.
        fs::set_mode(installed.tree(), 0o755)?;
        let blob = Cancellable::new(fs::open(blob)?, cancel);
        archive::unpack_whole(blob, installed.tree())?;
        Ok(installed)
    }

    /// Removes a package that nobody will be compiled against any more.
    ///
    /// # Errors
    /// What the system answered.
    pub fn remove(&self, installed: &Installed) -> fs::Result<()> {
        fs::remove_tree(installed.tree())
    }

    /// Removes everything but these packages: results that nobody got to know of, and halves.
    ///
    /// # Errors
    /// What the system answered.
    pub fn keep_only(&self, kept: &[Installed]) -> fs::Result<()> {
        for name in fs::list(&self.directory)? {
            for tree in fs::list(&name.path())? {
                let tree = tree.path();
                if !kept.iter().any(|installed| installed.tree == tree) {
                    fs::remove_tree(&tree)?;
                }
            }
        }
        Ok(())
    }

    /// A fresh place for a package: names may come again, in another release.
    fn place(&self, name: &Name) -> fs::Result<Installed> {
        let directory = self.directory.join(name.as_str());
        fs::create_dir_all(&directory)?;
        let mut number = 0;
        loop {
            let tree = directory.join(number.to_string());
            if fs::lookup(&tree)?.is_none() {
                return Ok(Installed { tree });
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter, Kind};

    fn store() -> (tempfile::TempDir, Store, Name, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::new(&scratch.path().join("store"));
        let blob = scratch.path().join("blob");
        let mut archive = EntryWriter::new(fs::create(&blob).unwrap());
        let header = EntryHeader {
            size: 4,
            ..EntryHeader::new(Kind::File, b"./file", 0o644)
        };
        archive.append(&header, &b"text"[..]).unwrap();
        archive.finish().unwrap();
        (scratch, store, Name::parse("redis").unwrap(), blob)
    }

    #[test]
    fn a_package_whose_unpacking_was_broken_off_goes_with_all_that_is_not_kept() {
        let (scratch, store, name, blob) = store();
        let cancel = CancellationToken::new();
        let kept = store.unpack(&name, &blob, &cancel).unwrap();
        let other = store.unpack(&name, &blob, &cancel).unwrap();
        cancel.cancel();
        store.unpack(&name, &blob, &cancel).unwrap_err();
        let trees = || fs::list(&scratch.path().join("store/redis")).unwrap().len();
        assert_eq!(trees(), 3);

        store.keep_only(std::slice::from_ref(&kept)).unwrap();
        assert_eq!(trees(), 1);
        assert_eq!(fs::read(&kept.tree().join("file")).unwrap(), b"text");
        assert!(!other.tree().exists());
    }
}
