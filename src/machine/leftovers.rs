//! Removes the leftovers of a killed agent: temporary files, extracted sources and partial downloads.
//!
//! Some of the directories may be links or mounts. Those that the operator of the machine made before the agent first started are used
//! like directories. Those that appeared later may be a script's, and lead to files of the host: nothing behind them is removed. A note
//! from the first start distinguishes them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Vcap;
use crate::diag::Chain;
use crate::fs::{self, Context, Glimpse};

/// The prefix of the agent's temporary files and directories.
const TEMPORARY: &str = ".bosh-agent-";

/// The size limit of the note, in bytes. A script may have written into it.
const LIMIT: u64 = 64 * 1024;

/// What a killed agent may have left.
#[derive(Debug)]
pub(super) struct Leftovers<'a> {
    vcap: &'a Vcap,
    /// The links and mounts among the directories that are used. `None` if that is unknown: nothing behind any is removed.
    accepted: Option<Accepted>,
}

/// The links and mounts that existed at the first start.
#[derive(Debug, Default)]
struct Accepted {
    places: Vec<AcceptedPlace>,
    /// When the note about them was created. A script can forge the note, but not this time, so nothing that is older is removed.
    since: Option<(i64, u32)>,
}

/// The note.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// When and where the mounts have these numbers. After a boot, or in another container, there are no mounts of scripts.
    place: Option<(String, u64)>,
    places: Vec<AcceptedPlace>,
}

/// A directory that is a link, is behind a link, or is a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AcceptedPlace {
    directory: PathBuf,
    /// Its path without links.
    real: PathBuf,
    /// The number of the mount in which it is.
    mount: Option<u64>,
}

impl<'a> Leftovers<'a> {
    /// Must precede the creation of the agent's directories and all scripts.
    pub(super) fn find(vcap: &'a Vcap) -> Self {
        let found = accepted(vcap);
        if let Err(error) = &found {
            tracing::warn!(error = %Chain(error), "it is unknown which links and mounts existed when the agent first started");
        }
        Self {
            vcap,
            accepted: found.ok().flatten(),
        }
    }

    /// Removes the leftovers. Failures are logged.
    pub(super) fn remove(&self) {
        let vcap = self.vcap;
        for directory in [
            vcap.temporary(),
            vcap.blobs().join("tmp"),
            vcap.sensitive_blobs().join("tmp"),
        ] {
            log_failure(self.empty(&directory));
        }
        if is_compile_tree_unused(vcap) {
            log_failure(self.empty(&vcap.compile()));
        }
        for directory in [
            vcap.bosh(),
            vcap.etc(),
            fs::parent(&vcap.settings_in_memory()).to_owned(),
            vcap.instance(),
            vcap.blobs(),
            vcap.sensitive_blobs(),
        ] {
            fs::remove_abandoned(&directory, TEMPORARY, None);
        }
    }

