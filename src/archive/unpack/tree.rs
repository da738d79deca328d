//! Creates, changes and removes files below the destination of an archive. Each operation opens the directory of the entry, and works
//! relative to it. No operation follows a symbolic link below the destination.
//!
//! An entry below a link is created in the target of the link, if the target is inside the destination: [`Tree::resolved`] replaces the
//! links in the entry's path. If a link appears in a resolved path later, the operations refuse it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens,
    mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use super::UnpackError;
use super::error::LinkProblem;
use super::resolution::{Component, Resolution};
use crate::fs::{Context, Error};

/// The flags for opening a directory as the base of relative paths. `O_PATH` needs no permission to list the directory.
const DIRECTORY: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// The maximum number of directories that stay open.
const MAX_OPEN: usize = 32;

/// The destination, and the open directories below it.
pub(crate) struct Tree {
    root: OwnedFd,
    /// The path of the destination, for messages.
    destination: PathBuf,
    /// The path of the last used directory, relative to the destination.
    path: Vec<u8>,
    /// The open directories on `path`, from the top down, each with the length of its own path. Archives list the entries of a directory
    /// together, so a few open directories are enough. All are closed when an entry is removed, because the
    /// entry may be one of these directories.
    open: VecDeque<(usize, OwnedFd)>,
}

/// Whether missing directories of a path are created.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Refuse,
}

/// Why a directory cannot be entered.
enum Obstacle {
    Missing,
    Symlink(PathBuf),
    NotDirectory(PathBuf),
    Failed(Error),
}

impl Tree {
    pub(crate) fn open(destination: &Path) -> Result<Self, UnpackError> {
        let root = openat(AT_FDCWD, destination, DIRECTORY, Mode::empty())
            .at("open the directory", destination)?;
        Ok(Self {
            root,
            destination: destination.to_owned(),
            path: Vec::new(),
            open: VecDeque::new(),
        })
    }

    pub(crate) fn full(&self, entry: &Path) -> PathBuf {
        self.destination.join(entry)
    }

    /// Replaces each link in the path of an entry by its target, which must be a directory inside the destination. The entry itself may be
    /// a link; it is not replaced. Creates no directories.
    pub(crate) fn resolved(&mut self, entry: &Path) -> Result<PathBuf, UnpackError> {
        match self.enter(entry, Missing::Refuse) {
            Err(Obstacle::Symlink(_)) => self.through_links(entry),
            // The operation on the entry reports any other obstacle.
            _ => Ok(entry.to_owned()),
        }
    }

    fn through_links(&mut self, entry: &Path) -> Result<PathBuf, UnpackError> {
        let mut resolution = Resolution::new(entry);
        while let Some(Component { name, is_from_link }) = resolution.next_component() {
            if name == ".." {
                resolution.ascend()?;
                continue;
            }
            let path = resolution.path_of(&name);
            match self.look(&path, Missing::Refuse)? {
                Some(found) if has_kind(&found, SFlag::S_IFLNK) => {
                    let target = self.read_link(&path)?;
                    resolution.follow(path, &target, is_from_link)?;
                }
                Some(found) if has_kind(&found, SFlag::S_IFDIR) => resolution.descend(path),
                Some(_) if is_from_link => {
                    return Err(resolution.refused(LinkProblem::NotDirectory));
                }
                None if is_from_link => return Err(resolution.refused(LinkProblem::Missing)),
                // The operation on the entry creates missing directories, or reports a file that is in their place.
                Some(_) | None => {
                    resolution.descend(path);
                    break;
                }
            }
        }
        Ok(resolution.finish())
    }

    fn read_link(&mut self, entry: &Path) -> Result<PathBuf, UnpackError> {
        let full = self.full(entry);
        let (directory, name) = self.parent(entry, Missing::Refuse)?;
        Ok(readlinkat(directory, name)
            .at("read the link", &full)?
            .into())
    }

    /// Creates a file. Replaces an existing one.
    pub(crate) fn create(&mut self, entry: &Path) -> Result<File, UnpackError> {
        // Other users cannot read the file before its mode is set.
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = self.replace(entry, "create", |directory, name| {
            openat(directory, name, flags, mode)
        })?;
        Ok(File::from(file))
    }

    /// Creates a symbolic link. Replaces an existing file.
    pub(crate) fn symlink(
        &mut self,
        entry: &Path,
        target: &Path,
        mtime: i64,
    ) -> Result<(), UnpackError> {
        self.replace(entry, "create the link", |directory, name| {
            symlinkat(target, directory, name)
        })?;
        self.set_time(entry, mtime)
    }

    /// Creates a FIFO. Replaces an existing file.
    pub(crate) fn fifo(&mut self, entry: &Path, mode: u32, mtime: i64) -> Result<(), UnpackError> {
        self.replace(entry, "create the pipe", |directory, name| {
            mkfifoat(directory, name, Mode::S_IRUSR | Mode::S_IWUSR)
        })?;
        self.set_mode(entry, mode)?;
        self.set_time(entry, mtime)
    }

