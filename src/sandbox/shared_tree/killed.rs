//! Removes the files of a killed run in the tree.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::links::Links;
use super::lock::{self, LIMIT, LockNotes};
use super::notes::{DATA, NotedDirectory, noted_directories};
use super::origin::Over;
use super::own_file::{uncover, unmount_all};
use super::{PATIENCE, SharedTree};
use crate::fs::{self, Context, Glimpse};
use crate::process::{self, Unkillable};
use crate::release::Name;
use crate::sandbox::error::SandboxError;
use crate::sandbox::progress::NAME;

/// A killed run whose files may be in the tree.
pub(super) struct KilledRun {
    /// Its notes, from the lock file and the marker.
    pub(super) notes: String,
    /// When the lock file was created, or the marker if the lock file has no notes. Files that are older than that are not the run's, even
    /// if the notes name them: a script can forge notes, but not the time at which a file was created. `None` if the time is unknown.
    start: Option<(i64, u32)>,
    /// Its processes that could not be killed. They may have files in the tree open.
    processes: Vec<Unkillable>,
}

/// The directories of the tree in which a killed run may have left files.
struct OwnDirectories {
    /// The directories of packages.
    contents: Vec<PathBuf>,
    /// The data directory, if it is the one that the run used.
    data: Option<PathBuf>,
}

