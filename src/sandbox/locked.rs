//! Locks the mounts of a view, so that not even a script that runs as root can undo them.
//!
//! A view is the set of mounts that one script sees. Some of its mounts cover directories of the host: the work directory, `/tmp`
//! and `/proc`. A script that is allowed to mount could unmount them, and would then see undeclared packages in the work directory.
//! The kernel prevents that for locked mounts: when a mount namespace is copied into a new user namespace, all mounts in the copy are
//! locked. So the script enters such a copy of the view, but stays in its user namespace and keeps its privileges.
//! `docs/adr/0014-locked-mounts.md` has the limits.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Pid};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::step::{Step, StepError, StepResult};
use super::view::View;
use super::{sys, users};
use crate::fs;

/// Directories that are not locked. A script that prepares a chroot runs `mount --bind /dev ROOT/dev`. The kernel refuses that if mounts
/// below `/dev` are locked, because it does not copy them.
const UNLOCKED: [&str; 2] = ["/dev", "/sys"];

/// Locks the mounts in this process's mount namespace, except those of [`UNLOCKED`]. Afterwards the working directory is `/`.
pub(super) fn lock(view: &View) -> Result<(), StepError> {
    if view.in_user_namespace && !view.processes {
        // Without a PID namespace, the script sees the agent's processes. In a nested user namespace, it has no privileges over
        // them: it cannot use `/proc/PID/root`, for example. Its mounts are locked there, too.
        return users::enter_nested();
    }
    let unlocked: Vec<(&Path, OwnedFd)> = UNLOCKED
        .iter()
        .map(Path::new)
        .filter(|path| !view.hides_below(path))
        // With `--protect-host`, they are read-only. A script could make unlocked mounts writable again.
        .filter(|_| view.protection.is_none())
        .filter_map(|path| Some((path, detach(path)?)))
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

/// Detaches a mount with everything mounted below it. `None` if it stays: the path is not a mount point, the mount is already locked,
/// or the kernel is older than Linux 5.2.
fn detach(path: &Path) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(rustix::fs::CWD, path, flags).ok()?;
    umount2(path, MntFlags::MNT_DETACH).ok()?;
    Some(mount)
}

/// Enters a copy of the mount namespace that belongs to a new user namespace. This process stays in its user namespace.
fn enter_copy() -> Result<(), StepError> {
    let (mut errno_reader, mut errno_writer) = users::pipe()?;
    let (mut exit_reader, exit_writer) = users::pipe()?;
    match sys::fork().step(Step::Fork)? {
        ForkResult::Child => {
            drop((errno_reader, exit_writer));
            let made = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
            let errno = made.err().map_or(0, |errno| errno as i32);
            let _ = errno_writer.write_all(&errno.to_ne_bytes());
            // The copy exists as long as a process is in it. The read ends when the parent closes its end.
            let _ = exit_reader.read(&mut [0]);
            sys::exit(0)
        }
        ForkResult::Parent { child } => {
            drop((errno_writer, exit_reader));
            let entered = enter_namespace_of(child, &mut errno_reader);
            drop(exit_writer);
            users::wait_for(child);
            entered.step(Step::LockMounts)
        }
    }
}

/// Enters the mount namespace of `maker`, which first writes an error number, or 0, into the pipe.
fn enter_namespace_of(maker: Pid, errno: &mut File) -> std::io::Result<()> {
    let mut number = [0; size_of::<i32>()];
    errno.read_exact(&mut number)?;
    match i32::from_ne_bytes(number) {
        0 => {}
        errno => return Err(Errno::from_raw(errno).into()),
    }
    let copy = fs::open(format!("/proc/{maker}/ns/mnt").as_ref()).map_err(|error| error.source)?;
    Ok(setns(copy, CloneFlags::CLONE_NEWNS)?)
}
