//! Mounts in the tree: those that scripts of this run have left, and those of packages of another agent.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};

use super::SharedTree;
use crate::fs;
use crate::release::Name;
use crate::sandbox::error::SandboxError;

/// The maximum number of mounts that are unmounted, one after the other.
const LIMIT: usize = 10_000;

impl SharedTree {
    /// Checks that no packages of another agent contain mounts, or are in a mount over one of the tree's directories: a script may have
    /// mounted a directory of the host there, and `--force` would remove its files.
    pub(super) fn check_no_mounts(&self) -> Result<(), SandboxError> {
        let real = |entry: &PathBuf| {
            let parent = fs::canonicalize(fs::parent(entry)).ok()?;
            Some(parent.join(entry.file_name()?))
        };
        let entries: Vec<PathBuf> = self.entries()?.iter().filter_map(real).collect();
        let concerns = |mount: &Path| {
            let is_over = |entry: &PathBuf| fs::parent(entry) == mount;
            let is_inside = |entry: &PathBuf| mount.starts_with(entry);
            entries
                .iter()
                .any(|entry| is_over(entry) || is_inside(entry))
        };
        let mut mounts = self.mounts.iter().flatten();
        match mounts.find(|mount| concerns(&mount.path)) {
            None => Ok(()),
            Some(mount) => Err(SandboxError::ForeignMount {
                directory: mount.path.clone(),
            }),
        }
    }

    /// Unmounts file systems that scripts have mounted during this run over the tree's directories, or above them. Resolves no path before
    /// that, because a file system that does not respond would block this process.
    pub(super) fn unmount_covering(&self) -> fs::Result<()> {
        let [base, data, ..] = self.pinned.as_slice() else {
            return Ok(());
        };
        let roots = [base.real(), data.real()];
        self.unmount_new_where(
            || {
                move |mount: &Path| {
                    let mut own = self.pinned.iter();
                    own.any(|own| own.real().starts_with(mount))
                        && roots.iter().any(|root| mount.starts_with(root))
                }
            },
            |_| None,
        )
    }

    /// Unmounts file systems that scripts have mounted during this run: over the tree's directories or above them, and in the directories
    /// of `package` or, if it is `None`, of all packages. If a file system cannot be unmounted, sets aside the directory that contains it.
    pub(super) fn unmount_new(&self, package: Option<&Name>) -> fs::Result<()> {
        let entry = |mount: &Path| self.entry_above(mount);
        self.unmount_new_where(|| self.in_tree(package), entry)
    }

    /// Unmounts file systems that the script of a package has left in the package's directories, over the tree's directories, or above
    /// them. Removes nothing. Must precede the use of the files: a file system that does not respond would block it.
    ///
    /// # Errors
    /// A file system cannot be unmounted.
    pub(crate) fn unmount_left(&self, package: &Name) -> fs::Result<()> {
        self.unmount_covering()?;
        self.unmount_new_where(|| self.in_tree(Some(package)), |_| None)
    }

    /// Unmounts file systems that scripts have mounted during this run over or in these other directories in the data directory.
    pub(super) fn unmount_new_data(&self, names: &[Name]) -> fs::Result<()> {
        self.unmount_covering()?;
        self.unmount_new_where(
            || {
                let directories = self.data_directories(names);
                move |mount: &Path| directories.iter().any(|own| mount.starts_with(own))
            },
            |_| None,
        )
    }

    /// Unmounts those of the new mounts that are `is_ours`. If one cannot be unmounted, sets aside the tree that `set_aside` returns for
    /// it; without a tree, this is an error.
    fn unmount_new_where<F: Fn(&Path) -> bool>(
        &self,
        is_ours: impl FnOnce() -> F,
        set_aside: impl Fn(&Path) -> Option<PathBuf>,
    ) -> fs::Result<()> {
        let Some(before) = &self.mounts else {
            return Ok(());
        };
        let is_ours = LazyCell::new(is_ours);
        for _ in 0..LIMIT {
            let now = fs::mount_points().unwrap_or_default();
            let new = now.into_iter().filter(|mount| !before.contains(mount));
            // The outermost first, which also removes the mounts in it. An inner one could be a peer of a mount of the host, which
            // would be removed, too, if the inner one were unmounted by itself.
            let outermost = new
                .filter(|mount| is_ours(&mount.path))
                .min_by_key(|mount| mount.path.as_os_str().len());
            let Some(mount) = outermost else {
                return Ok(());
            };
            if let Err(error) = fs::unmount(&mount.path) {
                let Some(entry) = set_aside(&mount.path) else {
                    return Err(error);
                };
                self.remove_or_set_aside(&entry)?;
                continue;
            }
            tracing::warn!(path = %mount.path.display(), "unmounted a file system that a packaging script left mounted");
        }
        Ok(())
    }

    /// The package directory that contains a path.
    fn entry_above(&self, path: &Path) -> Option<PathBuf> {
        self.contents().into_iter().find_map(|directory| {
            let real = fs::canonicalize(&directory).unwrap_or(directory);
            let mut below = path.strip_prefix(&real).ok()?.components();
            let entry = real.join(below.next()?);
            below.next().map(|_| entry)
        })
    }

    /// Whether a mount covers the tree's directories, or is in the directories of all packages or of one.
    fn in_tree(&self, package: Option<&Name>) -> impl Fn(&Path) -> bool + use<> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // The data directory may be a link to another disk.
        let roots = [real(self.base()), real(&self.vcap.data())];
        let own: Vec<PathBuf> = self
            .contents()
            .iter()
            .map(|directory| real(directory))
            .collect();
        let inside = own.iter().cloned().chain([real(&self.temporary())]);
        let inside: Vec<PathBuf> = match package {
            Some(package) => inside.map(|it| it.join(package.as_str())).collect(),
            None => {
                let data: Vec<Name> = self.data_names().iter().cloned().collect();
                inside.chain(self.data_directories(&data)).collect()
            }
        };
        move |mount| {
            let covers = own.iter().any(|own| own.starts_with(mount))
                && roots.iter().any(|root| mount.starts_with(root));
            covers || inside.iter().any(|inside| mount.starts_with(inside))
        }
    }

    /// The paths, without links, of other directories in the data directory, and of directories in which scratch is kept.
    fn data_directories(&self, names: &[Name]) -> Vec<PathBuf> {
        let data = self.vcap.data();
        let data = fs::canonicalize(&data).unwrap_or(data);
        let above = std::iter::once(data.as_path()).chain(self.scratch.kept());
        above
            .flat_map(|above| names.iter().map(|name| above.join(name.as_str())))
            .collect()
    }
}
