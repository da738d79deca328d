//! The store: the directory with the installed packages of one run. Also counts the users that each package still has.
//!
//! The directory of an installed package is its *tree*. Before dependents use a tree that a script has installed, the store *seals* it
//! ([`seal`]): makes it equal to the tree that results from unpacking the compiled blob. The store also saves the state of each tree's files
//! in a *record*, with which the tree is compared later.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use super::installed::{Installed, KnownBlob, KnownBlobError};
use super::queue::Id;
use super::script_runs::ScriptRuns;
use super::seal::{self, Examined, Unsealed};
use super::source_date::SourceDate;
use crate::archive::{self, UnpackError};
use crate::fs::{self, Record};
use crate::release::digest::DigestMismatch;
use crate::release::{Digests, Name};
use crate::runtime::Cancellable;

/// A directory of installed packages.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    /// The number of the next tree. Paths of trees contain numbers because several packages can have the same name.
    next: Arc<AtomicUsize>,
    script_runs: ScriptRuns,
}

/// Why a compiled package cannot be installed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompiledBlobError {
    /// The blob was changed after its digest had been verified.
    #[error(transparent)]
    Changed(DigestMismatch),
    /// The blob cannot be read or unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

impl From<fs::Error> for CompiledBlobError {
    fn from(error: fs::Error) -> Self {
        Self::Unpack(error.into())
    }
}

impl From<KnownBlobError> for CompiledBlobError {
    fn from(error: KnownBlobError) -> Self {
        match error {
            KnownBlobError::File(error) => error.into(),
            KnownBlobError::Changed(mismatch) => Self::Changed(mismatch),
        }
    }
}

impl Store {
    /// A store in `directory`, which exists and is empty.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            next: Arc::default(),
            script_runs: ScriptRuns::default(),
        }
    }

    /// The runs of scripts, which may have changed trees in the store.
    pub(super) fn script_runs(&self) -> &ScriptRuns {
        &self.script_runs
    }

    /// Seals a tree and moves it into the store, for dependents.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn seal(&self, name: &Name, tree: &Path) -> fs::Result<Installed> {
        let (installed, _) = self.seal_examined(name, tree, seal::examine(tree)?, None)?;
        installed.forget_blob();
        Ok(installed)
    }

    /// Seals an examined tree and moves it into the store. Also returns the properties that packing needs and that sealing has removed.
    /// File times later than `newest` are set to `newest`.
    pub(super) fn seal_examined(
        &self,
        name: &Name,
        tree: &Path,
        examined: Examined,
        newest: Option<SourceDate>,
    ) -> fs::Result<(Installed, Unsealed)> {
        let stored = self.new_tree(name)?;
        let unsealed = seal::seal(tree, examined, newest)?;
        fs::move_tree(tree, &stored)?;
        // Make the record after the move, because the move changes the root directory.
        let record = Record::of(&stored)?;
        Ok((Installed::to_be_packed(stored, record), unsealed))
    }

    /// Moves the tree of a package without dependents into the store, for packing. Does not seal it. Returns `None` if the tree is on
    /// another file system and would have to be copied.
    pub(super) fn move_to_pack(&self, name: &Name, tree: &Path) -> fs::Result<Option<Installed>> {
        let stored = self.new_tree(name)?;
        if !fs::rename_tree(tree, &stored)? {
            return Ok(None);
        }
        let record = Record::of(&stored)?;
        Ok(Some(Installed::to_be_packed(stored, record)))
    }

    /// Installs a package from its compiled blob. After a cancellation, unpacking fails at its next read.
    ///
    /// # Errors
    /// If the blob cannot be unpacked. The partial tree remains until [`keep_only`](Self::keep_only) removes it.
    pub fn unpack(
        &self,
        name: &Name,
        blob: &Path,
        cancel: &CancellationToken,
    ) -> Result<Installed, UnpackError> {
        self.unpack_opened(name, fs::open_file(blob)?, cancel)
    }

    /// Installs a package from a compiled blob, whose digests are verified. Remembers the blob, from which the package is reinstalled if its
    /// tree is changed.
    pub(super) fn unpack_compiled(
        &self,
        name: &Name,
        (blob, digests): (&Path, &Digests),
        cancel: &CancellationToken,
    ) -> Result<Installed, CompiledBlobError> {
        let known = KnownBlob::new(blob, digests);
        let opened = match &known {
            None => fs::open_file(blob)?,
            Some(known) => known.open(cancel)?,
        };
        let installed = self.unpack_opened(name, opened, cancel)?;
        installed.set_blob(known);
        Ok(installed)
    }

    fn unpack_opened(
        &self,
        name: &Name,
        blob: File,
        cancel: &CancellationToken,
    ) -> Result<Installed, UnpackError> {
        let tree = self.new_tree(name)?;
        create_root(&tree)?;
        archive::unpack_whole(Cancellable::new(blob, cancel), &tree)?;
        let record = Record::of(&tree)?;
        Ok(Installed::new(tree, record))
    }

    /// Removes a package that no dependent needs any more.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn remove(&self, installed: &Installed) -> fs::Result<()> {
        fs::remove_each(installed.trees(), |tree| fs::remove_tree(fs::parent(&tree)))
    }

    /// Removes all trees except those of the `kept` packages. The removed trees are unused or partial.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn keep_only(&self, kept: &[Installed]) -> fs::Result<()> {
        for entry in fs::list(&self.directory)? {
            let directory = entry.path();
            if kept
                .iter()
                .all(|installed| fs::parent(&installed.tree()) != directory)
            {
                fs::remove_tree(&directory)?;
            }
        }
        Ok(())
    }

    /// Creates a directory for a new tree and returns the path of the tree, which does not exist yet. The directory contains only this tree,
    /// which has the name of its package. Therefore, the directories of several dependencies can be the layers of one overlay.
    pub(super) fn new_tree(&self, name: &Name) -> fs::Result<PathBuf> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join(number.to_string());
        fs::create_dir_all(&directory)?;
        Ok(directory.join(name.as_str()))
    }
}

