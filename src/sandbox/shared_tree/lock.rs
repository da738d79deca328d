//! The lock file of the shared tree. Its first line names the run that holds the lock. The notes of the marker file follow: the names of
//! the packages and directories that the run has created in the tree. They are in both files, because a script may remove or replace the
//! directory that contains the marker.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::links::Links;
use super::notes::noted_directories;
use super::origin::Over;
use super::own_file::uncover;
use crate::config::Vcap;
use crate::fs::{self, Context, Glimpse, MadeDirectories};
use crate::process;
use crate::sandbox::error::SandboxError;

/// The name of the lock file in the data directory.
pub(super) const LOCK: &str = ".bosh-agent-compile.lock";

/// The maximum number of attempts. An attempt fails if another run ends at the same moment and removes the directory.
const ATTEMPTS: usize = 100;

/// The maximum number of bytes that are read of a file with notes, because a script may have written into it.
pub(super) const LIMIT: u64 = 1024 * 1024;

/// The notes of a killed run in the lock file.
#[derive(Debug, Default)]
pub(super) struct LockNotes {
    /// The notes; empty if there are none.
    pub(super) text: String,
    /// The metadata of the file before it was opened for writing, which may copy it to the upper layer of an overlay, with a new time of
    /// creation.
    pub(super) file: Option<Glimpse>,
}

/// Creates the data directory and locks the tree. `who` describes this run to other runs. Also returns the notes of a killed run.
pub(super) fn lock(
    vcap: &Vcap,
    who: &str,
    made: &mut MadeDirectories,
) -> Result<(File, LockNotes), SandboxError> {
    let path = vcap.data().join(LOCK);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        made.make(&vcap.data())?;
        uncover(&path)?;
        let before = Glimpse::of(&path)?;
        let mut file = match fs::open_regular(options.clone(), &path) {
            Ok(Some(file)) => file,
            // A script left another kind of file there.
            Ok(None) => {
                fs::remove_tree(&path)?;
                continue;
            }
            // A run that has just ended removed the directory.
            Err(error) if error.is_not_found() => {
                failure = Some(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(SandboxError::Busy {
                    base: vcap.base().to_owned(),
                    holder: holder(&mut file, &path),
                });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(fs::Error::new("lock", &path, error).into());
            }
        }
        let found = file.metadata().at("examine", &path)?;
        // A script has made a second hard link, so writing notes would also change the file at that path.
        if found.nlink() > 1 {
            fs::remove_file(&path)?;
            continue;
        }
        let inode = found.ino();
        // Try again if the locked file has no name any more: its previous holder removes the file before unlocking it.
        if fs::lookup(&path)?.is_some_and(|metadata| metadata.ino() == inode) {
            let text = take_over(&mut file, who, &path)?;
            let notes = LockNotes { text, file: before };
            return Ok((file, notes));
        }
    }
    Err(failure
        .unwrap_or_else(|| fs::Error::new("lock", &path, io::ErrorKind::NotFound.into()))
        .into())
}

/// Writes into the locked file who holds it. Returns the notes of a killed run in it.
fn take_over(file: &mut File, who: &str, path: &Path) -> fs::Result<String> {
    let notes = notes_in(&text_of(file).at("read", path)?);
    if let Err(error) = write(file, who, &notes) {
        if notes.is_empty() {
            // The lock is held, so this is not the file of another run.
            let _ = fs::remove_file_if_there(path);
        }
        return Err(fs::Error::new("write", path, error));
    }
    Ok(notes)
}

/// Fails if the marker shows that the script of a killed run has replaced the data directory with a link or mounted a file system over
/// it. The agent cannot repair that, because the lock file is in the data directory.
pub(super) fn check_data(vcap: &Vcap, marker: &Path) -> Result<(), SandboxError> {
    let Ok(Some(file)) = fs::open_regular_to_read(marker) else {
        return Ok(());
    };
    // Ignore the marker if a script has replaced `packages`, its directory, with a link: then it is not the agent's file. This run removes
    // the link when it has the lock.
    if let Some(noted) = noted_links(vcap)
        && noted.new_target(vcap.base(), &vcap.packages())?.is_some()
    {
        return Ok(());
    }
    let text = fs::beginning(&file, LIMIT).unwrap_or_default();
    let directory = vcap.data();
    if over_data(&directory, &text)? == Over::OfScript {
        let marker = marker.to_owned();
        return Err(SandboxError::LeftMount { directory, marker });
    }
    let Some(noted) = Links::noted_in(&text) else {
        return Ok(());
    };
    match noted.new_target(vcap.base(), &directory)? {
        None => Ok(()),
        Some(target) => Err(SandboxError::LeftLink { directory, target }),
    }
}

/// Whose file system has been mounted over the data directory since a run wrote `text`, the notes in a marker or lock file.
pub(super) fn over_data(data: &Path, text: &str) -> fs::Result<Over> {
    let Some([.., noted]) = noted_directories(text, fs::boot().as_deref()) else {
        return Ok(Over::Nothing);
    };
    let real = fs::canonicalize(fs::parent(data))?.join(fs::file_name(data));
    Over::of(&real, noted, &fs::mount_points().unwrap_or_default())
}

/// Reads the links that are noted in the lock file, without locking it. `None` if they are unknown.
pub(super) fn noted_links(vcap: &Vcap) -> Option<Links> {
    let mut file = fs::open_regular_to_read(&vcap.data().join(LOCK)).ok()??;
    Links::noted_in(&text_of(&mut file).ok()?)
}

/// Writes the name of the holder and the notes. If this fails or the process is killed, the old notes remain readable, provided that the
/// new notes begin with the same lines.
pub(super) fn write(file: &mut File, who: &str, notes: &str) -> io::Result<()> {
    let text = format!("{who}\n{notes}");
    if text_of(file)? == text {
        return Ok(());
    }
    // Until the file is shortened, the end of a longer old text may follow. Readers use only the first line with links.
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// Adds notes at the end.
pub(super) fn append(file: &File, notes: &str) -> io::Result<()> {
    let end = file.metadata()?.len();
    file.write_all_at(notes.as_bytes(), end)
}

/// The notes in a text, which follow the line that names the holder.
fn notes_in(text: &str) -> String {
    let notes = text.split_once('\n').map(|(_, notes)| notes);
    let notes = notes.filter(|notes| Links::noted_in(notes).is_some());
    notes.unwrap_or_default().to_owned()
}

/// Describes the holder of the lock, from the first line of the file. A process of a killed run's script may hold the lock instead: it is
/// looked up and named, because it has written nothing.
fn holder(file: &mut File, path: &Path) -> String {
    let text = text_of(file).unwrap_or_default();
    let written = match text.lines().next().unwrap_or_default().trim() {
        "" => "its name is unknown",
        holder => holder,
    };
    match process::holder_except(path, written) {
        None => written.to_owned(),
        Some(process) => format!("{written}; {process} holds a lock on `{}`", path.display()),
    }
}

/// The beginning of the file. A script may have written into it.
fn text_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    fs::beginning(file, LIMIT)
}
