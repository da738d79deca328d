//! `--protect-host`: in namespaces, everything is mounted read-only for a script, except its own directories, its `HOME` and the
//! directories for temporary files. The script cannot undo this.
//!
//! Read-only mounts alone are not enough: root in a mount namespace can make them writable again. So the script's process also drops the
//! capabilities to mount, to take over processes that can mount, and to open files by inode, which bypasses mounts. It also drops those to
//! change or read the kernel's memory, to restart the machine and to set its clock. Devices stay writable on a read-only mount, so the
//! script gets pseudo-terminals of its own.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::mount::bind;
use super::step::{Step, StepError, StepResult};
use super::sys;
use super::view::{KERNEL, Protection};
use crate::fs::{self, Mount};

/// The capabilities that a script drops: to mount, to take over a process that can mount, to open files with `open_by_handle_at`, to change
/// or read the kernel's memory, to restart the machine, to set its clock.
const DROPPED: [CapabilitySet; 9] = [
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::BPF,
    CapabilitySet::PERFMON,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::SYS_TIME,
];

/// Makes all mounts in this process's mount namespace read-only, except those that `protection` leaves writable.
pub(super) fn make_read_only(protection: &Protection) -> Result<(), StepError> {
    // Mount each of these paths on itself: only a mount can be made read-only or writable.
    let own_mounts = KERNEL.iter().map(Path::new);
    for path in own_mounts.chain(protection.home.as_deref()) {
        match bind(path, path) {
            // Some of these paths do not exist in every kernel and in every root file system.
            Err(error) if error.errno == Errno::ENOENT as i32 => {}
            other => other?,
        }
    }
    separate_terminals()?;
    let mut mounted = fs::mounts().step(Step::Protect(PathBuf::from("/")))?;
    mounted.retain(|mount| !mount.flags.contains(MsFlags::MS_RDONLY));
    match sys::set_read_only_below(Path::new("/"), true) {
        Ok(()) => reopen(protection, &mounted),
        // Linux before 5.12, or a system call filter that refuses the call.
        Err(Errno::ENOSYS | Errno::EPERM) => close_each(protection, &mounted),
        Err(errno) => Err(errno).step(Step::Protect(PathBuf::from("/"))),
    }
}

/// Gives the script its own pseudo-terminals. Otherwise, the script could read from and write to the host's pseudo-terminals, including
/// the one that the agent uses.
fn separate_terminals() -> Result<(), StepError> {
    let terminals = Path::new("/dev/pts");
    if !terminals.is_dir() {
        return Ok(());
    }
    let options = Some("newinstance,mode=620,ptmxmode=666");
    let (kind, flags) = (Some("devpts"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
    mount(kind, terminals, kind, flags, options).step(Step::Protect(terminals.to_owned()))?;
    match bind(&terminals.join("ptmx"), Path::new("/dev/ptmx")) {
        // There is no `/dev/ptmx`, so the script cannot reach the host's pseudo-terminals through it.
        Err(error) if error.errno == Errno::ENOENT as i32 => Ok(()),
        other => other,
    }
}

/// Makes those of the writable mounts in `mounted` writable again that `protection` leaves writable.
fn reopen(protection: &Protection, mounted: &[Mount]) -> Result<(), StepError> {
    for Mount { point, .. } in mounted {
        if protection.leaves_writable(&point.path) && fs::is_mounted_at(point) {
            sys::set_read_only(&point.path, false).step(Step::Protect(point.path.clone()))?;
        }
    }
    Ok(())
}

/// Makes the writable mounts in `mounted` read-only one by one, except those that `protection` leaves writable.
fn close_each(protection: &Protection, mounted: &[Mount]) -> Result<(), StepError> {
    for Mount { point, flags } in mounted {
        // Skip a mount that another mount covers: the script cannot reach it.
        if protection.leaves_writable(&point.path) || !fs::is_mounted_at(point) {
            continue;
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | *flags;
        mount(None::<&str>, &point.path, None::<&str>, flags, None::<&str>)
            .step(Step::Protect(point.path.clone()))?;
    }
    Ok(())
}

/// Drops the capabilities that could undo the protection, for this process and the programs that it executes.
pub(super) fn drop_capabilities() -> io::Result<()> {
    for capability in DROPPED {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel does not know this capability: Linux before 5.8 lacks some of them.
            Err(rustix::io::Errno::INVAL) => {}
            other => other?,
        }
    }
    let mut own = capabilities(None)?;
    for capability in DROPPED {
        own.effective.remove(capability);
        own.permitted.remove(capability);
        // Otherwise, root would regain the capability when it executes a program.
        own.inheritable.remove(capability);
    }
    Ok(set_capabilities(None, own)?)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::fs::require;

    #[test]
    fn both_ways_leave_the_same_mounts_writable() {
        for is_old in [false, true] {
            let temporary = tempfile::tempdir().unwrap();
            let path = temporary.path().to_owned();
            // Only this thread gets a mount namespace of its own.
            let thread = std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNS).map(|()| protect_a_tree(is_old, &path))
            });
            // An ordinary user, and root in most containers, may not create a mount namespace.
            let refused = thread.join().unwrap().err();
            assert!(matches!(refused, None | Some(Errno::EPERM)), "{refused:?}");
            if !require(
                refused.is_none(),
                "the permission to create a mount namespace",
            ) {
                return;
            }
        }
    }

    fn protect_a_tree(is_old: bool, temporary: &Path) {
        let [host, own] = ["host", "own"].map(|name| temporary.join(name));
        let none = None::<&str>;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(none, "/", none, private, none).unwrap();
        for (directory, flags) in [
            (&host, MsFlags::MS_NOSUID | MsFlags::MS_NOATIME),
            (&own, MsFlags::MS_NODEV),
            (&own.join("sealed"), MsFlags::MS_RDONLY),
        ] {
            fs::create_dir(directory).unwrap();
            mount(Some("none"), directory, Some("tmpfs"), flags, none).unwrap();
        }
        let protection = Protection {
            writable: vec![own.clone()],
            read_only: Vec::new(),
            home: None,
        };
        let mut mounted = fs::mounts().unwrap();
        mounted.retain(|mount| !mount.flags.contains(MsFlags::MS_RDONLY));
        if is_old {
            close_each(&protection, &mounted).unwrap();
        } else {
            sys::set_read_only_below(Path::new("/"), true).unwrap();
            reopen(&protection, &mounted).unwrap();
        }
        let writes = |directory: &Path| fs::write(&directory.join("file"), b"").is_ok();
        assert!(writes(&own), "old: {is_old}");
        for directory in [&host, &own.join("sealed"), temporary] {
            assert!(!writes(directory), "old: {is_old}, {}", directory.display());
        }
        let mounted = fs::mounts().unwrap();
        let kept = mounted
            .iter()
            .find(|it| it.point.path == host)
            .unwrap()
            .flags;
        let given = MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
        assert_eq!(kept, given | MsFlags::MS_RDONLY, "old: {is_old}");
        for directory in [own.join("sealed"), own, host] {
            fs::unmount(&directory).unwrap();
        }
    }
}
