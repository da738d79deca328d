//! Directories in the data directory, other than those of packages: shared scratch, and directories that one package has to itself.

use std::path::{Path, PathBuf};

use super::SharedTree;
use crate::fs::{self, ChildDirectory};
use crate::release::Name;
use crate::sandbox::error::SandboxError;
use crate::sandbox::scratch;

impl SharedTree {
    /// Whether packages share scratch directories.
    pub(in crate::sandbox) fn shares_scratch(&self) -> bool {
        self.scratch.is_shared()
    }

    /// The directory in which scratch is kept for later runs, if scripts can be denied access to each other's scratch there.
    pub(in crate::sandbox) fn separable_scratch(&self) -> Option<&Path> {
        self.scratch.separable()
    }

    /// The path of a shared scratch directory, which may not exist.
    pub(in crate::sandbox) fn scratch_directory(&self, name: &Name) -> Option<PathBuf> {
        let kept = self.scratch.kept();
        let directory = kept.map_or_else(
            || self.vcap.scratch(name),
            |kept| Some(kept.join(name.as_str())),
        );
        directory.filter(|_| self.shares_scratch())
    }

    /// A shared scratch directory, which scripts may replace.
    pub(in crate::sandbox) fn examinable_scratch(&self, name: &Name) -> Option<ChildDirectory> {
        if !self.shares_scratch() {
            return None;
        }
        if let Some(kept) = self.scratch.in_kept(name) {
            return kept.ok();
        }
        let data = self.pinned_data()?.directory()?;
        ChildDirectory::new(data, name.as_str()).ok()
    }

    /// Creates shared scratch directories: for this run or, with `--scratch-dir`, in the directory that is kept. Existing ones are used as
    /// they are.
    pub(in crate::sandbox) fn share(&self, names: &[Name]) -> Result<(), SandboxError> {
        self.unmount_new_data(names)?;
        for name in names {
            let Some(path) = self.vcap.scratch(name) else {
                continue;
            };
            let exists = fs::lookup(&path)?.is_some();
            let Some(kept) = self.scratch.kept() else {
                if !exists {
                    self.note_data(name)?;
                    scratch::make(&path)?;
                }
                continue;
            };
            if exists && !self.data_names().contains(name) {
                continue;
            }
            let is_in_place = fs::canonicalize(fs::parent(&path))? == kept;
            let target = self.scratch.make_kept(name)?;
            if let Some(target) = target.filter(|_| !exists && !is_in_place) {
                self.note_data(name)?;
                fs::symlink(&target, &path)?;
            }
        }
        Ok(())
    }

    /// Notes a directory that one package gets to itself and, with `make`, creates it. Does nothing and returns `false` if the path exists.
    pub(in crate::sandbox) fn make_private(
        &self,
        name: &Name,
        make: bool,
    ) -> Result<bool, SandboxError> {
        self.unmount_new_data(std::slice::from_ref(name))?;
        let path = self.vcap.data().join(name.as_str());
        if fs::lookup(&path)?.is_some() {
            return Ok(false);
        }
        self.note_data(name)?;
        if make {
            scratch::make(&path)?;
        }
        Ok(true)
    }

    /// Removes data directories and their notes.
    pub(in crate::sandbox) fn remove_data(&self, names: &[Name]) -> fs::Result<()> {
        self.restore_directories()?;
        self.unmount_new_data(names)?;
        fs::remove_each(names, |name| {
            self.remove_or_set_aside(&self.vcap.data().join(name.as_str()))?;
            self.data_names().remove(name);
            Ok(())
        })
    }

    /// Removes the content of scratch directories, also of those that are kept, while no script runs. Returns `false` if they were empty.
    pub(in crate::sandbox) fn discard_scratch(&self) -> fs::Result<bool> {
        let names: Vec<Name> = self.data_names().iter().cloned().collect();
        self.unmount_new_data(&names)?;
        let mut found = self.scratch.discard_kept()?;
        for name in &names {
            found |= !fs::list(&self.vcap.data().join(name.as_str()))?.is_empty();
        }
        self.remove_data(&names)?;
        Ok(found)
    }
}
