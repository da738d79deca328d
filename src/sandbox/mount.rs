//! Single mounts in this process's mount namespace.
//!
//! Only `mount(2)` is used: the newer system calls would only require a newer kernel, and Docker's system call filter refuses
//! `pivot_root` even if it allows everything else.

use std::ffi::OsStr;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::step::{Step, StepError, StepResult};
use crate::fs;

/// Enters a new mount namespace whose mounts are not propagated to others.
pub(super) fn separate() -> Result<(), StepError> {
    unshare(CloneFlags::CLONE_NEWNS).step(Step::SeparateMounts)?;
    mount(
        None::<&Path>,
        Path::new("/"),
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .step(Step::KeepMountsPrivate)
}

/// Checks, in a process that exits afterwards, whether mounts are allowed: a system call filter or a security module may refuse
/// them although namespaces are allowed.
pub(super) fn try_mounts() -> Result<(), StepError> {
    separate()?;
    let place = Path::new("/tmp");
    tmpfs(place, MsFlags::empty(), None).step(Step::TryMount)?;
    let (from, to) = (place.join("from"), place.join("to"));
    for directory in [&from, &to] {
        fs::create_dir(directory).step(Step::TryMount)?;
    }
    bind(&from, &to)
}

/// Mounts the `/proc` of this process's PID namespace.
pub(super) fn mount_proc() -> Result<(), StepError> {
    mount(
        Some("proc"),
        Path::new("/proc"),
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .step(Step::MountProc)
}

/// Mounts a directory or a file, with everything mounted below it, at another path.
pub(super) fn bind(from: &Path, to: &Path) -> Result<(), StepError> {
    mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .step(Step::Bind(from.to_owned(), to.to_owned()))
}

/// Mounts a file system in memory.
pub(super) fn tmpfs(at: &Path, flags: MsFlags, options: Option<&OsStr>) -> nix::Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, options)
}

/// Mounts an empty directory over another one.
pub(super) fn hide_directory(directory: &Path) -> Result<(), StepError> {
    tmpfs(
        directory,
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(OsStr::new("size=4k,mode=755")),
    )
    .step(Step::HideWork(directory.to_owned()))
}

/// Makes a directory or a file appear empty. Does nothing if it does not exist.
pub(super) fn hide(path: &Path) -> Result<(), StepError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => hide_directory(path),
        Ok(_) => bind(Path::new("/dev/null"), path),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error).step(Step::HideWork(path.to_owned())),
    }
}

/// Mounts a directory at another path, read-only and without what is mounted below it.
pub(super) fn bind_read_only(from: &Path, to: &Path) -> Result<(), StepError> {
    let step = || Step::MountReadOnly(to.to_owned());
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none).step(step())?;
    // A bind mount gets flags only when it is remounted. In a user namespace it must keep the flags that it has.
    let current = statvfs(to).step(step())?.flags();
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    for (flag, kept) in KEPT {
        if current.contains(flag) {
            flags |= kept;
        }
    }
    mount(none, to, none, flags, none).step(step())
}

/// Flags that a mount may have from a more privileged user, and must keep.
const KEPT: [(FsFlags, MsFlags); 6] = [
    (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
    (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
    (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
    (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
];

/// Mounts an overlay.
pub(super) fn overlay(at: &Path, options: &OsStr) -> nix::Result<()> {
    let mounted = |options: &OsStr| {
        mount(
            Some("overlay"),
            at,
            Some("overlay"),
            MsFlags::empty(),
            Some(options),
        )
    };
    let mut volatile = options.to_owned();
    volatile.push(VOLATILE);
    match mounted(&volatile) {
        Err(Errno::EINVAL) => mounted(options),
        other => other,
    }
}

/// Writes into an overlay are discarded. Without this option, the kernel would write all changed data of the file system to disk
/// whenever an overlay is unmounted, which is at the end of each script. Linux before 5.10 does not know it.
const VOLATILE: &str = ",volatile";
