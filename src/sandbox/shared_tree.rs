//! The directories of packages below the base directory, used in place: by one package after another with `--isolation=none`, as the
//! Go agent does, and by several at a time with `--isolation=landlock` or `--jobs` above 1.
//!
//! The Go agent removes all installed packages when it starts, which would break a live VM. This agent uses the directories only if they
//! are empty, and leaves them as they were. Its marker file names the packages that this run puts there, so that the run after a killed
//! one removes exactly these.
//!
//! Other directories in the data directory (`BASE/data/NAME`) are used as they are if they exist. The marker names those that this run
//! created.

mod aside;
mod data;
mod killed;
mod links;
mod lock;
mod marker;
mod mounts;
mod notes;
mod origin;
mod own_file;
mod removals;
mod silent;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::links::Links;
use self::lock::LockNotes;
use self::removals::Removals;
pub(super) use self::silent::Responses;
pub(crate) use self::silent::SilentMount;
use super::error::SandboxError;
use super::scratch::Scratch;
use crate::config::Vcap;
use crate::diag::Chain;
use crate::fs::{self, MadeDirectories, MountPoint, Pinned};
use crate::release::Name;

/// The name of the marker file in the directory of packages. It is not a valid package name.
const MARKER: &str = ".bosh-agent:compile";

/// The name of the directory, in the data directory, that has a `TMPDIR` for each package, if packages have private ones.
const TEMPORARY: &str = ".bosh-agent-tmp";

/// How long to wait for the processes of a killed run, before they are killed. Usually, their parent has stopped them earlier: within the
/// grace time of that run.
const PATIENCE: Duration = Duration::from_secs(30);

/// The directories of packages below the base directory, locked for one run.
#[derive(Debug)]
pub struct SharedTree {
    vcap: Vcap,
    /// Describes this run to other runs that find the tree locked.
    who: String,
    lock: Mutex<File>,
    /// The marker file. This run holds a lock on it, too.
    held: Mutex<Option<File>>,
    /// Those of the data directory and the directories above it that this run created.
    made_outside: MadeDirectories,
    /// The directories of packages that this run created.
    made: MadeDirectories,
    /// The directories that contain those of scripts, outermost first, as they were at the start of the run.
    pinned: Vec<Pinned>,
    /// Those of the pinned directories that were links at the start of the run.
    links: Links,
    /// The mounts at the start of the run; `None` if they are unknown.
    mounts: Option<Vec<MountPoint>>,
    scratch: Scratch,
    /// The names of other directories in the data directory that this run created, or that its scripts may create.
    data_names: Mutex<BTreeSet<Name>>,
    removals: Removals,
}

