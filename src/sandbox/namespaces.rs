//! `--isolation=namespace` and `--isolation=userns`: each script has its own mount and IPC namespaces, a PID namespace if `/proc` can be
//! mounted and, with `--network=none`, a network namespace.
//!
//! A package's *place* is a directory in the work directory. It contains the package's *tree*, which is mounted over the base directory
//! in a namespace that ends with the script. Nothing is mounted on the host. Unless the host is protected
//! ([`Protection`](super::Protection)), a script can also write to the host's files outside its tree.
//!
//! ```text
//! WORK/places/N/tree      → BASE          packages and data of the package; the rest of BASE is mounted into it
//!               tmp       → /tmp
//!               var-tmp   → /var/tmp
//!               dev-shm   → /dev/shm      in memory
//!               overlay     writes into dependencies, discarded
//!               root        with an image: an overlay over it, which is mounted as `/`
//! WORK/store/N/NAME         sealed dependencies, mounted into data/packages
//! WORK/scratch/NAME         scratch directories, mounted at data/NAME, unless they are kept elsewhere
//! ```
//!
//! An ordinary user cannot create a missing base directory. Then the tree is mounted over the nearest existing directory above it
//! (`/var`), and the other entries of that directory are mounted into the tree. The directory under the tree is the *covered* directory.

mod base;
mod directories;
mod entries;
mod probe;
#[cfg(test)]
mod tests;
mod view;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

use super::blocking::{UndoOnDrop, blocking};
use super::error::SandboxError;
use super::scratch::{self, Scratch};
use super::users::Users;
use super::view::Writes;
use crate::config::Vcap;
use crate::fs::{self, ChildDirectory, MadeDirectories};
use crate::process::ForkServer;
use crate::release::Name;

/// The file in the work directory that is locked while a script has processes.
pub(crate) const PROCESSES: &str = "processes";

/// The name of a place's tree, which is mounted over the covered directory.
const TREE: &str = "tree";

/// The name of a place's directory for the root file system.
const ROOT: &str = "root";

/// The name of a place's directory for the files that scripts write into dependencies.
const OVERLAY: &str = "overlay";

/// The directory in the work directory for scratch directories that packages share.
const SCRATCH: &str = "scratch";

/// The directories for temporary files that each script has to itself: the name in a place, and the path. Files and directories of the host
/// below these paths are mounted into them if an environment variable names them.
const TEMPORARY: [(&str, &str); 3] = [("tmp", "/tmp"), ("var-tmp", "/var/tmp"), MEMORY];

/// The entry of [`TEMPORARY`] that is in memory.
const MEMORY: (&str, &str) = ("dev-shm", "/dev/shm");

/// The sandbox of one run, if scripts have namespaces.
#[derive(Debug)]
pub struct Namespaces {
    work: PathBuf,
    vcap: Vcap,
    /// The covered directory: trees are mounted over it. It is the base directory, or one above it.
    cover: PathBuf,
    options: NamespaceOptions,
    writes: Writes,
    /// Whether scripts get PID namespaces.
    processes: bool,
    /// Whether the mounts of scripts are locked.
    locked: bool,
    /// The number of the next place.
    next: AtomicUsize,
    made: MadeDirectories,
    /// The base directory, locked so that no other run removes it, which would also remove the mounts over it. `None` if it does not exist.
    base: Option<File>,
    scratch: Scratch,
    /// The directory that contains the shared scratch directories: relative to the work directory, or with `--scratch-dir` absolute.
    scratch_root: PathBuf,
    /// Files and directories that are hidden from scripts, which find them empty.
    secrets: Vec<PathBuf>,
    image: Option<Image>,
    /// Forks the processes that examine the file systems over the host's entries.
    fork_server: ForkServer,
}

/// The root file system of scripts.
#[derive(Debug)]
struct Image {
    root: PathBuf,
    /// Whether changes of the root file system are stored in memory, not in the work directory.
    in_memory: bool,
}