    /// Creates a directory without permissions for other users, or keeps an existing one.
    pub(crate) fn directory(&mut self, entry: &Path) -> Result<(), UnpackError> {
        if let Some(found) = self.look(entry, Missing::Make)?
            && has_kind(&found, SFlag::S_IFDIR)
        {
            return Ok(());
        }
        self.replace(entry, "create the directory", |directory, name| {
            mkdirat(directory, name, Mode::S_IRWXU)
        })
    }

    /// Adds a name to an unpacked file. Replaces an existing file.
    pub(crate) fn hard_link(&mut self, entry: &Path, target: &Path) -> Result<(), UnpackError> {
        let missing = || UnpackError::HardLinkMissing {
            entry: entry.to_owned(),
            target: target.to_owned(),
        };
        let (from, from_name) = match self.enter(target, Missing::Refuse) {
            Ok((directory, name)) => (directory.try_clone(), name),
            Err(Obstacle::Missing) => return Err(missing()),
            Err(obstacle) => return Err(refused(entry, obstacle)),
        };
        let from = from.at("open the directory of", &self.full(target))?;
        let found = match fstatat(&from, from_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Err(missing()),
            Err(error) => Err(error).at("examine", &self.full(target))?,
        };
        // If the entry already is a link to the target, keep it: replacing it could remove the file.
        if let Some(old) = self.look(entry, Missing::Make)?
            && (old.st_dev, old.st_ino) == (found.st_dev, found.st_ino)
        {
            return Ok(());
        }
        self.replace(entry, "create the hard link", |directory, name| {
            linkat(&from, from_name, directory, name, AtFlags::empty())
        })
    }

    /// Sets a directory's mode and time. The empty path means the destination.
    pub(crate) fn finish_directory(
        &mut self,
        entry: &Path,
        mode: u32,
        mtime: i64,
    ) -> Result<(), UnpackError> {
        // Set the time first: if the mode of the destination lacks `x`, only root can access its `.` afterwards.
        self.set_time(entry, mtime)?;
        self.set_mode(entry, mode)
    }

