//! `--isolation=none`: the base directory itself, used by one package after another as the Go agent does. With
//! `--isolation=landlock` it is used by several at a time.
//!
//! The Go agent's first act is to remove all installed packages, which is deadly on a live VM. This one works only in
//! directories that were empty, and leaves them as they were. Its marker names what it puts there, so that a run which follows
//! a killed one removes that and nothing else.
//!
//! Directories beside those of packages (`BASE/data/NAME`) are used as they are where the machine has them. The marker names
//! those that this run made.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as PlainMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::error::SandboxError;
use super::scratch::{self, Scratch};
use crate::config::{PackagePaths, Vcap};
use crate::diag::Chain;
use crate::fs::{self, Context, MadeDirectories, MountPoint, Pinned};
use crate::release::Name;

/// Names, inside the directory of packages, what was put there and beside it by us. No package can be called so.
const MARKER: &str = ".bosh-agent:compile";

/// Held, inside the data directory, while somebody compiles. It tells who.
const LOCK: &str = ".bosh-agent-compile.lock";

/// Directories for temporary files, inside the data directory, where packages have their own.
const TEMPORARY: &str = ".bosh-agent-tmp";

/// Begins the names, inside the data directory, of what a killed run left and what could not be removed.
const SET_ASIDE: &str = ".bosh-agent-left-";

/// Begins the line of a marker that tells which directories are the tree's. No package can be called so.
const DIRECTORIES: &str = "#directories";

/// Begins the lines of the marker that name directories beside those of packages. No package can be called so.
const BESIDE: &str = "data/";

/// How many mounts a script may leave, one after the other, before the agent gives up.
const MOST_MOUNTS: usize = 10_000;

/// How often the lock is tried anew: it fails only where another run ends, and takes the directory away, at the same moment.
const ATTEMPTS: usize = 100;

/// How long the processes of a killed run may take to end. They get the grace time that their run was given.
const PATIENCE: Duration = Duration::from_secs(30);

/// The directories below the base directory, taken for one run.
#[derive(Debug)]
pub struct SharedTree {
    vcap: Vcap,
    lock: File,
    /// The data directory and what was missing above it.
    made_outside: MadeDirectories,
    /// The directories of packages.
    made: MadeDirectories,
    /// The directories that scripts work below, the outermost first, as they were when it was taken.
    pinned: Vec<Pinned>,
    /// What was mounted when it was taken; `None` as long as it is not, and where that is not known.
    mounts: Option<Vec<MountPoint>>,
    /// Held by the one package that is in it.
    turn: Arc<Mutex<()>>,
    scratch: Scratch,
    /// The names of directories beside those of packages that this run made, or that its scripts may make.
    beside: PlainMutex<BTreeSet<Name>>,
}

