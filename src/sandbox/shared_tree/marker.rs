//! The marker file. Before a run puts a package or directory into the tree, it notes the name there, so that the run after a killed one can
//! remove it.
//!
//! ```text
//! #links [["PATH", "TARGET"]]  those of the tree's directories that were links
//! #directories 11 12 … 7 7 …   the inodes of the tree's directories and of the data directory; the boot ID of the kernel; their devices;
//!                              the file systems that are mounted there (type, source and directory)
//! NAME                         a package
//! data/NAME                    another directory in the data directory
//! ```
//!
//! The lock file repeats these lines, in case a script removes or replaces the directory of the marker.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::PoisonError;

use super::SharedTree;
use super::lock;
use super::notes::{self, DATA};
use super::own_file::uncover;
use crate::fs::{self, Context, Glimpse};
use crate::release::Name;

impl SharedTree {
    /// Writes a new marker that names these packages, and the data directories so far.
    pub(super) fn write_marker(&self, names: &[Name]) -> fs::Result<()> {
        let mut lines = vec![self.links.line(), self.directories_line()];
        lines.extend(names.iter().map(ToString::to_string));
        lines.extend(self.data_names().iter().map(|name| format!("{DATA}{name}")));
        let notes = lines.join("\n") + "\n";
        self.with_lock_file(|lock| lock::write(lock, &self.who, &notes))?;
        self.with_marker(|marker| {
            marker.write_all_at(notes.as_bytes(), 0)?;
            marker.set_len(notes.len() as u64)
        })
    }

    /// Opens the marker, which may be a new file, and writes to it. The agent holds a lock on the marker until the end of the run: another
    /// run, which may have found no lock file, must not mistake the scripts of this run for those of a killed one.
    fn with_marker(&self, write: impl FnOnce(&File) -> io::Result<()>) -> fs::Result<()> {
        let path = self.marker();
        // This lock also prevents two packages from writing at the same position.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let marker = open(&path)?;
        write(&marker).at("write", &path)?;
        // Keep the lock on the previous marker if a script has put a file there and locked it: another run may still find the previous one.
        if marker.try_lock_shared().is_ok() {
            *held = Some(marker);
        }
        Ok(())
    }

    fn with_lock_file(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> fs::Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut lock).at("write", &self.vcap.data().join(lock::LOCK))
    }

    /// Adds packages to the marker.
    pub(in crate::sandbox) fn note(&self, names: &[&Name]) -> fs::Result<()> {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        self.append(&lines)
    }

    /// Adds a data directory to the marker.
    pub(super) fn note_data(&self, name: &Name) -> fs::Result<()> {
        self.append(&format!("{DATA}{name}\n"))?;
        self.data_names().insert(name.clone());
        Ok(())
    }

    fn append(&self, lines: &str) -> fs::Result<()> {
        self.with_lock_file(|lock| lock::append(lock, lines))?;
        self.with_marker(|marker| lock::append(marker, lines))
    }

    fn directories_line(&self) -> String {
        let identity = |directory: &Path| match Glimpse::behind(directory) {
            Ok(Some(found)) => (found.id, found.volume()),
            // No directory has the number 0.
            Ok(None) | Err(_) => ((0, 0), None),
        };
        let [packages, data_packages, compile] = self.contents().map(|it| identity(&it));
        let data = identity(&self.vcap.data());
        let directories = [packages, data_packages, compile, data];
        notes::directories_line(&directories, fs::boot().as_deref())
    }
}

/// Opens the marker. First removes a link or another kind of file that a script has put into its place. Fails if a process of a script does
/// so again meanwhile.
pub(super) fn open(marker: &Path) -> fs::Result<File> {
    uncover(marker)?;
    // A symbolic link, or another hard link, could lead to a file of the host.
    let is_replaced = |found: std::fs::Metadata| !found.is_file() || found.nlink() > 1;
    if fs::lookup(marker)?.is_some_and(is_replaced) {
        fs::remove_tree(marker)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    fs::open_regular(options, marker)?
        .ok_or_else(|| io::Error::other("it is not a regular file"))
        .at("write", marker)
}
