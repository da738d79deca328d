//! Sets files and directories aside: renames them into the data directory, because they cannot be removed, or so that they can be removed
//! while the run continues.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::SharedTree;
use super::removals::Doomed;
use crate::config::PackagePaths;
use crate::diag::Chain;
use crate::fs::{self, Pinned};

/// The prefix of the names, in the data directory, of files and directories that were set aside. This run or the next one removes them.
pub(super) const SET_ASIDE: &str = ".bosh-agent-left-";

impl SharedTree {
    /// Removes a file or tree of this run or a killed one. If that fails, sets it aside, and the next run tries again.
    pub(super) fn remove_or_set_aside(&self, path: &Path) -> fs::Result<()> {
        let Err(error) = fs::remove_tree(path) else {
            return Ok(());
        };
        let Some(metadata) = fs::lookup(path)? else {
            return Ok(());
        };
        let aside = self.set_aside_path(metadata.ino());
        match fs::rename_tree(path, &aside) {
            Ok(true) => {
                tracing::warn!(
                    error = %Chain(&error),
                    hint = error.hint(),
                    path = %aside.display(),
                    "could not remove what a packaging script left; it was moved out of the way, and the next run tries again"
                );
                Ok(())
            }
            Ok(false) | Err(_) => Err(error),
        }
    }

    /// Sets a directory aside, so that its name can be used again, and removes it while the run continues.
    pub(super) fn remove_later(&self, path: &Path) -> fs::Result<()> {
        let data = self.pinned_data().and_then(Pinned::directory);
        let found = fs::lookup(path)?.filter(|found| found.is_dir());
        let (Some(data), Some(metadata)) = (data, found) else {
            return self.remove_or_set_aside(path);
        };
        let aside = self.set_aside_path(metadata.ino());
        match fs::rename_tree(path, &aside) {
            Ok(true) => self.removals.add(Doomed::new(data, &aside)?),
            // For example, the directory is on another file system.
            Ok(false) | Err(_) => return self.remove_or_set_aside(path),
        }
        Ok(())
    }

    /// Removes the files and directories that earlier runs have set aside, while this run continues. No other run may use the tree.
    pub(super) fn remove_set_aside(&self) -> fs::Result<()> {
        let data = self.vcap.data();
        let entries = fs::list(&data).unwrap_or_default();
        let names = entries.iter().map(std::fs::DirEntry::file_name);
        let mut names = names
            .filter(|name| name.to_string_lossy().starts_with(SET_ASIDE))
            .peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        let directory = fs::open(&data)?;
        for name in names {
            let tree = Doomed::new(directory.as_fd(), &data.join(name))?;
            self.removals.add(tree);
        }
        Ok(())
    }

    pub(super) fn set_aside_path(&self, inode: u64) -> PathBuf {
        let name = format!("{SET_ASIDE}{}-{inode}", std::process::id());
        self.vcap.data().join(name)
    }

    /// Moves the directories of a package whose processes cannot be killed into a new directory, which the next run removes. Returns its
    /// path, or `None` if that fails.
    pub(in crate::sandbox) fn set_aside(&self, paths: &PackagePaths) -> Option<PathBuf> {
        // If a script replaced a directory, its content may belong to others.
        self.check().ok()?;
        let aside = self.set_aside_path(fs::lookup(&paths.compile).ok()??.ino());
        fs::create_dir(&aside).ok()?;
        let temporary = self.temporary().join(fs::file_name(&paths.compile));
        for (directory, name) in [
            (&paths.compile, "compile"),
            (&paths.packages, "packages"),
            (&temporary, "tmp"),
        ] {
            let is_there = fs::lookup(directory).ok()?.is_some();
            if is_there && !fs::rename_tree(directory, &aside.join(name)).ok()? {
                return None;
            }
        }
        Some(aside)
    }
}