    /// Removes the contents of a directory below the data directory, except mounts and temporary files in use.
    fn empty(&self, directory: &Path) -> fs::Result<()> {
        let mut since = None;
        if is_replaced(directory, &self.vcap.data())? {
            let Some(accepted) = self.accepted.as_ref().filter(|it| it.has(directory)) else {
                tracing::warn!(
                    path = %directory.display(),
                    note = %note_path(self.vcap).display(),
                    "keeping leftovers: there is a link or a mount that did not exist when the agent first started"
                );
                return Ok(());
            };
            since = accepted.since;
            if since.is_none() {
                return Ok(());
            }
        }
        fs::remove_abandoned(directory, TEMPORARY, None);
        for entry in fs::list(directory)? {
            let path = entry.path();
            let is_temporary = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(TEMPORARY.as_bytes());
            // Do not detect mounts by device numbers: Btrfs subvolumes and files of an overlay have other numbers than their parent
            // without being mounts, and a bind mount may have the number of its parent.
            if is_temporary || fs::is_mount_point(&path)? {
                continue;
            }
            let is_older = |since| -> fs::Result<bool> {
                Ok(Glimpse::of(&path)?.is_some_and(|found| found.is_older_than(since)))
            };
            if !since.map_or(Ok(false), is_older)? {
                fs::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

impl Accepted {
    fn has(&self, directory: &Path) -> bool {
        self.places.iter().any(|it| it.directory == directory)
    }
}

/// The directories whose contents are removed.
fn emptied(vcap: &Vcap) -> [PathBuf; 4] {
    [
        vcap.temporary(),
        vcap.blobs().join("tmp"),
        vcap.sensitive_blobs().join("tmp"),
        vcap.compile(),
    ]
}

fn note_path(vcap: &Vcap) -> PathBuf {
    vcap.bosh().join("links_and_mounts.json")
}

/// The links and mounts that existed at the first start and still lead to the same directories. Writes the note at the first start, and
/// when mounts have new numbers. `None` if there is no note and this is not the first start.
fn accepted(vcap: &Vcap) -> fs::Result<Option<Accepted>> {
    let now = Note {
        place: here(),
        places: replaced(vcap)?,
    };
    let path = note_path(vcap);
    if fs::lookup(&path)?.is_none() {
        // A script may have removed the note.
        if fs::lookup(&vcap.sensitive_blobs().join("tmp"))?.is_some() {
            return Ok(None);
        }
        fs::create_dir_all(&vcap.bosh())?;
        write(&path, &now)?;
        return Ok(Some(now.accepted(&path)?));
    }
    let Some(noted) = read(&path)? else {
        return Ok(None);
    };
    let is_same_place = noted.place.is_none() || noted.place == now.place;
    let accepted = now.places.iter().filter(|place| {
        noted.places.iter().any(|noted| {
            let is_mount = !is_same_place || noted.mount == place.mount;
            noted.directory == place.directory && noted.real == place.real && is_mount
        })
    });
    let accepted = Note {
        places: accepted.cloned().collect(),
        place: now.place,
    };
    if !is_same_place {
        // What is missing, such as a disk that is not mounted yet, stays in the note.
        let is_missing = |it: &&AcceptedPlace| {
            let mut found = accepted.places.iter();
            !found.any(|found| found.directory == it.directory)
        };
        let missing = noted.places.iter().filter(is_missing).cloned();
        let places = accepted.places.iter().cloned().chain(missing).collect();
        let place = accepted.place.clone();
        write(&path, &Note { place, places })?;
    }
    Ok(Some(accepted.accepted(&path)?))
}

impl Note {
    fn accepted(self, path: &Path) -> fs::Result<Accepted> {
        let found = Glimpse::of(path)?;
        Ok(Accepted {
            places: self.places,
            since: found.and_then(|found| found.born),
        })
    }
}

/// The boot of the kernel and the mount namespace.
fn here() -> Option<(String, u64)> {
    let namespace = fs::metadata("/proc/thread-self/ns/mnt".as_ref()).ok()?;
    Some((fs::boot()?, namespace.ino()))
}

/// The present links and mounts among the directories.
fn replaced(vcap: &Vcap) -> fs::Result<Vec<AcceptedPlace>> {
    let mut places = Vec::new();
    for directory in emptied(vcap) {
        if is_replaced(&directory, &vcap.data())?
            && let Some(real) = fs::if_there(fs::canonicalize(&directory))?
        {
            let mount = Glimpse::of(&real)?.and_then(|found| found.mount());
            places.push(AcceptedPlace {
                directory,
                real,
                mount,
            });
        }
    }
    Ok(places)
}

/// Reads the note. `None` if it is not valid, or if a script put something else there.
fn read(path: &Path) -> fs::Result<Option<Note>> {
    let Some(file) = fs::open_regular_to_read(path)? else {
        return Ok(None);
    };
    let text = fs::beginning(&file, LIMIT).at("read", path)?;
    Ok(serde_json::from_str(&text).ok())
}

/// Writes the note. A note that exists keeps its time of creation.
fn write(path: &Path, note: &Note) -> fs::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let text = serde_json::to_string(note).map_err(io::Error::from);
    let written = |file: File, text: String| {
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    };
    let Some(file) = fs::open_regular(options, path)? else {
        return Ok(());
    };
    // The note would be written into the file that has the other name.
    if file.metadata().at("examine", path)?.nlink() > 1 {
        return Ok(());
    }
    text.and_then(|text| written(file, text)).at("write", path)
}

/// Whether no run uses the sources in `data/compile`. If the marker file exists, a run was killed: the next compile removes the sources of
/// that run after its processes have ended.
fn is_compile_tree_unused(vcap: &Vcap) -> bool {
    let at_once = Duration::ZERO;
    !vcap.compile_marker().exists()
        && fs::wait_until_free(&vcap.compile_lock(), at_once, &|| true).unwrap_or(false)
}

/// Whether a directory below `data` is a mount point, or is reached through a link below `data`. An unrestricted script may have left the
/// mount or the link, so the files in it may not be the agent's. Mounts at parents are accepted, because `data/sensitive_blobs` may be one.
fn is_replaced(directory: &Path, data: &Path) -> fs::Result<bool> {
    // Check this first: if the file system does not respond, `lookup` would block.
    if fs::is_mount_point(directory)? {
        return Ok(true);
    }
    for path in directory.ancestors().take_while(|path| *path != data) {
        if fs::lookup(path)?.is_some_and(|found| found.is_symlink()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Logs the failure of a step that compiling does not need.
pub(super) fn log_failure<T>(done: fs::Result<T>) {
    if let Err(error) = done {
        tracing::warn!(error = %Chain(&error), "a step of the machine's preparation failed; continuing without it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::machine::bootstrap::{Platform, bootstrap};

    fn start(vcap: &Vcap) {
        bootstrap(vcap, Platform::Dummy, &Environment::default()).unwrap();
    }

    /// A base directory in which the operator has linked `data/tmp` to a directory with a file, and mounted a file system at
    /// `data/compile`, if that is allowed.
    struct Machine {
        scratch: tempfile::TempDir,
        vcap: Vcap,
        is_mounted: bool,
    }

    impl Machine {
        fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let vcap = Vcap::new(&scratch.path().join("vcap"));
            let disk = scratch.path().join("disk");
            for directory in [&disk, &vcap.compile()] {
                fs::create_dir_all(directory).unwrap();
            }
            fs::write(&disk.join("theirs"), b"").unwrap();
            fs::symlink(&disk, &vcap.temporary()).unwrap();
            pass_tick(&disk.join("theirs"));
            let is_mounted = fs::mount_memory(&vcap.compile());
            Self {
                scratch,
                vcap,
                is_mounted,
            }
        }

        /// Leaves files as a killed agent does. Returns their paths.
        fn leave(&self) -> [PathBuf; 2] {
            let left = [self.vcap.temporary(), self.vcap.compile()].map(|it| it.join("left"));
            for path in &left {
                fs::write(path, b"").unwrap();
            }
            left
        }

        fn disk(&self) -> PathBuf {
            self.scratch.path().join("disk")
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            if self.is_mounted {
                let _ = fs::unmount(&self.vcap.compile());
            }
        }
    }

    /// Waits until new files have a later time of creation than this file.
    fn pass_tick(file: &Path) {
        let born = |path: &Path| Glimpse::of(path).unwrap().unwrap().born;
        loop {
            let new = tempfile::NamedTempFile::new().unwrap();
            if born(new.path()) > born(file) || born(new.path()).is_none() {
                return;
            }
        }
    }

    fn remaining(paths: &[PathBuf]) -> usize {
        paths.iter().filter(|path| path.exists()).count()
    }

    #[test]
    fn leftovers_behind_links_and_mounts_of_the_operator_are_removed() {
        let machine = Machine::new();
        start(&machine.vcap);
        for _ in 0..2 {
            let left = machine.leave();
            start(&machine.vcap);
            assert_eq!(remaining(&left), 0);
            assert!(machine.disk().join("theirs").exists());
        }
    }

    #[test]
    fn mounts_are_accepted_again_after_a_boot() {
        let machine = Machine::new();
        let path = note_path(&machine.vcap);
        start(&machine.vcap);
        let born = Glimpse::of(&path).unwrap().unwrap().born;
        let noted = read(&path).unwrap().unwrap();
        let mut other = read(&path).unwrap().unwrap();
        other.place = Some(("another boot".to_owned(), 1));
        for place in &mut other.places {
            place.mount = Some(u64::MAX);
        }
        write(&path, &other).unwrap();
        let left = machine.leave();
        start(&machine.vcap);
        assert_eq!(remaining(&left), 0);
        assert_eq!(read(&path).unwrap().unwrap(), noted);
        assert_eq!(Glimpse::of(&path).unwrap().unwrap().born, born);
    }

    #[test]
    fn leftovers_behind_links_and_mounts_of_a_script_stay() {
        let machine = Machine::new();
        start(&machine.vcap);
        let host = machine.scratch.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(&host.join("file"), b"").unwrap();
        for link in [machine.vcap.temporary(), machine.vcap.blobs().join("tmp")] {
            fs::remove_tree(&link).unwrap();
            fs::symlink(&host, &link).unwrap();
        }
        let is_bound = fs::bind_file(&host, &machine.vcap.compile());
        start(&machine.vcap);
        if is_bound {
            fs::unmount(&machine.vcap.compile()).unwrap();
        }
        assert!(host.join("file").exists());
    }

    #[test]
    fn forged_and_removed_notes_remove_nothing_older() {
        for note in [None, Some("{"), Some("forged")] {
            let machine = Machine::new();
            let path = note_path(&machine.vcap);
            start(&machine.vcap);
            let left = machine.leave();
            fs::remove_file(&path).unwrap();
            pass_tick(&left[1]);
            match note {
                Some("forged") => {
                    let places = replaced(&machine.vcap).unwrap();
                    let place = here();
                    write(&path, &Note { place, places }).unwrap();
                }
                Some(text) => fs::write(&path, text.as_bytes()).unwrap(),
                None => {}
            }
            start(&machine.vcap);
            let expected = if machine.is_mounted { 2 } else { 1 };
            let behind = if machine.is_mounted {
                &left[..]
            } else {
                &left[..1]
            };
            assert_eq!(remaining(behind), expected, "{note:?}");
        }
    }
}