    /// Sets the mode and time of a written file.
    pub(crate) fn finish_file(
        &self,
        entry: &Path,
        file: &File,
        mode: u32,
        mtime: i64,
    ) -> Result<(), UnpackError> {
        fchmod(file, Mode::from_bits_truncate(mode)).at("set the mode of", &self.full(entry))?;
        futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(mtime, 0))
            .at("set the time of", &self.full(entry))?;
        Ok(())
    }

    /// Sets the owner of an entry. A link is not followed. The kernel may remove the setuid and setgid bits of a file.
    pub(crate) fn set_owner(
        &mut self,
        entry: &Path,
        uid: u32,
        gid: u32,
    ) -> Result<(), UnpackError> {
        let full = self.full(entry);
        let (directory, name) = self.parent(entry, Missing::Refuse)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(
            directory,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .at("set the owner of", &full)?;
        Ok(())
    }

    /// Sets the mode of a new file. A symbolic link must not be passed, because it would be followed.
    pub(crate) fn set_mode(&mut self, entry: &Path, mode: u32) -> Result<(), UnpackError> {
        let full = self.full(entry);
        let (directory, name) = self.parent(entry, Missing::Refuse)?;
        let mode = Mode::from_bits_truncate(mode);
        fchmodat(directory, name, mode, FchmodatFlags::FollowSymlink)
            .at("set the mode of", &full)?;
        Ok(())
    }

    fn set_time(&mut self, entry: &Path, mtime: i64) -> Result<(), UnpackError> {
        let full = self.full(entry);
        let (directory, name) = self.parent(entry, Missing::Refuse)?;
        let mtime = TimeSpec::new(mtime, 0);
        utimensat(
            directory,
            name,
            &TimeSpec::UTIME_OMIT,
            &mtime,
            UtimensatFlags::NoFollowSymlink,
        )
        .at("set the time of", &full)?;
        Ok(())
    }

    /// Calls `make`, which fails if the entry exists. In this case, removes the entry and calls `make` again.
    fn replace<T>(
        &mut self,
        entry: &Path,
        action: &'static str,
        make: impl Fn(&OwnedFd, &Path) -> nix::Result<T>,
    ) -> Result<T, UnpackError> {
        let full = self.full(entry);
        let (directory, name) = self.parent(entry, Missing::Make)?;
        match make(directory, name) {
            Err(Errno::EEXIST) => {}
            made => return Ok(made.at(action, &full)?),
        }
        self.remove(entry)?;
        let (directory, name) = self.parent(entry, Missing::Make)?;
        Ok(make(directory, name).at(action, &full)?)
    }

    /// Removes a file, a link or an empty directory.
    pub(crate) fn remove(&mut self, entry: &Path) -> Result<(), UnpackError> {
        let full = self.full(entry);
        let found = self.look(entry, Missing::Refuse)?;
        let how = match found {
            Some(found) if has_kind(&found, SFlag::S_IFDIR) => UnlinkatFlags::RemoveDir,
            _ => UnlinkatFlags::NoRemoveDir,
        };
        let (directory, name) = self.parent(entry, Missing::Refuse)?;
        match unlinkat(directory, name, how) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                return Err(UnpackError::DirectoryInTheWay {
                    entry: entry.to_owned(),
                });
            }
            removed => removed.at("replace", &full)?,
        }
        self.open.clear();
        Ok(())
    }

    /// The metadata of an entry; `None` if it does not exist. A link is not followed.
    fn look(&mut self, entry: &Path, missing: Missing) -> Result<Option<FileStat>, UnpackError> {
        let full = self.full(entry);
        let (directory, name) = self.parent(entry, missing)?;
        match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Ok(Err(error).at("examine", &full)?),
        }
    }

    /// As [`Self::enter`], with an error that names the entry.
    fn parent<'a, 'b>(
        &'a mut self,
        entry: &'b Path,
        missing: Missing,
    ) -> Result<(&'a OwnedFd, &'b Path), UnpackError> {
        self.enter(entry, missing)
            .map_err(|obstacle| refused(entry, obstacle))
    }

    /// Opens the directory of an entry. Returns it with the name of the entry in it (`.` for the destination itself).
    fn enter<'a, 'b>(
        &'a mut self,
        entry: &'b Path,
        missing: Missing,
    ) -> Result<(&'a OwnedFd, &'b Path), Obstacle> {
        let Some(name) = entry.file_name() else {
            return Ok((&self.root, Path::new(".")));
        };
        let name = Path::new(name);
        let parent = entry.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            return Ok((&self.root, name));
        }
        let parent = parent.as_os_str().as_bytes();
        while let Some((length, _)) = self.open.back() {
            if is_at_or_below(parent, &self.path[..*length]) {
                break;
            }
            self.open.pop_back();
        }
        let length = self.open.back().map_or(0, |(length, _)| *length);
        self.path.truncate(length);
        let rest = parent.get(length..).unwrap_or_default();
        for component in rest.split(|byte| *byte == b'/') {
            // If a directory is open, the rest of the path begins with a slash, which gives an empty component.
            if component.is_empty() {
                continue;
            }
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(component);
            let at = self.open.back().map_or(&self.root, |(_, open)| open);
            let path = Path::new(OsStr::from_bytes(&self.path));
            let component = Path::new(OsStr::from_bytes(component));
            let directory = self.step(at, component, path, missing)?;
            self.open.push_back((self.path.len(), directory));
            if self.open.len() > MAX_OPEN {
                self.open.pop_front();
            }
        }
        match self.open.back() {
            Some((_, directory)) => Ok((directory, name)),
            None => Err(Obstacle::Missing),
        }
    }

    /// Opens one directory in another.
    fn step(
        &self,
        at: &OwnedFd,
        component: &Path,
        path: &Path,
        missing: Missing,
    ) -> Result<OwnedFd, Obstacle> {
        let failed = |action, error: Errno| {
            Obstacle::Failed(Error {
                action,
                path: self.full(path),
                source: error.into(),
            })
        };
        let open = || openat(at, component, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty());
        match open() {
            Ok(directory) => Ok(directory),
            Err(Errno::ENOENT) if missing == Missing::Make => {
                // 0755, regardless of the umask.
                let mode = Mode::from_bits_truncate(0o755);
                mkdirat(at, component, Mode::S_IRWXU)
                    .and_then(|()| fchmodat(at, component, mode, FchmodatFlags::FollowSymlink))
                    .and_then(|()| open())
                    .map_err(|error| failed("create the directory", error))
            }
            Err(Errno::ENOENT) => Err(Obstacle::Missing),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                let link = fstatat(at, component, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .is_ok_and(|found| has_kind(&found, SFlag::S_IFLNK));
                Err(if link {
                    Obstacle::Symlink(path.to_owned())
                } else {
                    Obstacle::NotDirectory(path.to_owned())
                })
            }
            Err(error) => Err(failed("open the directory", error)),
        }
    }
}

/// The error of an entry whose directory cannot be entered.
fn refused(entry: &Path, obstacle: Obstacle) -> UnpackError {
    let entry = entry.to_owned();
    match obstacle {
        // The component was not a link when the path was resolved, so another process has changed the destination.
        Obstacle::Symlink(link) => UnpackError::ThroughSymlink {
            entry,
            link,
            problem: LinkProblem::New,
        },
        Obstacle::NotDirectory(parent) => UnpackError::ParentNotDirectory { entry, parent },
        Obstacle::Failed(error) => UnpackError::File(error),
        Obstacle::Missing => UnpackError::File(Error {
            action: "find the directory of",
            path: entry,
            source: Errno::ENOENT.into(),
        }),
    }
}

/// Whether a path is the directory itself or below it.
fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.first().is_none_or(|first| *first == b'/'))
}

fn has_kind(found: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == kind
}

/// Whether a symbolic link can have the target.
pub(super) fn is_valid_target(target: &Path) -> bool {
    let bytes = target.as_os_str().as_bytes();
    !bytes.is_empty() && !bytes.contains(&0)
}
