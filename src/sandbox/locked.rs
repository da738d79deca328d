//! Locks the mounts of a view, so that not even a script that runs as root can undo them.
//!
//! A script with the right to mount may unmount what covers the work directory, `/tmp` or `/proc`, and would find the host's there: the
//! work directory with undeclared packages and the sealed trees of others. The kernel locks the mounts that a mount namespace inherits
//! from one of a more privileged user namespace. So the view is copied into a mount namespace that belongs to a new user namespace,
//! and the script enters the copy alone: it keeps all its rights, with the mounts locked. `docs/adr/0014-locked-mounts.md` says what
//! remains.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Pid};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::child::StepResult;
use super::spec::{Step, StepError, View};
use super::{sys, users};
use crate::fs;

/// Directories of devices and of the kernel, which a script that prepares a changed root binds there without what is mounted in them.
/// The kernel refuses that where these mounts are locked, so they are not.
const UNLOCKED: [&str; 2] = ["/dev", "/sys"];

/// Locks everything that is mounted in this process's mount namespace. Afterwards the working directory is `/`.
pub(super) fn lock(view: &View) -> Result<(), StepError> {
    if view.in_user_namespace && !view.processes {
        // The script sees the agent's processes. In a user namespace of its own it has no rights over them, and none of theirs, such as
        // the way through `/proc/PID/root`.
        return users::enter_nested();
    }
    let unlocked: Vec<(&Path, OwnedFd)> = UNLOCKED
        .iter()
        .map(Path::new)
        .filter(|path| !view.covers_below(path))
        // A script could make them writable again.
        .filter(|_| view.protection.is_none())
        .filter_map(|path| Some((path, take(path)?)))
        .collect();
    enter_copy()?;
    for (path, mount) in unlocked {
        move_mount(
            &mount,
            "",
            rustix::fs::CWD,
            path,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(std::io::Error::from)
        .step(Step::LockMounts)?;
    }
    Ok(())
}

/// Takes a mount with everything in it out of the tree. `None` where it stays: it is none, it is locked already, or the kernel is older
/// than Linux 5.2.
fn take(path: &Path) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(rustix::fs::CWD, path, flags).ok()?;
    umount2(path, MntFlags::MNT_DETACH).ok()?;
    Some(mount)
}

/// Enters a copy of the mount namespace that belongs to a new user namespace, and stays in the user namespace that it is in.
fn enter_copy() -> Result<(), StepError> {
    let (mut told, mut tell) = users::pipe()?;
    let (mut stay, end) = users::pipe()?;
    match sys::fork().step(Step::Fork)? {
        ForkResult::Child => {
            drop((told, end));
            let made = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
            let errno = made.err().map_or(0, |errno| errno as i32);
            let _ = tell.write_all(&errno.to_ne_bytes());
            // The copy lives as long as a process that is in it.
            let _ = stay.read(&mut [0]);
            sys::exit(0)
        }
        ForkResult::Parent { child } => {
            drop((tell, stay));
            let entered = enter(child, &mut told);
            drop(end);
            users::wait_for(child);
            entered.step(Step::LockMounts)
        }
    }
}

fn enter(maker: Pid, told: &mut File) -> std::io::Result<()> {
    let mut errno = [0; size_of::<i32>()];
    told.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => {}
        errno => return Err(Errno::from_raw(errno).into()),
    }
    let copy = fs::open(format!("/proc/{maker}/ns/mnt").as_ref()).map_err(|error| error.source)?;
    Ok(setns(copy, CloneFlags::CLONE_NEWNS)?)
}