impl SharedTree {
    /// Takes the tree. `who` is what others are told who want it too. With `force`, packages of another agent are removed.
    /// Where the processes of a killed run are about to end it waits for them, unless `stop` says otherwise.
    ///
    /// # Errors
    /// When somebody else compiles here, when there are packages that we did not put there, and when the directories cannot
    /// be made.
    pub fn take(
        vcap: &Vcap,
        who: &str,
        force: bool,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, SandboxError> {
        let mut made_outside = MadeDirectories::default();
        let lock =
            lock(vcap, who, &mut made_outside).inspect_err(|_| made_outside.remove_empty())?;
        let mut tree = Self {
            vcap: vcap.clone(),
            lock,
            made_outside,
            made: MadeDirectories::default(),
            pinned: Vec::new(),
            mounts: None,
            turn: Arc::default(),
            scratch: Scratch::default(),
            beside: PlainMutex::default(),
        };
        match tree.prepare(force, stop) {
            Ok(()) => Ok(tree),
            Err(error) => {
                tree.put_back();
                Err(error)
            }
        }
    }

    /// Sets which scratch directories packages share. Without it these are directories that end with the run.
    #[must_use]
    pub fn with_scratch(mut self, scratch: Scratch) -> Self {
        self.scratch = scratch;
        self
    }

    fn prepare(&mut self, force: bool, stop: &dyn Fn() -> bool) -> Result<(), SandboxError> {
        for directory in self.contents() {
            self.made.make(&directory)?;
        }
        let marker = self.marker();
        if fs::lookup(&marker)?.is_some() {
            // A run that was killed left it, and the processes of its script may be about to end.
            if !fs::wait_until_free(&marker, PATIENCE, stop)? {
                return Err(SandboxError::Busy {
                    base: self.vcap.base().to_owned(),
                    holder: "processes of a run that was killed".to_owned(),
                });
            }
            let noted = fs::read_lossy(&marker)?;
            let own = self.uncover(&noted)?;
            self.remove_named(&noted, &own)?;
            self.remove_older_than(&marker, &own)?;
        }
        self.remove_or_set_aside(&self.temporary())?;
        fs::remove_abandoned(&self.vcap.data(), SET_ASIDE, None);
        self.mounts = fs::mount_points().ok();
        if force {
            self.check_no_mounts()?;
            self.clear()?;
        }
        self.check_empty()?;
        self.pinned = self
            .directories()
            .iter()
            .map(|directory| Pinned::new(directory))
            .collect::<fs::Result<_>>()?;
        Ok(fs::write(&marker, self.noted_directories().as_bytes())?)
    }

    /// The base directory.
    #[must_use]
    pub fn base(&self) -> &Path {
        self.vcap.base()
    }

    /// The file that says that this tree is ours. It is locked as long as a process of a script lives.
    pub(super) fn marker(&self) -> PathBuf {
        self.vcap.packages().join(MARKER)
    }

    /// Where packages have directories for temporary files, if they do.
    pub(super) fn temporary(&self) -> PathBuf {
        self.vcap.data().join(TEMPORARY)
    }

    /// Waits until nobody is in the tree.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    fn contents(&self) -> [PathBuf; 3] {
        [
            self.vcap.packages(),
            self.vcap.data_packages(),
            self.vcap.compile(),
        ]
    }

    /// Everything that scripts work below, the outermost first.
    fn directories(&self) -> Vec<PathBuf> {
        let above = [self.base().to_owned(), self.vcap.data()];
        let below = self.contents().into_iter().chain([self.temporary()]);
        above.into_iter().chain(below).collect()
    }

    /// Checks that scripts have replaced none of the directories that they work below.
    ///
    /// # Errors
    /// [`SandboxError::Replaced`].
    pub(super) fn check(&self) -> Result<(), SandboxError> {
        for pinned in &self.pinned {
            if let Some(found) = pinned.replacement()? {
                return Err(SandboxError::Replaced {
                    directory: pinned.path().to_owned(),
                    found,
                });
            }
        }
        Ok(())
    }

    /// Puts the directories back that a script has moved away or replaced. Nothing may be removed before: what lies behind a link
    /// is not the tree's.
    fn put_directories_back(&self) -> fs::Result<()> {
        self.pinned.iter().try_for_each(Pinned::put_back)
    }

    /// What is in the tree, but for the marker.
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

    fn check_empty(&self) -> Result<(), SandboxError> {
        match self.entries()?.first() {
            None => Ok(()),
            Some(entry) => Err(SandboxError::Foreign {
                directory: fs::parent(entry).to_owned(),
                entry: fs::file_name(entry).to_string_lossy().into_owned(),
            }),
        }
    }