/// Creates the root of a tree for unpacking. It keeps this mode if the archive does not list the root.
pub(super) fn create_root(tree: &Path) -> fs::Result<()> {
    fs::create_dir(tree)?;
    fs::set_mode(tree, 0o755)
}

/// Installed packages, each with the number of its remaining users: dependents that are not compiled yet, and packing.
#[derive(Debug, Default)]
pub(super) struct Users {
    packages: HashMap<Id, (usize, Option<Installed>)>,
}

impl Users {
    /// Records that the package has another user.
    pub(super) fn expect(&mut self, package: Id) {
        self.packages.entry(package).or_default().0 += 1;
    }

    /// Records that the package was installed. Returns the package if it has no users any more, so that the caller removes it.
    #[must_use]
    pub(super) fn keep(&mut self, package: Id, installed: Installed) -> Option<Installed> {
        match self.packages.get_mut(&package) {
            Some((_, kept)) => kept.replace(installed),
            None => Some(installed),
        }
    }

    /// The installed package, while it has users.
    pub(super) fn get(&self, package: Id) -> Option<&Installed> {
        self.packages.get(&package)?.1.as_ref()
    }

    /// How many users the package has.
    pub(super) fn count(&self, package: Id) -> usize {
        self.packages.get(&package).map_or(0, |(count, _)| *count)
    }

    /// Records that a user no longer needs the package. Returns the package if this was the last user, so that the caller removes it.
    #[must_use]
    pub(super) fn release(&mut self, package: Id) -> Option<Installed> {
        let (count, _) = self.packages.get_mut(&package)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.packages.remove(&package)?.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{EntryHeader, EntryWriter, Kind};
    use crate::compile::{Graph, scratch};
    use crate::config::Vcap;

    #[test]
    fn package_is_kept_until_its_last_user() {
        let mut graph = Graph::default();
        let lib = graph.add(&[], std::time::Duration::ZERO, Vec::new());
        let mut users = Users::default();
        users.expect(lib);
        users.expect(lib);
        assert_eq!(users.get(lib), None);
        let installed = Installed::new(PathBuf::from("store/0/lib"), Record::default());
        assert_eq!(users.keep(lib, installed.clone()), None);
        assert_eq!(users.release(lib), None);
        assert_eq!(users.get(lib), Some(&installed));
        assert_eq!(users.release(lib), Some(installed.clone()));
        assert_eq!(users.get(lib), None);
        assert_eq!(users.keep(lib, installed.clone()), Some(installed));
    }

    #[test]
    fn packages_of_one_name_get_different_trees() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::new(scratch.path());
        let name = Name::parse("lib").unwrap();
        let installed = [0, 1].map(|number| {
            let tree = scratch.path().join(format!("made-{number}"));
            fs::create_dir(&tree).unwrap();
            store.seal(&name, &tree).unwrap()
        });
        assert_ne!(installed[0].tree(), installed[1].tree());
        store.remove(&installed[0]).unwrap();
        assert!(!installed[0].tree().exists() && installed[1].tree().exists());
    }

    #[test]
    fn names_for_dependents_are_those_of_the_sealed_tree() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::new(&scratch.path().join("store"));
        let tree = scratch.path().join("made");
        fs::create_dir_all(&tree.join("bosh")).unwrap();
        fs::write(
            &tree.join("bosh/compile.env"),
            b"export GOCACHE=/var/vcap/data/golang/cache",
        )
        .unwrap();
        let installed = store.seal(&Name::parse("golang").unwrap(), &tree).unwrap();

        let changed = installed.tree().join("bosh/compile.env");
        fs::write(&changed, b"export GOCACHE=/var/vcap/data/other/cache").unwrap();
        let vcap = Vcap::new(Path::new("/var/vcap"));
        let names = scratch::named_for_dependents(&installed, &vcap);
        assert_eq!(names, [Name::parse("golang").unwrap()].into());
    }

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
    fn keep_only_removes_partial_and_unused_trees() {
        let (scratch, store, name, blob) = store();
        let cancel = CancellationToken::new();
        let kept = store.unpack(&name, &blob, &cancel).unwrap();
        let other = store.unpack(&name, &blob, &cancel).unwrap();
        cancel.cancel();
        store.unpack(&name, &blob, &cancel).unwrap_err();
        let trees = || fs::list(&scratch.path().join("store")).unwrap().len();
        assert_eq!(trees(), 3);

        store.keep_only(std::slice::from_ref(&kept)).unwrap();
        assert_eq!(trees(), 1);
        assert_eq!(fs::read(&kept.tree().join("file")).unwrap(), b"text");
        assert!(!other.tree().exists());
    }
}
