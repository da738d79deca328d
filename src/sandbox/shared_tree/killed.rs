//! Removes what a killed run left in the tree.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::links::Links;
use super::marker::{DATA, DIRECTORIES};
use super::{PATIENCE, SharedTree};
use crate::fs;
use crate::release::Name;
use crate::sandbox::error::SandboxError;

impl SharedTree {
    /// Waits for the processes of a killed run. Returns its marker, or `None` if there is none.
    pub(super) fn marker_of_killed_run(
        &self,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<String>, SandboxError> {
        self.remove_replaced_marker()?;
        let marker = self.marker();
        if fs::lookup(&marker)?.is_none() {
            return Ok(None);
        }
        if !fs::wait_until_free(&marker, PATIENCE, stop)? {
            return Err(SandboxError::Busy {
                base: self.vcap.base().to_owned(),
                holder: "processes of a run that was killed".to_owned(),
            });
        }
        Ok(Some(fs::read_lossy(&marker)?))
    }

    /// Removes what a killed run left, according to its marker.
    pub(super) fn clear_after_killed_run(&self, marker: &str) -> Result<(), SandboxError> {
        let own = self.uncover(marker)?;
        self.remove_named(marker, &own)?;
        self.remove_older_than(&self.marker(), &own)
    }

    /// Removes the mounts over the tree's directories that the script of a killed run made: what is there does not belong to the tree.
    /// Links that it made in their places have already been removed. Returns the directories that belong to the tree.
    fn uncover(&self, marker: &str) -> Result<Vec<PathBuf>, SandboxError> {
        let inodes = marker
            .lines()
            .find_map(|line| line.strip_prefix(DIRECTORIES));
        let Some(inodes) = inodes else {
            return Ok(self.contents().to_vec());
        };
        // Whether all links on the way to the directories are those from before the script.
        let are_links_known = Links::noted_in(marker).is_some();
        let base = fs::canonicalize(self.base())?;
        let mounts = fs::mount_points().unwrap_or_default();
        let mut own = Vec::new();
        for (directory, inode) in self.contents().into_iter().zip(inodes.split_whitespace()) {
            let is_noted = |path: &Path| -> fs::Result<bool> {
                Ok(fs::metadata(path)?.ino().to_string() == inode)
            };
            let real = fs::canonicalize(&directory)?;
            let is_in_base = directory
                .strip_prefix(self.base())
                .is_ok_and(|below| real == base.join(below));
            // Behind an unknown link there may be a mount that no script made.
            let is_own = are_links_known || is_in_base;
            if is_own {
                for _ in mounts.iter().filter(|mount| mount.path == real) {
                    if !is_noted(&real)? {
                        fs::unmount(&real)?;
                    }
                }
            }
            // A script may have created it again.
            if is_own || is_noted(&directory)? {
                own.push(directory);
            }
        }
        Ok(own)
    }

    /// Removes what a marker names.
    fn remove_named(&self, marker: &str, own: &[PathBuf]) -> Result<(), SandboxError> {
        for line in marker.lines() {
            if let Some(data) = line.strip_prefix(DATA) {
                if let Ok(name) = Name::parse(data) {
                    self.remove_or_set_aside(&self.vcap.data().join(name.as_str()))?;
                }
            } else if let Ok(name) = Name::parse(line) {
                for directory in own {
                    self.remove_or_set_aside(&directory.join(name.as_str()))?;
                }
            }
        }
        Ok(())
    }

    /// Removes what is older than the marker. The tree was empty when the marker was created, and the parent of a script sets its
    /// mtime when the last process has ended: so the script created what is older.
    fn remove_older_than(&self, marker: &Path, own: &[PathBuf]) -> Result<(), SandboxError> {
        let end = fs::metadata(marker)?;
        for entry in self.entries_of(own)? {
            if let Some(metadata) = fs::lookup(&entry)?
                && (metadata.ctime(), metadata.ctime_nsec()) < (end.mtime(), end.mtime_nsec())
            {
                self.remove_or_set_aside(&entry)?;
            }
        }
        Ok(())
    }
}