    /// Removes what the marker of a killed run names, in directories that were its own.
    fn remove_named(&self, names: &str, own: &[PathBuf]) -> Result<(), SandboxError> {
        for line in names.lines() {
            if let Some(beside) = line.strip_prefix(BESIDE) {
                if let Ok(name) = Name::parse(beside) {
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

    /// Removes what a run left, this one or a killed one. What cannot be removed is moved out of the way, so that nothing that
    /// follows meets it; the next run tries again.
    fn remove_or_set_aside(&self, path: &Path) -> fs::Result<()> {
        let Err(error) = fs::remove_tree(path) else {
            return Ok(());
        };
        let Some(metadata) = fs::lookup(path)? else {
            return Ok(());
        };
        let aside = format!("{SET_ASIDE}{}-{}", std::process::id(), metadata.ino());
        let aside = self.vcap.data().join(aside);
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

    /// Moves the directories of a package out of the way whose processes cannot be killed, into a directory that the next run removes.
    /// `None` where that does not work.
    pub(super) fn set_aside(&self, paths: &PackagePaths) -> Option<PathBuf> {
        // What lies there may not be ours.
        self.check().ok()?;
        let inode = fs::lookup(&paths.compile).ok()??.ino();
        let aside = format!("{SET_ASIDE}{}-{inode}", std::process::id());
        let aside = self.vcap.data().join(aside);
        fs::create_dir(&aside).ok()?;
        for (directory, name) in [(&paths.compile, "compile"), (&paths.packages, "packages")] {
            if !fs::rename_tree(directory, &aside.join(name)).ok()? {
                return None;
            }
        }
        Some(aside)
    }

    /// Takes away what the script of a killed run has mounted over the tree's directories, or linked in their places, as the run's
    /// marker tells them: what lies there is not the tree's. Returns the directories that are.
    fn uncover(&self, noted: &str) -> Result<Vec<PathBuf>, SandboxError> {
        let Some(noted) = noted
            .lines()
            .find_map(|line| line.strip_prefix(DIRECTORIES))
        else {
            return Ok(self.contents().to_vec());
        };
        let base = fs::canonicalize(self.base())?;
        let mounts = fs::mount_points().unwrap_or_default();
        let mut own = Vec::new();
        for (directory, inode) in self.contents().into_iter().zip(noted.split_whitespace()) {
            let is_noted = |path: &Path| -> fs::Result<bool> {
                Ok(fs::metadata(path)?.ino().to_string() == inode)
            };
            let real = fs::canonicalize(&directory)?;
            for _ in mounts.iter().filter(|mount| mount.path == real) {
                if !is_noted(&real)? {
                    fs::unmount(&real)?;
                }
            }
            if fs::lookup(&directory)?.is_some_and(|found| found.is_symlink())
                && !is_noted(&directory)?
            {
                fs::remove_file(&directory)?;
                fs::create_dir(&directory)?;
            }
            // A script may have made one anew. Behind a link above it is another one.
            let is_in_base = directory.strip_prefix(self.base()).is_ok_and(|below| {
                fs::canonicalize(&directory).is_ok_and(|real| real == base.join(below))
            });
            if is_in_base || is_noted(&directory)? {
                own.push(directory);
            }
        }
        Ok(own)
    }

    /// What is noted of the tree's directories in its marker.
    fn noted_directories(&self) -> String {
        let inode = |directory: &PathBuf| fs::metadata(directory).map_or(0, |found| found.ino());
        let inodes = self
            .contents()
            .map(|directory| inode(&directory).to_string());
        format!("{DIRECTORIES} {}", inodes.join(" "))
    }

    /// Refuses to remove packages of another agent that something is mounted in.
    fn check_no_mounts(&self) -> Result<(), SandboxError> {
        let entries = self.entries()?;
        let entries: Vec<PathBuf> = entries
            .iter()
            .filter_map(|entry| {
                Some(
                    fs::canonicalize(fs::parent(entry))
                        .ok()?
                        .join(entry.file_name()?),
                )
            })
            .collect();
        let mounts = self.mounts.iter().flatten();
        let mut inside =
            mounts.filter(|mount| entries.iter().any(|entry| mount.path.starts_with(entry)));
        match inside.next() {
            None => Ok(()),
            Some(mount) => {
                let busy = std::io::ErrorKind::ResourceBusy.into();
                Err(fs::Error::new("remove, for it is mounted,", &mount.path, busy).into())
            }
        }
    }

    /// Unmounts what scripts have mounted since the tree was taken: over its directories or above them, and in them, or in those
    /// of one package only. The directory of a package in which a mount may not be unmounted is moved out of the way with it.
    fn unmount_left(&self, package: Option<&Name>) -> fs::Result<()> {
        let Some(before) = &self.mounts else {
            return Ok(());
        };
        let mut is_left = None;
        for _ in 0..MOST_MOUNTS {
            let now = fs::mount_points().unwrap_or_default();
            let mut new = now
                .into_iter()
                .filter(|mount| !before.contains(mount))
                .peekable();
            if new.peek().is_none() {
                return Ok(());
            }
            let is_left = is_left.get_or_insert_with(|| self.left_mounts(package));
            // The outermost first: it takes along what is mounted in it. By itself this could be a peer of a mount of the host's,
            // and the host's would go with it.
            let outermost = new
                .filter(|mount| is_left(&mount.path))
                .min_by_key(|mount| mount.path.as_os_str().len());
            let Some(mount) = outermost else {
                return Ok(());
            };
            if let Err(error) = fs::unmount(&mount.path) {
                let Some(entry) = self.entry_above(&mount.path) else {
                    return Err(error);
                };
                self.remove_or_set_aside(&entry)?;
                continue;
            }
            tracing::warn!(path = %mount.path.display(), "unmounted a file system that a packaging script left mounted");
        }
        Ok(())
    }

    /// The directory of a package that a path lies in.
    fn entry_above(&self, path: &Path) -> Option<PathBuf> {
        self.contents().into_iter().find_map(|directory| {
            let real = fs::canonicalize(&directory).unwrap_or(directory);
            let mut below = path.strip_prefix(&real).ok()?.components();
            let entry = real.join(below.next()?);
            below.next().map(|_| entry)
        })
    }

    /// Tells mounts over the tree's directories, or in those of a package, from others.
    fn left_mounts(&self, package: Option<&Name>) -> impl Fn(&Path) -> bool + use<> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // The data directory may be a link to another disk.
        let roots = [real(self.base()), real(&self.vcap.data())];
        let own: Vec<PathBuf> = self
            .contents()
            .iter()
            .map(|directory| real(directory))
            .collect();
        let inside: Vec<PathBuf> = own
            .iter()
            .cloned()
            .chain([real(&self.temporary())])
            .map(|directory| match package {
                Some(package) => directory.join(package.as_str()),
                None => directory,
            })
            .collect();
        move |mount| {
            let covers = own.iter().any(|own| own.starts_with(mount))
                && roots.iter().any(|root| mount.starts_with(root));
            covers || inside.iter().any(|inside| mount.starts_with(inside))
        }
    }

    /// Takes away the flags by which a script keeps the tree's own directories and the marker from being changed.
    fn clear_flags(&self) -> fs::Result<()> {
        self.contents()
            .iter()
            .chain([&self.vcap.data(), &self.marker()])
            .try_for_each(|path| fs::clear_flags(path))
    }

    /// Removes what is older than the marker. The tree was empty when the marker was made, and a script's parent touches it
    /// when the last process is gone: what is older than that was made by the script.
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

    /// Empties the tree for packages of these names, which are noted before anything is made.
    pub(super) fn clear_for(&self, names: &[Name]) -> fs::Result<()> {
        self.clear()?;
        for directory in self.contents() {
            // A script may have removed them.
            fs::create_dir_all(&directory)?;
        }
        let mut lines = vec![self.noted_directories()];
        lines.extend(names.iter().map(ToString::to_string));
        lines.extend(self.beside().iter().map(|name| format!("{BESIDE}{name}")));
        fs::write(&self.marker(), lines.join("\n").as_bytes())
    }

    /// Notes further names, before anything is made for them.
    pub(super) fn note(&self, names: &[&Name]) -> fs::Result<()> {
        let lines: String = names.iter().map(|name| format!("\n{name}")).collect();
        self.append(&lines)
    }

    fn append(&self, lines: &str) -> fs::Result<()> {
        let marker = self.marker();
        let mut options = std::fs::OpenOptions::new();
        options.append(true).create(true);
        let mut file = fs::open_with(&options, &marker)?;
        file.write_all(lines.as_bytes()).at("write", &marker)
    }

    fn beside(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether packages share scratch directories.
    pub(super) fn shares_scratch(&self) -> bool {
        self.scratch.is_shared()
    }

    /// Where scratch directories are kept for later runs, if packages can be kept from each other's there.
    pub(super) fn separable_scratch(&self) -> Option<&Path> {
        self.scratch.separable()
    }

    /// Where a shared scratch directory is, there or not.
    pub(super) fn scratch_directory(&self, name: &Name) -> Option<PathBuf> {
        let kept = self.scratch.kept();
        let directory = kept.map_or_else(
            || self.vcap.scratch(name),
            |kept| Some(kept.join(name.as_str())),
        );
        directory.filter(|_| self.shares_scratch())
    }

    /// Makes shared scratch directories of these names, until the end of the run or in the directory that is kept. What is
    /// there already is used as it is.
    pub(super) fn share(&self, names: &[Name]) -> Result<(), SandboxError> {
        for name in names {
            let Some(path) = self.vcap.scratch(name) else {
                continue;
            };
            let Some(kept) = self.scratch.kept() else {
                if fs::lookup(&path)?.is_none() {
                    self.note_beside(name)?;
                    scratch::make(&path)?;
                }
                continue;
            };
            let is_there = fs::lookup(&path)?.is_some();
            if is_there && !self.beside().contains(name) {
                continue;
            }
            let is_in_place = fs::canonicalize(fs::parent(&path))? == kept;
            let target = self.scratch.make_kept(name)?;
            if let Some(target) = target.filter(|_| !is_there && !is_in_place) {
                self.note_beside(name)?;
                fs::symlink(&target, &path)?;
            }
        }
        Ok(())
    }

    /// Notes a directory beside those of packages that one package is about to have to itself, and makes it if asked to.
    /// `false` where there is something of this name already, which stays as it is.
    pub(super) fn make_private(&self, name: &Name, make: bool) -> Result<bool, SandboxError> {
        let path = self.vcap.data().join(name.as_str());
        if fs::lookup(&path)?.is_some() {
            return Ok(false);
        }
        self.note_beside(name)?;
        if make {
            scratch::make(&path)?;
        }
        Ok(true)
    }

    fn note_beside(&self, name: &Name) -> fs::Result<()> {
        self.append(&format!("\n{BESIDE}{name}"))?;
        self.beside().insert(name.clone());
        Ok(())
    }

    /// Removes directories beside those of packages. Their names are noted.
    pub(super) fn remove_beside(&self, names: &[Name]) -> fs::Result<()> {
        self.put_directories_back()?;
        for name in names {
            self.remove_or_set_aside(&self.vcap.data().join(name.as_str()))?;
            self.beside().remove(name);
        }
        Ok(())
    }

    /// Removes what this run has left in shared scratch directories. No script may be running. `false` where there was nothing.
    pub(super) fn discard_scratch(&self) -> fs::Result<bool> {
        let names: Vec<Name> = self.beside().iter().cloned().collect();
        let mut found = false;
        for name in &names {
            found |= !fs::list(&self.vcap.data().join(name.as_str()))?.is_empty();
        }
        self.remove_beside(&names)?;
        Ok(found)
    }

    /// Removes what has a package's name.
    pub(super) fn remove(&self, name: &Name) -> fs::Result<()> {
        self.put_directories_back()?;
        self.unmount_left(Some(name))?;
        self.contents()
            .iter()
            .try_for_each(|directory| self.remove_or_set_aside(&directory.join(name.as_str())))
    }

    /// Removes every package, installed or unpacked.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clear(&self) -> fs::Result<()> {
        self.put_directories_back()?;
        self.unmount_left(None)?;
        self.clear_flags()?;
        self.entries()?
            .iter()
            .try_for_each(|entry| self.remove_or_set_aside(entry))
    }

    /// Leaves the tree as it was found, but for packages of another agent.
    ///
    /// # Errors
    /// When something cannot be removed. The marker stays then.
    pub fn close(self) -> Result<(), SandboxError> {
        self.clear()?;
        fs::remove_tree(&self.temporary())?;
        let beside: Vec<Name> = self.beside().iter().cloned().collect();
        self.remove_beside(&beside)?;
        self.put_back();
        Ok(())
    }

    /// Removes marker, lock and the directories that we made. One that is in use by now stays.
    fn put_back(&self) {
        if self.entries().is_ok_and(|entries| entries.is_empty()) {
            let _ = fs::remove_file_if_there(&self.marker());
        }
        self.made.remove_empty();
        // Then only may another run begin.
        if let Err(error) = fs::remove_file_if_there(&self.vcap.data().join(LOCK)) {
            tracing::warn!(error = %Chain(&error), "could not remove the lock file, which stops no other run");
        }
        let _ = self.lock.unlock();
        self.made_outside.remove_empty();
    }
}

fn lock(vcap: &Vcap, who: &str, made: &mut MadeDirectories) -> Result<File, SandboxError> {
    let path = vcap.data().join(LOCK);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        made.make(&vcap.data())?;
        let mut file = match fs::open_with(&options, &path) {
            // A run that has just ended took the directory away.
            Err(error) if error.is_not_found() => {
                failure = Some(error);
                continue;
            }
            other => other?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(SandboxError::Busy {
                    base: vcap.base().to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(fs::Error::new("lock", &path, error).into());
            }
        }
        let inode = file.metadata().at("examine", &path)?.ino();
        // The holder before us removes the file before it lets go: then we hold a file without a name.
        if fs::lookup(&path)?.is_some_and(|metadata| metadata.ino() == inode) {
            let write = |file: &mut File| {
                file.seek(SeekFrom::Start(0))?;
                file.set_len(0)?;
                file.write_all(who.as_bytes())
            };
            if let Err(error) = write(&mut file) {
                // It is ours still, so that nobody else loses theirs.
                let _ = fs::remove_file_if_there(&path);
                return Err(fs::Error::new("write", &path, error).into());
            }
            return Ok(file);
        }
    }
    Err(failure
        .unwrap_or_else(|| fs::Error::new("lock", &path, std::io::ErrorKind::NotFound.into()))
        .into())
}

/// What the holder of a lock has written into it. It may be gone, or not have written yet.
fn holder(file: &mut File) -> String {
    let mut holder = String::new();
    let _ = file.read_to_string(&mut holder);
    match holder.trim() {
        "" => "it has not said who it is".to_owned(),
        holder => holder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vcap() -> (tempfile::TempDir, Vcap) {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        (scratch, vcap)
    }

    fn take(vcap: &Vcap, who: &str, force: bool) -> Result<SharedTree, SandboxError> {
        SharedTree::take(vcap, who, force, &|| false)
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names
            .iter()
            .map(|name| Name::parse(name).unwrap())
            .collect()
    }

    #[test]
    fn a_tree_that_was_not_there_is_gone_afterwards() {
        let (scratch, vcap) = vcap();
        let tree = take(&vcap, "pid 1", false).unwrap();
        fs::create_dir_all(&vcap.data_packages().join("a/b")).unwrap();
        fs::symlink(Path::new("nowhere"), &vcap.packages().join("a")).unwrap();
        tree.close().unwrap();
        assert!(fs::list(scratch.path()).unwrap().is_empty());
    }

    #[test]
    fn what_was_there_before_stays() {
        let (_scratch, vcap) = vcap();
        fs::create_dir_all(&vcap.data()).unwrap();
        fs::write(&vcap.data().join("theirs"), b"").unwrap();
        take(&vcap, "pid 1", false).unwrap().close().unwrap();
        assert_eq!(fs::list(&vcap.data()).unwrap().len(), 1);
        assert_eq!(fs::list(vcap.base()).unwrap().len(), 1);
    }

    #[test]
    fn a_second_run_is_told_who_compiles() {
        let (_scratch, vcap) = vcap();
        let first = take(&vcap, "process 42 on ci", false).unwrap();
        let error = take(&vcap, "another", false).unwrap_err();
        assert!(error.to_string().contains("process 42 on ci"), "{error}");
        first.close().unwrap();
        take(&vcap, "another", false).unwrap();
    }

    #[test]
    fn packages_that_are_not_ours_are_refused_and_kept_unless_forced() {
        for directory in ["packages", "data/packages", "data/compile"] {
            let (_scratch, vcap) = vcap();
            let theirs = vcap.base().join(directory).join("theirs");
            fs::create_dir_all(&theirs).unwrap();
            let error = take(&vcap, "us", false).unwrap_err();
            assert!(error.to_string().contains("theirs"), "{error}");
            assert!(error.hint().unwrap().contains("--force"));
            assert!(theirs.exists());
            let tree = take(&vcap, "us", true).unwrap();
            assert!(!theirs.exists());
            tree.close().unwrap();
        }
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_by_the_next_and_nothing_else() {
        let (_scratch, vcap) = vcap();
        let killed = take(&vcap, "us", false).unwrap();
        killed
            .clear_for(&names(&["ours", "its-dependency"]))
            .unwrap();
        for name in ["ours", "its-dependency"] {
            fs::create_dir_all(&vcap.data_packages().join(name).join("1")).unwrap();
        }
        drop(killed);
        take(&vcap, "us", false).unwrap().close().unwrap();

        let killed = take(&vcap, "us", false).unwrap();
        killed.clear_for(&names(&["ours"])).unwrap();
        drop(killed);
        let theirs = vcap.data_packages().join("theirs");
        fs::create_dir_all(&theirs).unwrap();
        let error = take(&vcap, "us", false).unwrap_err();
        assert!(error.to_string().contains("theirs"), "{error}");
        assert!(theirs.exists());
    }

    #[test]
    fn what_a_killed_runs_script_made_beside_its_package_goes_too() {
        let (_scratch, vcap) = vcap();
        let killed = take(&vcap, "us", false).unwrap();
        killed.clear_for(&names(&["ours"])).unwrap();
        fs::create_dir(&vcap.compile().join("extra")).unwrap();
        let marker = fs::open(&killed.marker()).unwrap();
        marker.set_modified(std::time::SystemTime::now()).unwrap();
        drop(killed);
        take(&vcap, "us", false).unwrap().close().unwrap();
    }

    #[test]
    fn a_link_that_a_killed_run_left_leads_to_no_removal() {
        for linked in ["packages", "data", "data/packages", "data/compile"] {
            let (scratch, vcap) = vcap();
            let theirs = scratch.path().join("theirs");
            for directory in ["ours", "packages/ours", "compile/ours"] {
                fs::create_dir_all(&theirs.join(directory)).unwrap();
            }
            let killed = take(&vcap, "us", false).unwrap();
            killed.clear_for(&names(&["ours"])).unwrap();
            drop(killed);
            let (path, moved) = (vcap.base().join(linked), scratch.path().join("moved"));
            fs::rename(&path, &moved).unwrap();
            fs::symlink(&theirs, &path).unwrap();
            match take(&vcap, "us", false) {
                Ok(tree) => tree.close().unwrap(),
                Err(error) => assert!(error.to_string().contains("did not put there"), "{error}"),
            }
            for directory in ["ours", "packages/ours", "compile/ours"] {
                assert!(theirs.join(directory).exists(), "{linked} {directory}");
            }
        }
    }

    #[test]
    fn a_script_may_remove_the_directories() {
        let (_scratch, vcap) = vcap();
        let tree = take(&vcap, "us", false).unwrap();
        fs::remove_tree(&vcap.packages()).unwrap();
        tree.clear_for(&names(&["next"])).unwrap();
        assert!(tree.marker().exists());
        tree.close().unwrap();
    }

    #[test]
    fn scratch_is_noted_and_goes_but_what_was_there_stays() {
        let (_scratch, vcap) = vcap();
        let theirs = vcap.data().join("theirs");
        fs::create_dir_all(&theirs).unwrap();
        let killed = take(&vcap, "us", false).unwrap();
        killed.share(&names(&["ours", "theirs", "tmp"])).unwrap();
        killed.clear_for(&names(&["package"])).unwrap();
        fs::write(&vcap.data().join("ours/file"), b"").unwrap();
        assert!(!vcap.data().join("tmp").exists());
        drop(killed);

        let tree = take(&vcap, "us", false).unwrap();
        assert!(!vcap.data().join("ours").exists());
        tree.share(&names(&["ours", "theirs"])).unwrap();
        fs::write(&vcap.data().join("ours/file"), b"").unwrap();
        assert!(tree.discard_scratch().unwrap());
        assert!(!tree.discard_scratch().unwrap());
        tree.share(&names(&["ours"])).unwrap();
        tree.close().unwrap();
        assert!(!vcap.data().join("ours").exists());
        assert!(theirs.exists());
    }

    #[test]
    fn kept_scratch_is_linked_to_and_stays() {
        let (scratch, vcap) = vcap();
        let kept = scratch.path().join("kept");
        let opened = || Scratch::open(&super::super::Sharing::Kept(kept.clone()), &[]).unwrap();
        let killed = take(&vcap, "us", false).unwrap().with_scratch(opened());
        killed.share(&names(&["a"])).unwrap();
        fs::write(&vcap.data().join("a/file"), b"").unwrap();
        drop(killed);
        let tree = take(&vcap, "us", false).unwrap();
        assert!(fs::lookup(&vcap.data().join("a")).unwrap().is_none());
        let tree = tree.with_scratch(opened());
        tree.share(&names(&["a"])).unwrap();
        assert!(vcap.data().join("a/file").exists());
        tree.close().unwrap();
        assert!(fs::lookup(&vcap.data().join("a")).unwrap().is_none());
        assert!(kept.join("a/file").exists());
    }
}
