//! Descends and ascends in a directory tree by file descriptors, so neither the length of a path
//! nor the depth of a tree is limited.
//!
//! At most [`KEPT`] directories above the current one stay open. A closed directory is opened again
//! through `..`, and it is an error if that leads to a different directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, IFlags, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;

use super::found::Found;
use super::opened_up::{self, Opening, Visit};
use super::{Context, Error, Result};

/// The number of directories above the current one that stay open.
const KEPT: usize = 16;

/// The size of the buffer for directory entries, in bytes.
const ENTRIES: usize = 32 * 1024;

/// The kernel refuses longer paths (`PATH_MAX`, in bytes, including the terminating NUL).
const PATH_MAX: usize = 4096;

/// The flags for opening a directory.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// The flags for reading a file, without following a link, and without blocking on a FIFO or device.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The permissions for listing a directory and opening its entries.
pub(super) const READ: Mode = Mode::RUSR.union(Mode::XUSR);

/// The permissions for listing a directory and for creating and removing its entries.
pub(super) const WRITE: Mode = Mode::RWXU;

/// A directory that the descent has entered.
#[derive(Debug)]
struct Entered {
    id: (u64, u64),
    /// Present if the mode of the directory had to be changed to enter it.
    visit: Option<Visit>,
}

/// The current directory of a descent, and the directories above it.
#[derive(Debug)]
pub(super) struct Descent {
    current: OwnedFd,
    entered: Entered,
    /// The directories above the current one, starting with the root. Only the last [`KEPT`] are
    /// open.
    above: Vec<(Option<OwnedFd>, Entered)>,
    /// The path of the current directory.
    path: PathBuf,
    root: Found,
    /// The permissions that are needed in each directory.
    need: Mode,
    buffer: Vec<u8>,
}

impl Descent {
    /// Opens the root of a tree; a link is followed. If the mode of a directory lacks permissions
    /// in `need`, they are added to the mode while the descent is in the directory.
    pub(super) fn open(root: &Path, need: Mode) -> Result<Self> {
        let name = root.as_os_str();
        let opening = Opening {
            flags: DIRECTORY,
            need,
            cross: true,
        };
        let (current, found, visit) = opened_up::open_directory(CWD, name, opening)
            .map_err(io::Error::from)
            .at("open the directory", root)?;
        Ok(Self::new(root, current, found, visit, need))
    }

    /// Opens the directory that contains `tree`. Its mode is not changed.
    pub(super) fn open_above(tree: &Path) -> Result<Self> {
        let path = super::parent(tree);
        Self::open_without_change(CWD, path, path)
    }

    /// Starts a descent in an open directory. `path` is used only in messages.
    pub(super) fn open_at(directory: BorrowedFd<'_>, path: &Path) -> Result<Self> {
        Self::open_without_change(directory, Path::new("."), path)
    }

    fn open_without_change(at: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<Self> {
        let open = |flags| openat(at, name, flags | OFlags::CLOEXEC, Mode::empty());
        let current = match open(DIRECTORY) {
            // Without the permission to list the directory, it can still be opened with `O_PATH`.
            Err(Errno::ACCESS) => open(OFlags::PATH | OFlags::DIRECTORY),
            other => other,
        }
        .map_err(io::Error::from)
        .at("open the directory", path)?;
        let found = Found::of(current.as_fd(), OsStr::new(""))
            .map_err(io::Error::from)
            .at("examine", path)?;
        Ok(Self::new(path, current, found, None, WRITE))
    }

    fn new(path: &Path, current: OwnedFd, found: Found, visit: Option<Visit>, need: Mode) -> Self {
        Self {
            current,
            entered: Entered {
                id: found.id(),
                visit,
            },
            above: Vec::new(),
            path: path.to_owned(),
            root: found,
            need,
            buffer: Vec::with_capacity(ENTRIES),
        }
    }

    /// The metadata of the root.
    pub(super) fn root(&self) -> &Found {
        &self.root
    }

    /// The current directory.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.current.as_fd()
    }