impl SharedTree {
    /// Waits for the processes of a killed run, and kills them if they do not end. `lock` has its notes in the lock file. `None` if there
    /// was no killed run.
    pub(super) fn killed_run(
        &self,
        lock: &LockNotes,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<KilledRun>, SandboxError> {
        let marker = self.marker();
        let mut first = lock.file.filter(|_| !lock.text.is_empty());
        let mut processes = Vec::new();
        let mut notes = lock.text.clone();
        if self.is_marker_in_place(&notes)? {
            processes = self.end_processes(&marker, stop)?;
            // One of these processes may have replaced the marker.
            if let Some(file) = fs::if_there(fs::open_regular_to_read(&marker))?.flatten() {
                let text = fs::beginning(&file, LIMIT).at("read", &marker)?;
                notes = format!("{notes}\n{text}");
                if first.is_none() {
                    first = Glimpse::of(&marker)?;
                }
            }
        }
        Ok(first.map(|first| KilledRun {
            notes,
            start: first.born,
            processes,
        }))
    }

    /// Whether there is a marker that may be that of a killed run. `notes` are those in the lock file. If the marker's directory is a link
    /// that the notes do not mention, a script may have left the link, and forged the marker behind it.
    fn is_marker_in_place(&self, notes: &str) -> fs::Result<bool> {
        let directory = self.vcap.packages();
        let links = Links::noted_in(notes).unwrap_or_default();
        if links.new_target(self.base(), &directory)?.is_some() {
            return Ok(false);
        }
        let marker = self.marker();
        uncover(&marker)?;
        // A link, also a hard link, could lead to a file of the host.
        Ok(fs::lookup(&marker)?.is_some_and(|found| found.is_file() && found.nlink() == 1))
    }

    /// Waits for the processes that hold a lock on the marker, and kills them if they do not end. Returns those that cannot be killed.
    fn end_processes(
        &self,
        marker: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Unkillable>, SandboxError> {
        let busy = |holder: &str| SandboxError::Busy {
            base: self.vcap.base().to_owned(),
            holder: holder.to_owned(),
        };
        let parent = NAME.to_string_lossy();
        if let Some(holder) = process::other_holder(marker, &parent) {
            return Err(busy(&format!(
                "{holder} holds a lock on `{}`",
                marker.display()
            )));
        }
        if fs::wait_until_free(marker, PATIENCE, stop)? {
            return Ok(Vec::new());
        }
        process::kill_holders(marker, &parent, stop)
            .ok_or_else(|| busy("processes of a run that was killed"))
    }

    /// Removes files, FIFOs and similar that are in the place of one of the tree's directories. Removes nothing below a link, which a
    /// script may have left.
    pub(super) fn remove_files_of_scripts(&self) -> fs::Result<()> {
        let is_link = |path: &Path| -> fs::Result<bool> {
            Ok(fs::lookup(path)?.is_some_and(|found| found.is_symlink()))
        };
        for directory in self.contents() {
            let is_file = |found: std::fs::Metadata| !found.is_dir() && !found.is_symlink();
            if !is_link(fs::parent(&directory))? && fs::lookup(&directory)?.is_some_and(is_file) {
                fs::clear_flags(fs::parent(&directory))?;
                fs::remove_tree(&directory)?;
                tracing::warn!(path = %directory.display(), "removed a file in the place of a directory of the agent");
            }
        }
        Ok(())
    }

    /// Removes the files that a killed run left, according to its notes. If the run has processes that cannot be killed, moves the files
    /// into a directory that a later run removes: such a process may keep the kernel from removing them.
    pub(super) fn clear_after_killed_run(&self, killed: &KilledRun) -> Result<(), SandboxError> {
        let own = self.uncover(&killed.notes)?;
        let mut left = own.named(&killed.notes);
        // A script may have removed the marker.
        let marker = fs::lookup(&self.marker())?;
        if let Some(end) = &marker
            && noted_directories(&killed.notes, None).is_some()
        {
            left.extend(self.older_than((end.mtime(), end.mtime_nsec()), &own.contents)?);
        }
        killed.keep_only_own(&mut left)?;
        if killed.processes.is_empty() {
            fs::remove_each(&left, |path| self.remove_or_set_aside(path))?;
            return Ok(());
        }
        // Set the marker aside, too: the process holds the lock on it.
        left.push(self.marker());
        let aside = self.set_aside_path(marker.map_or(0, |marker| marker.ino()));
        fs::create_dir(&aside)?;
        for (number, path) in left.iter().enumerate() {
            let is_there = fs::lookup(path)?.is_some();
            if is_there
                && !matches!(
                    fs::rename_tree(path, &aside.join(number.to_string())),
                    Ok(true)
                )
            {
                self.remove_or_set_aside(path)?;
            }
        }
        for process in &killed.processes {
            tracing::warn!(
                path = %aside.display(),
                "a process of a run that was killed cannot be killed: {process}; the files of that run were moved out of the way, and a later run removes them"
            );
        }
        Ok(())
    }

    /// Unmounts the file systems that the script of a killed run has mounted over the tree's directories: their files do not belong to the
    /// tree. Links in the place of these directories have already been removed. Returns the directories that belong to the tree.
    fn uncover(&self, notes: &str) -> Result<OwnDirectories, SandboxError> {
        let data = self.vcap.data();
        let boot = fs::boot();
        let Some(noted) = noted_directories(notes, boot.as_deref()) else {
            return Ok(OwnDirectories {
                contents: self.contents().to_vec(),
                data: Some(data),
            });
        };
        // Whether all links on the way to the directories existed before the script.
        let are_links_known = Links::noted_in(notes).is_some();
        let base = fs::canonicalize(self.base())?;
        let own_data = (lock::over_data(&data, notes)? == Over::Nothing).then_some(data);
        let mut contents = Vec::new();
        for (directory, noted) in self.contents().into_iter().zip(noted) {
            let real = fs::canonicalize(&directory)?;
            let is_in_base = directory
                .strip_prefix(self.base())
                .is_ok_and(|below| real == base.join(below));
            // Behind a link of unknown origin, a mount may belong to the machine.
            let is_place_known = are_links_known || is_in_base;
            let is_of_machine = is_place_known && unmount_of_script(&real, noted)?;
            let is_in_other = own_data.is_none() && directory.starts_with(self.vcap.data());
            // A directory that the run has noted belongs to the tree in any case. Another one in its place may have been created by a script.
            let is_own = is_place_known && !is_of_machine && !is_in_other;
            if is_own || Glimpse::of(&real)?.is_some_and(|found| noted.is_at(&found)) {
                contents.push(directory);
            }
        }
        Ok(OwnDirectories {
            contents,
            data: own_data,
        })
    }

    /// The entries that were last changed before `end`, the time at which the last process ended: the parent of a script sets the marker's
    /// mtime to it. The tree was empty when the run created the marker, so scripts have created these entries.
    fn older_than(&self, end: (i64, i64), own: &[PathBuf]) -> Result<Vec<PathBuf>, SandboxError> {
        let mut older = Vec::new();
        for entry in self.entries_of(own)? {
            if let Some(found) = Glimpse::of(&entry)?
                && (found.changed.0, found.changed.1.into()) < end
            {
                older.push(entry);
            }
        }
        Ok(older)
    }
}

impl OwnDirectories {
    /// The paths in these directories that notes name.
    fn named(&self, notes: &str) -> Vec<PathBuf> {
        let mut named = Vec::new();
        for line in notes.lines() {
            let (name, directories) = match line.strip_prefix(DATA) {
                Some(name) => (name, self.data.as_slice()),
                None => (line, self.contents.as_slice()),
            };
            if let Ok(name) = Name::parse(name) {
                named.extend(directories.iter().map(|it| it.join(name.as_str())));
            }
        }
        named
    }
}

/// Unmounts file systems that the script of a killed run has mounted over a directory. Returns whether a file system of the machine is
/// mounted there that was not mounted when the run noted the directory.
fn unmount_of_script(directory: &Path, noted: NotedDirectory<'_>) -> fs::Result<bool> {
    loop {
        match Over::of(directory, noted, &fs::mount_points().unwrap_or_default())? {
            Over::Nothing => return Ok(false),
            Over::OfMachine => return Ok(true),
            Over::OfScript => fs::unmount(directory)?,
        }
    }
}

impl KilledRun {
    /// Drops the paths of files that existed before the run. First unmounts file systems that are mounted over them, to examine the covered
    /// files.
    fn keep_only_own(&self, paths: &mut Vec<PathBuf>) -> fs::Result<()> {
        let Some(start) = self.start else {
            return Ok(());
        };
        let mut own = Vec::new();
        for path in std::mem::take(paths) {
            unmount_all(&path)?;
            let is_older = Glimpse::of(&path)?.is_some_and(|found| found.is_older_than(start));
            if !is_older {
                own.push(path);
                continue;
            }
            tracing::warn!(
                path = %path.display(),
                "the notes of a run that was killed list a file that is older than that run; it was not removed"
            );
        }
        *paths = own;
        Ok(())
    }
}