impl SharedTree {
    /// Locks the tree for this run. `who` describes this run to other runs that find it locked. With `removes_foreign`, removes packages
    /// of another agent. Waits for processes of a killed run until `stop` returns true.
    ///
    /// # Errors
    /// Another process compiles here, there are packages of another agent, or the directories cannot be created.
    pub fn take(
        vcap: &Vcap,
        who: &str,
        removes_foreign: bool,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, SandboxError> {
        lock::check_data(vcap, &vcap.packages().join(MARKER))?;
        let mut made_outside = MadeDirectories::default();
        let (lock, notes) = lock::lock(vcap, who, &mut made_outside)
            .inspect_err(|_| made_outside.remove_empty())?;
        let mut tree = Self {
            vcap: vcap.clone(),
            who: who.to_owned(),
            lock: Mutex::new(lock),
            held: Mutex::default(),
            made_outside,
            made: MadeDirectories::default(),
            pinned: Vec::new(),
            links: Links::default(),
            mounts: None,
            scratch: Scratch::default(),
            data_names: Mutex::default(),
            removals: Removals::default(),
        };
        let has_notes = !notes.text.is_empty();
        let recovered = match removes_foreign || has_notes {
            true => tree.remove_files_of_scripts().map_err(Into::into),
            false => Ok(()),
        };
        recovered
            .and_then(|()| tree.recover(&notes, stop))
            .inspect_err(|_| tree.leave_to_next_run(has_notes))?;
        match tree.prepare(removes_foreign) {
            Ok(()) => Ok(tree),
            Err(error) => {
                tree.release();
                Err(error)
            }
        }
    }

    /// Checks that the script of a killed run has not replaced the data directory with a link or mounted a file system over it. Unmounts
    /// file systems that this script has mounted over the tree's directories and that do not respond. Returns the other mounts that do not
    /// respond: with them, the tree cannot be used.
    ///
    /// # Errors
    /// [`SandboxError::LeftLink`], [`SandboxError::LeftMount`], and [`SandboxError::SilentMount`] for the data directory.
    pub(super) fn check_data(
        vcap: &Vcap,
        responses: Responses<'_>,
    ) -> Result<Vec<SilentMount>, SandboxError> {
        let silent = silent::unmount_left(vcap, responses)?;
        let is_above_data = |it: &&SilentMount| vcap.data().starts_with(&it.directory);
        if let Some(silent) = silent.iter().find(is_above_data) {
            return Err(silent.clone().into());
        }
        if silent::has(&silent, &vcap.packages()) {
            // The notes of a killed run are in this directory and cannot be read.
            return Ok(silent);
        }
        lock::check_data(vcap, &vcap.packages().join(MARKER))?;
        Ok(silent)
    }

    /// Checks that all file systems that are mounted over the directories of the tree respond. Unmounts those that do not respond and that
    /// the script of a killed run has mounted. Must precede [`take`](Self::take), which would block.
    ///
    /// # Errors
    /// [`SandboxError::SilentMount`].
    pub(super) fn check_mounts(vcap: &Vcap, responses: Responses<'_>) -> Result<(), SandboxError> {
        match silent::unmount_left(vcap, responses)?.pop() {
            Some(silent) => Err(silent.into()),
            None => Ok(()),
        }
    }

    /// [`check_mounts`](Self::check_mounts), then [`check_others`](Self::check_others) for directories that this process is about to use.
    ///
    /// # Errors
    /// [`SandboxError::SilentMount`].
    pub(super) fn check_mounts_of(
        vcap: &Vcap,
        directories: &[PathBuf],
        responses: Responses<'_>,
    ) -> Result<(), SandboxError> {
        Self::check_mounts(vcap, responses)?;
        Self::check_others(directories, responses)
    }

    /// Checks that all file systems that are mounted over these directories respond. Unmounts nothing.
    ///
    /// # Errors
    /// [`SandboxError::SilentMount`].
    pub(super) fn check_others(
        directories: &[PathBuf],
        responses: Responses<'_>,
    ) -> Result<(), SandboxError> {
        match silent::first_among(directories, responses) {
            Some(silent) => Err(silent.into()),
            None => Ok(()),
        }
    }

    /// Sets which scratch directories packages share. By default, they end with the run.
    #[must_use]
    pub fn with_scratch(mut self, scratch: Scratch) -> Self {
        self.scratch = scratch;
        self
    }

    /// Creates the directories of packages, and removes the files of a killed run in them. `notes` are those in its lock file.
    fn recover(&mut self, notes: &LockNotes, stop: &dyn Fn() -> bool) -> Result<(), SandboxError> {
        // Restore this directory first: the marker is in it.
        if let Some(links) = Links::noted_in(&notes.text) {
            links.remove_new(self.base(), &[self.vcap.packages()])?;
        }
        let killed = self.killed_run(notes, stop)?;
        let links = killed.as_ref().map(|killed| killed.notes.as_str());
        if let Some(links) = links.and_then(Links::noted_in) {
            links.remove_new(self.base(), &self.contents())?;
        }
        for directory in self.contents() {
            self.made.make(&directory)?;
        }
        // Must precede the next step, which may set aside directories of processes that cannot be killed: those must stay.
        self.remove_set_aside()?;
        match &killed {
            Some(killed) => self.clear_after_killed_run(killed),
            None => Ok(()),
        }
    }

    /// Checks that the tree is empty, and records its state. With `removes_foreign`, first empties it.
    fn prepare(&mut self, removes_foreign: bool) -> Result<(), SandboxError> {
        self.remove_or_set_aside(&self.temporary())?;
        self.mounts = fs::mount_points().ok();
        if removes_foreign {
            self.check_links()?;
            self.check_no_mounts()?;
            self.clear()?;
        }
        self.check_empty()?;
        self.pinned = self
            .directories()
            .iter()
            .map(|directory| Pinned::new(directory))
            .collect::<fs::Result<_>>()?;
        self.links = Links::among(self.base(), &self.directories())?;
        Ok(self.write_marker(&[])?)
    }

    /// The base directory.
    #[must_use]
    pub fn base(&self) -> &Path {
        self.vcap.base()
    }

    /// The path of the marker file. The file is locked while a script has processes.
    pub(super) fn marker(&self) -> PathBuf {
        self.vcap.packages().join(MARKER)
    }

    /// The directory for temporary files, if packages have their own.
    pub(super) fn temporary(&self) -> PathBuf {
        self.vcap.data().join(TEMPORARY)
    }

    /// The directories that have an entry for each package.
    fn contents(&self) -> [PathBuf; 3] {
        [
            self.vcap.packages(),
            self.vcap.data_packages(),
            self.vcap.compile(),
        ]
    }

    /// All directories that contain those of scripts, outermost first.
    fn directories(&self) -> Vec<PathBuf> {
        let above = [self.base().to_owned(), self.vcap.data()];
        let below = self.contents().into_iter().chain([self.temporary()]);
        above.into_iter().chain(below).collect()
    }

    /// Checks that scripts have not replaced the directories that contain their own.
    ///
    /// # Errors
    /// [`SandboxError::Replaced`].
    pub(super) fn check(&self) -> Result<(), SandboxError> {
        self.unmount_covering()?;
        let mut directories: Vec<(PathBuf, PathBuf)> = Vec::new();
        for pinned in &self.pinned {
            let path = pinned.path();
            // Report only the outermost replaced directory.
            if directories.iter().any(|(above, _)| path.starts_with(above)) {
                continue;
            }
            if let Some(found) = pinned.replacement()? {
                directories.push((path.to_owned(), found));
            }
        }
        match directories.is_empty() {
            true => Ok(()),
            false => Err(SandboxError::Replaced { directories }),
        }
    }

    /// Restores the directories that a script has moved or replaced. Must precede every removal: files behind a link do not belong to the
    /// tree.
    fn restore_directories(&self) -> fs::Result<()> {
        self.unmount_covering()?;
        self.pinned.iter().try_for_each(Pinned::put_back)
    }

    /// The files and directories in the tree, without the marker.
    fn entries(&self) -> fs::Result<Vec<PathBuf>> {
        self.entries_of(&self.contents())
    }

    fn entries_of(&self, directories: &[PathBuf]) -> fs::Result<Vec<PathBuf>> {
        let mut entries = Vec::new();
        for directory in directories {
            entries.extend(fs::list(directory)?.iter().map(std::fs::DirEntry::path));
        }
        entries.retain(|entry| *entry != self.marker());
        Ok(entries)
    }

    /// Checks that no packages of another agent are behind links, which a script may have left: `--force` would remove the packages.
    fn check_links(&self) -> Result<(), SandboxError> {
        let entries = self.entries()?;
        let mut links = Vec::new();
        for directory in self.directories().split_off(1) {
            if entries.iter().any(|entry| entry.starts_with(&directory))
                && fs::lookup(&directory)?.is_some_and(|found| found.is_symlink())
            {
                let target = fs::read_link(&directory)?;
                links.push((directory, target));
            }
        }
        match links.is_empty() {
            true => Ok(()),
            false => Err(SandboxError::UnknownLinks { links }),
        }
    }

    fn check_empty(&self) -> Result<(), SandboxError> {
        match self.entries()?.first() {
            None => Ok(()),
            Some(entry) => Err(SandboxError::Foreign {
                directory: fs::parent(entry).to_owned(),
                entry: fs::file_name(entry).to_string_lossy().into_owned(),
            }),
        }
    }

    /// Waits while the tree's disk has less free space than `needed` (in bytes) and directories of packages that have left the tree are
    /// being removed: up to a minute, and until `stop` returns true.
    pub(super) fn wait_for_space(&self, needed: u64, stop: &dyn Fn() -> bool) {
        let is_short = || fs::space(&self.vcap.data()).is_ok_and(|space| space.free < needed);
        self.removals.wait_while(&is_short, stop);
    }

    /// Clears file flags, such as `immutable`, with which a script may have protected the tree's directories and the marker from changes.
    fn clear_flags(&self) -> fs::Result<()> {
        self.contents()
            .iter()
            .chain([&self.vcap.data(), &self.marker()])
            .try_for_each(|path| fs::clear_flags(path))
    }

    /// Empties the tree, and writes a marker with the names of packages that are put there next.
    pub(super) fn clear_for(&self, names: &[Name]) -> fs::Result<()> {
        self.clear()?;
        for directory in self.contents() {
            // A script may have removed the directory.
            fs::create_dir_all(&directory)?;
        }
        self.write_marker(names)
    }

    fn data_names(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        self.data_names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a package's directories, except that for temporary files.
    pub(super) fn remove(&self, name: &Name) -> fs::Result<()> {
        self.restore_directories()?;
        self.unmount_new(Some(name))?;
        fs::remove_each(self.contents(), |directory| {
            self.remove_later(&directory.join(name.as_str()))
        })
    }

    /// The data directory as it was at the start of the run.
    fn pinned_data(&self) -> Option<&Pinned> {
        let data = self.vcap.data();
        self.pinned.iter().find(|pinned| pinned.path() == data)
    }

    /// Removes a package's directory for temporary files.
    pub(super) fn remove_temporary(&self, name: &Name) -> fs::Result<()> {
        self.remove_or_set_aside(&self.temporary().join(name.as_str()))
    }

    /// Removes all packages.
    pub(super) fn clear(&self) -> fs::Result<()> {
        self.restore_directories()?;
        self.unmount_new(None)?;
        self.clear_flags()?;
        fs::remove_each(self.entries()?, |entry| self.remove_or_set_aside(&entry))
    }

    /// Restores the state of the tree at the start of the run, except for removed packages of another agent. Files that cannot be removed
    /// are set aside for the next run; if that fails, too, the marker stays.
    pub(super) fn close(&self) -> Result<(), SandboxError> {
        let cleared = self.clear();
        self.removals.finish();
        // After a failure, remove nothing else: the directories may not have been restored.
        cleared?;
        let temporary = fs::remove_tree(&self.temporary());
        let data_names: Vec<Name> = self.data_names().iter().cloned().collect();
        temporary.and(self.remove_data(&data_names))?;
        self.release();
        Ok(())
    }

    /// Removes the marker, if no package is left, then the lock file, and the created directories that are empty. Unlocks the tree.
    fn release(&self) {
        if self.entries().is_ok_and(|entries| entries.is_empty()) {
            let _ = fs::remove_file_if_there(&self.marker());
        }
        self.unlock();
    }

    /// Unlocks a tree in which a killed run left files that this run has not removed. The killed run's marker stays for the next run, and
    /// so does its lock file, if it has notes.
    fn leave_to_next_run(&self, has_notes: bool) {
        if has_notes {
            self.made.remove_empty();
            self.release_lock();
        } else {
            self.unlock();
        }
    }

    fn release_lock(&self) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = lock.unlock();
    }

    /// Removes the created directories that are empty, and the lock file. Unlocks the tree.
    fn unlock(&self) {
        self.made.remove_empty();
        // Remove the lock file last: another run can start as soon as it is gone.
        if let Err(error) = fs::remove_file_if_there(&self.vcap.data().join(lock::LOCK)) {
            tracing::warn!(error = %Chain(&error), "could not remove the lock file; it does not block other runs");
        }
        self.release_lock();
        self.made_outside.remove_empty();
    }
}