    /// The path of the current directory, which may be too long for the kernel.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry of the current directory.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(name)
        }
    }

    /// A path to an entry of the current directory that is not too long for the kernel.
    pub(super) fn usable_path_of(&self, name: &OsStr) -> PathBuf {
        let path = self.path_of(name);
        match path.as_os_str().len() < PATH_MAX {
            true => path,
            false => self.path_by_descriptor(name),
        }
    }

    /// A path to an entry of the current directory that is correct even if the directory was moved
    /// and something else is at its old path.
    pub(super) fn path_by_descriptor(&self, name: &OsStr) -> PathBuf {
        let directory = format!("/proc/self/fd/{}", self.current.as_raw_fd());
        Path::new(&directory).join(name)
    }

    /// Examines an entry of the current directory.
    pub(super) fn look(&self, name: &OsStr) -> Result<Found> {
        opened_up::look(self.directory(), name)
            .map_err(|error| self.failed("examine", name, error.into()))
    }

    /// Whether a file is on a different mount than the root.
    pub(super) fn is_mount(&self, found: &Found) -> bool {
        found.is_on_other_mount(&self.root)
    }

    /// Enters a directory in the current one. Returns `None` if it is a mount and `cross` is false.
    pub(super) fn enter(&mut self, name: &OsStr, cross: bool) -> Result<Option<Found>> {
        let opening = Opening {
            flags: DIRECTORY | OFlags::NOFOLLOW,
            need: self.need,
            cross,
        };
        let opened = opened_up::open_directory(self.directory(), name, opening);
        let (directory, found, visit) = match opened {
            Err(Errno::XDEV) if !cross => return Ok(None),
            other => {
                other.map_err(|error| self.failed("open the directory", name, error.into()))?
            }
        };
        if !cross && self.is_mount(&found) {
            return Ok(None);
        }
        let entered = Entered {
            id: found.id(),
            visit,
        };
        let above = std::mem::replace(&mut self.entered, entered);
        let directory = std::mem::replace(&mut self.current, directory);
        self.above.push((Some(directory), above));
        if let Some(far) = self.above.len().checked_sub(KEPT + 1)
            && let Some((directory, _)) = self.above.get_mut(far)
        {
            *directory = None;
        }
        self.path.push(name);
        Ok(Some(found))
    }

    /// Restores the mode of the current directory and returns to its parent. Returns the name of
    /// the directory that was left, or `None` at the root.
    pub(super) fn leave(&mut self) -> Result<Option<OsString>> {
        let above = match self.above.pop() {
            None => {
                self.restore();
                return Ok(None);
            }
            Some((Some(directory), entered)) => (directory, entered),
            Some((None, entered)) => {
                let directory =
                    openat(self.directory(), "..", DIRECTORY, Mode::empty()).map_err(|error| {
                        self.failed("find the directory above", "".as_ref(), error.into())
                    })?;
                let found = Found::of(directory.as_fd(), OsStr::new("")).map_err(|error| {
                    self.failed("find the directory above", "".as_ref(), error.into())
                })?;
                if found.id() != entered.id {
                    let moved = Errno::STALE.into();
                    return Err(self.failed("find the directory above", "".as_ref(), moved));
                }
                (directory, entered)
            }
        };
        self.restore();
        (self.current, self.entered) = above;
        let name = self.path.file_name().unwrap_or_default().to_owned();
        self.path.pop();
        Ok(Some(name))
    }

    /// Makes [`Self::leave`] keep the present mode of the current directory instead of restoring
    /// it.
    pub(super) fn keep_mode(&mut self) {
        self.entered.visit = None;
    }

    /// Restores the mode of the current directory, unless another walk is in it.
    fn restore(&mut self) {
        if let Some(visit) = self.entered.visit.take() {
            visit.leave(self.current.as_fd());
        }
    }

    /// The entries of the current directory, unsorted. Call this at most once after each
    /// [`enter`](Self::enter), because the descriptor is read to its end.
    pub(super) fn entries(&mut self) -> Result<Vec<(OsString, FileType)>> {
        let mut entries = Vec::new();
        let mut unknown = false;
        let mut list = RawDir::new(&self.current, self.buffer.spare_capacity_mut());
        while let Some(entry) = list.next() {
            let entry = entry.map_err(io::Error::from).at("list", &self.path)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                unknown |= entry.file_type() == FileType::Unknown;
                entries.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        if unknown {
            for (name, kind) in &mut entries {
                if *kind == FileType::Unknown {
                    *kind = self.look(name)?.kind();
                }
            }
        }
        Ok(entries)
    }

    /// Opens a file of the current directory for reading. If the file's mode denies reading to its
    /// owner, the mode is changed until the file is open.
    pub(super) fn open_file(&self, name: &OsStr) -> Result<File> {
        opened_up::open_file(self.directory(), name, FILE)
            .map(File::from)
            .map_err(|error| self.failed("open", name, error.into()))
    }

    /// Clears the immutable and append-only flags of an entry, which prevent even root from
    /// changing or removing it. An empty name means the current directory. Returns whether a flag
    /// was set.
    pub(super) fn clear_flags(&self, name: &OsStr) -> Result<bool> {
        let cleared = if name.is_empty() {
            clear_flags_of(self.directory())
        } else {
            // Only files and directories have flags. Opening a file of another kind may have side
            // effects.
            match self.look(name)?.kind() {
                FileType::RegularFile | FileType::Directory => {}
                _ => return Ok(false),
            }
            match openat(self.directory(), name, FILE, Mode::empty()) {
                Ok(file) => clear_flags_of(file.as_fd()),
                Err(_) => return Ok(false),
            }
        };
        cleared.map_err(|error| self.failed(super::CLEAR_FLAGS, name, error.into()))
    }

    /// Adds the path of an entry to an error.
    pub(super) fn failed(&self, action: &'static str, name: &OsStr, source: io::Error) -> Error {
        Error {
            action,
            path: self.path_of(name),
            source,
        }
    }
}

impl Drop for Descent {
    /// Restores all changed modes if the descent ends early.
    fn drop(&mut self) {
        while let Ok(Some(_)) = self.leave() {}
    }
}

/// Clears the immutable and the append-only flag of an open file, if the file system supports them. Returns whether a flag was set.
pub(super) fn clear_flags_of(file: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let protecting = IFlags::IMMUTABLE | IFlags::APPEND;
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) if flags.intersects(protecting) => {
            rustix::fs::ioctl_setflags(file, flags - protecting)?;
            Ok(true)
        }
        Ok(_) | Err(_) => Ok(false),
    }
}
