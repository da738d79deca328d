//! Installed packages of one run, each once, sealed.

use std::path::{Path, PathBuf};

use super::seal::seal;
use crate::archive::{self, UnpackError};
use crate::fs;
use crate::release::Name;

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

    /// Installs a package from its compiled blob.
    ///
    /// # Errors
    /// When the blob cannot be unpacked.
    pub fn unpack(&self, name: &Name, blob: &Path) -> Result<Installed, UnpackError> {
        let installed = self.place(name)?;
        fs::create_dir(installed.tree())?;
        // An archive without an entry for its root leaves this.
        fs::set_mode(installed.tree(), 0o755)?;
        archive::unpack_file(blob, installed.tree())?;
        Ok(installed)
    }

    /// Removes a package that nobody will be compiled against any more.
    ///
    /// # Errors
    /// What the system answered.
    pub fn remove(&self, installed: &Installed) -> fs::Result<()> {
        fs::remove_tree(installed.tree())
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
