//! The lock file of the tree. It names the run that holds it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::links::Links;
use crate::config::Vcap;
use crate::fs::{self, Context, MadeDirectories};
use crate::sandbox::error::SandboxError;

/// The name of the lock file in the data directory.
pub(super) const LOCK: &str = ".bosh-agent-compile.lock";

/// How often to try: that fails if another run ends, and removes the directory, at the same moment.
const ATTEMPTS: usize = 100;

/// How much of the file to read, in bytes. A script may have written into it.
const LIMIT: u64 = 64 * 1024;

/// Creates the data directory and locks the tree. `who` is reported to other runs. Also returns the links that a killed run has noted in
/// the file.
pub(super) fn lock(
    vcap: &Vcap,
    who: &str,
    made: &mut MadeDirectories,
) -> Result<(File, Option<Links>), SandboxError> {
    let path = vcap.data().join(LOCK);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        made.make(&vcap.data())?;
        let mut file = match open_regular(options.clone(), &path) {
            Ok(Some(file)) => file,
            // A script left something else.
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
                    holder: holder(&mut file),
                });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(fs::Error::new("lock", &path, error).into());
            }
        }
        let inode = file.metadata().at("examine", &path)?.ino();
        // The previous holder removes the file before it unlocks it: then the locked file has no name any more.
        if fs::lookup(&path)?.is_some_and(|metadata| metadata.ino() == inode) {
            let links = Links::noted_in(&text_of(&mut file).at("read", &path)?);
            if let Err(error) = write(&mut file, who, links.as_ref()) {
                if links.is_none() {
                    // The lock is held, so this is not the file of another run.
                    let _ = fs::remove_file_if_there(&path);
                }
                return Err(fs::Error::new("write", &path, error).into());
            }
            return Ok((file, links));
        }
    }
    Err(failure
        .unwrap_or_else(|| fs::Error::new("lock", &path, io::ErrorKind::NotFound.into()))
        .into())
}

/// Fails if the script of a killed run has replaced the data directory with a link, according to the marker. To repair that requires the
/// lock, which is in the data directory.
pub(super) fn check_data(vcap: &Vcap, marker: &Path) -> Result<(), SandboxError> {
    if !is_regular(marker) {
        return Ok(());
    }
    // The run removes such a link when it has the lock. What is behind the link says nothing.
    if let Some(noted) = noted_links(vcap)
        && noted.new_target(vcap.base(), &vcap.packages())?.is_some()
    {
        return Ok(());
    }
    let Some(noted) = Links::noted_in(&fs::read_lossy(marker)?) else {
        return Ok(());
    };
    let directory = vcap.data();
    match noted.new_target(vcap.base(), &directory)? {
        None => Ok(()),
        Some(target) => Err(SandboxError::LeftLink { directory, target }),
    }
}

/// Whether there is a regular file. Below a file or a circle of links, there is none.
fn is_regular(file: &Path) -> bool {
    matches!(fs::lookup(file), Ok(Some(found)) if found.is_file())
}

/// Opens a file. `None` if it is not a regular file, such as a link, whose target must stay as it is, or a FIFO, which would block.
pub(super) fn open_regular(
    mut options: std::fs::OpenOptions,
    path: &Path,
) -> fs::Result<Option<File>> {
    // To open a device can have effects.
    if fs::lookup(path)?.is_some_and(|found| !found.is_file()) {
        return Ok(None);
    }
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    // A process of a killed run may have replaced it meanwhile.
    match fs::open_with(&options, path) {
        Ok(file) => {
            let is_file = file.metadata().at("examine", path)?.is_file();
            Ok(is_file.then_some(file))
        }
        Err(error) if error.source.raw_os_error() == Some(Errno::ELOOP as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The links that the file notes, without locking it. `None` if that is unknown.
pub(super) fn noted_links(vcap: &Vcap) -> Option<Links> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    let mut file = open_regular(options, &vcap.data().join(LOCK)).ok()??;
    Links::noted_in(&text_of(&mut file).ok()?)
}

/// Writes who holds the lock, and which of the tree's directories are links, if that is known. Links that the file notes are not lost if
/// this fails or the process is killed.
pub(super) fn write(file: &mut File, who: &str, links: Option<&Links>) -> io::Result<()> {
    let mut text = format!("{who}\n");
    if let Some(links) = links {
        text = format!("{text}{}\n", links.line());
    }
    if text_of(file)? == text {
        return Ok(());
    }
    // The first line with links counts, so that the end of a longer text has no effect.
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// What the holder of a lock has written into the file about itself, if it has yet.
fn holder(file: &mut File) -> String {
    let text = text_of(file).unwrap_or_default();
    match text.lines().next().unwrap_or_default().trim() {
        "" => "it has not said who it is".to_owned(),
        holder => holder.to_owned(),
    }
}

/// The beginning of the file.
fn text_of(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