/// Options of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceOptions {
    /// Whether writes into dependencies fail.
    pub readonly_dependencies: bool,
    /// Whether scripts can write only to their own directories.
    pub protect_host: bool,
    /// Whether scripts use the host's network.
    pub network: bool,
    /// The user namespace that this process has entered for its scripts.
    pub users: Option<Users>,
}

impl Default for NamespaceOptions {
    fn default() -> Self {
        Self {
            readonly_dependencies: false,
            protect_host: false,
            network: true,
            users: None,
        }
    }
}

/// A package's place: its directory in the work directory.
#[derive(Debug)]
pub(super) struct NamespacePlace {
    number: usize,
    /// Whether dependencies are copied into this place, not mounted.
    pub(super) copies: bool,
    /// Whether this place is not removed before the run ends, because processes that cannot be killed may still use it.
    set_aside: AtomicBool,
    /// The host's entries of the covered directory: source, mount point in the tree.
    kept: Vec<(PathBuf, PathBuf)>,
    /// Shared scratch directories: source, mount point in the tree.
    scratch: Vec<(PathBuf, PathBuf)>,
}

impl Namespaces {
    /// Sets which scratch directories packages share. By default, they end with the run.
    #[must_use]
    pub fn with_scratch(mut self, scratch: Scratch) -> Self {
        if let Some(kept) = scratch.kept() {
            kept.clone_into(&mut self.scratch_root);
        }
        self.scratch = scratch;
        self
    }

    /// Sets which files and directories are hidden from scripts, in addition to those in the agent's own directory.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Vec<PathBuf>) -> Self {
        self.secrets = secrets;
        self
    }

    /// The root file system of scripts, if it is not the host's.
    pub(super) fn image(&self) -> Option<&Path> {
        Some(&self.image.as_ref()?.root)
    }

    /// How writes into dependencies are handled.
    #[must_use]
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// Whether scripts can write only to their own directories.
    #[must_use]
    pub fn protects_host(&self) -> bool {
        self.options.protect_host
    }

    /// The user namespace that this process has entered for its scripts.
    #[must_use]
    pub fn users(&self) -> Option<Users> {
        self.options.users
    }

    /// Whether scripts get PID namespaces.
    #[must_use]
    pub fn has_processes(&self) -> bool {
        self.processes
    }

    /// Whether the mounts of scripts are locked.
    #[must_use]
    pub fn has_locked_mounts(&self) -> bool {
        self.locked
    }

    /// The file that is locked while a script has processes.
    pub(super) fn process_lock(&self) -> PathBuf {
        self.work.join(PROCESSES)
    }

    /// The path of a place, relative to the work directory.
    fn relative(place: &NamespacePlace) -> PathBuf {
        Path::new("places").join(place.number.to_string())
    }

    fn path(&self, place: &NamespacePlace) -> PathBuf {
        self.work.join(Self::relative(place))
    }

    /// The tree that is mounted over the covered directory.
    fn tree(&self, place: &NamespacePlace) -> PathBuf {
        self.path(place).join(TREE)
    }

    /// The directory that scripts see as the base directory.
    pub(super) fn root(&self, place: &NamespacePlace) -> PathBuf {
        match self.vcap.base().strip_prefix(&self.cover) {
            // Joining an empty path would add a slash.
            Ok(below) if below != Path::new("") => self.tree(place).join(below),
            _ => self.tree(place),
        }
    }

    /// Makes a path below the work directory relative to it. Other paths stay absolute.
    fn below_work(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.work).unwrap_or(path).to_owned()
    }

    fn is_base_covered(&self) -> bool {
        self.cover == self.vcap.base()
    }

    /// Checks that a script has not replaced the directories that contain its own.
    ///
    /// # Errors
    /// [`SandboxError::Replaced`].
    pub(super) fn check(&self, place: &NamespacePlace) -> Result<(), SandboxError> {
        let (tree, root) = (self.tree(place), Vcap::new(&self.root(place)));
        let directories = [root.packages(), root.data_packages(), root.compile()];
        let mut replaced: Vec<(PathBuf, PathBuf)> = Vec::new();
        for directory in &directories {
            let above = directory.ancestors().take_while(|above| *above != tree);
            let mut above: Vec<&Path> = above.collect();
            // Outermost first.
            above.reverse();
            for path in above {
                let Some(metadata) = fs::lookup(path)? else {
                    break;
                };
                if metadata.is_dir() {
                    continue;
                }
                let seen = self.cover.join(path.strip_prefix(&tree).unwrap_or(path));
                if replaced.iter().all(|(other, _)| *other != seen) {
                    let found = match metadata.is_symlink() {
                        true => fs::read_link(path)?,
                        false => seen.clone(),
                    };
                    replaced.push((seen, found));
                }
                break;
            }
        }
        match replaced.is_empty() {
            true => Ok(()),
            false => Err(SandboxError::Replaced {
                directories: replaced,
            }),
        }
    }

    /// Whether a script may fail because its dependencies are mounted. With read-only dependencies this is intended.
    pub(super) fn restricts(&self, place: &NamespacePlace) -> bool {
        !place.copies && !self.options.readonly_dependencies
    }

    /// Creates a place with these scratch directories. With `copies`, dependencies are copied into it, not mounted. A cancellation ends
    /// the wait for a file system.
    pub(super) async fn enter(
        self: &Arc<Self>,
        copies: bool,
        scratch: &[Name],
        cancel: &CancellationToken,
    ) -> Result<Arc<NamespacePlace>, SandboxError> {
        let (own, scratch) = (Arc::clone(self), scratch.to_vec());
        let cancel = cancel.child_token();
        // Also end the wait if the returned future is dropped.
        let _canceled = cancel.clone().drop_guard();
        let entered = blocking("enter", move || {
            own.check_entries(&cancel)?;
            let place = own.make_place(copies, &scratch)?;
            let undo = move |place: &NamespacePlace| own.leave(place);
            Ok(UndoOnDrop::new(place, undo))
        });
        entered.await.map(UndoOnDrop::keep)
    }

    /// The path of a shared scratch directory, which may not exist.
    pub(super) fn scratch_directory(&self, name: &Name) -> Option<PathBuf> {
        let is_shared = self.scratch.is_shared();
        is_shared.then(|| self.work.join(&self.scratch_root).join(name.as_str()))
    }

    /// A shared scratch directory, which scripts may replace.
    pub(super) fn examinable_scratch(&self, name: &Name) -> Option<ChildDirectory> {
        if !self.scratch.is_shared() {
            return None;
        }
        if let Some(kept) = self.scratch.in_kept(name) {
            return kept.ok();
        }
        // The directory of all scratch directories may be missing.
        let work = fs::open(&self.work).ok()?;
        ChildDirectory::new(work.as_fd(), self.scratch_root.join(name.as_str())).ok()
    }

    /// Removes the content of shared scratch directories while no script runs. Returns `false` if there was nothing to remove.
    pub(super) fn discard_scratch(&self) -> fs::Result<bool> {
        scratch::discard(&self.work.join(&self.scratch_root))
    }

    /// Creates the mount point of a dependency, or copies the dependency.
    pub(super) fn provide(
        place: &NamespacePlace,
        sealed: &Path,
        install: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), SandboxError> {
        match place.copies {
            true => fs::copy_tree_until(sealed, install, stop)?,
            false => fs::create_dir(install)?,
        }
        Ok(())
    }

    /// Excludes a place from removal until the work directory is removed. Returns its path.
    pub(super) fn set_aside(&self, place: &NamespacePlace) -> PathBuf {
        place.set_aside.store(true, Ordering::Relaxed);
        self.path(place)
    }

    pub(super) fn leave(&self, place: &NamespacePlace) -> Result<(), SandboxError> {
        if place.set_aside.load(Ordering::Relaxed) {
            return Ok(());
        }
        Ok(fs::remove_tree(&self.path(place))?)
    }

    /// Removes the base directory if this run created it and no other run has mounted anything over it.
    pub(super) fn close(&self) {
        if let Some(base) = &self.base {
            // Removal fails while it is locked.
            let _ = base.unlock();
        }
        self.made.remove_empty();
    }
}
