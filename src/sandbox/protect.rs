//! `--protect-host`: in namespaces everything but a script's own directories is mounted read-only, and the script cannot undo it.
//!
//! Read-only mounts alone are not enough: root in a mount namespace can make them writable again. So the script's process also gives
//! up the capability to mount, and the one to take over processes that have it.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde::{Deserialize, Serialize};

use super::child::StepResult;
use super::spec::{Step, StepError, View};
use super::{mounts, sys, wire};
use crate::fs::{self, Mount};

/// The parts of `/proc` and `/sys` that change the kernel for everybody. The rest of `/proc` stays writable: programs set the owners
/// of user namespaces there, for example.
const KERNEL: [&str; 6] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/sys",
];

/// Its files belong to single processes, but for those in [`KERNEL`].
const PROC: &str = "/proc";

/// The capabilities that a script gives up: to mount, and to take over a process that can mount.
const GIVEN_UP: [CapabilitySet; 2] = [CapabilitySet::SYS_ADMIN, CapabilitySet::SYS_PTRACE];

/// The writable part of a script's view. Everything else is read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Directories that stay as they are mounted, with everything below them.
    #[serde(with = "wire")]
    writable: Vec<PathBuf>,
    /// Entries of these directories that are the host's, and read-only.
    #[serde(with = "wire")]
    read_only: Vec<PathBuf>,
    /// `HOME`, if none of these directories contains it.
    home: Option<PathBuf>,
}

impl Protection {
    /// The protection of the host from a script with this view, whose `HOME` is `home`.
    pub(super) fn new(view: &View, home: Option<&Path>) -> Self {
        let (tree, cover) = &view.tree;
        let mut writable = vec![cover.clone(), PathBuf::from(PROC)];
        writable.extend(view.temporary.iter().map(|(_, at)| at.clone()));
        let read_only = view
            .kept
            .iter()
            // A relative source lies in the work directory and belongs to the script.
            .filter(|(source, _)| source.is_absolute())
            .filter_map(|(_, at)| Some(cover.join(at.strip_prefix(tree).ok()?)))
            .chain(KERNEL.map(PathBuf::from))
            .collect();
        let mut protection = Self {
            writable,
            read_only,
            home: None,
        };
        let home = home.and_then(|home| fs::canonicalize(home).ok());
        // A directory above the script's tree would open the host.
        protection.home = home.filter(|home| {
            home.is_dir()
                && home.to_str().is_some()
                && !cover.starts_with(home)
                && !protection.leaves_writable(home)
        });
        protection
    }

    /// Whether a script may write to an absolute path, as far as this protection is concerned.
    #[must_use]
    pub fn leaves_writable(&self, path: &Path) -> bool {
        let longest = |directories: &mut dyn Iterator<Item = &PathBuf>| {
            directories
                .filter(|directory| path.starts_with(directory))
                .map(|directory| directory.as_os_str().len())
                .max()
        };
        let writable = longest(&mut self.writable.iter().chain(&self.home));
        writable > longest(&mut self.read_only.iter())
    }

    /// Makes the rest of this process's mount namespace read-only.
    pub(super) fn apply(&self) -> Result<(), StepError> {
        for path in KERNEL.iter().map(Path::new).chain(self.home.as_deref()) {
            match mounts::bind(path, path) {
                // Some kernels and views lack some of them.
                Err(error) if error.errno == Errno::ENOENT as i32 => {}
                other => other?,
            }
        }
        let mut mounted = fs::mounts().step(Step::Protect(PathBuf::from("/")))?;
        mounted.retain(|mount| !mount.flags.contains(MsFlags::MS_RDONLY));
        match sys::set_read_only_below(Path::new("/"), true) {
            Ok(()) => self.open(&mounted),
            // Before Linux 5.12, and where a filter of system calls does not know it.
            Err(Errno::ENOSYS | Errno::EPERM) => self.close(&mounted),
            Err(errno) => Err(errno).step(Step::Protect(PathBuf::from("/"))),
        }
    }

    /// Makes those mounts writable again that are the script's and were writable.
    fn open(&self, mounted: &[Mount]) -> Result<(), StepError> {
        for Mount { point, .. } in mounted {
            if self.leaves_writable(&point.path) && fs::is_mounted_at(point) {
                sys::set_read_only(&point.path, false).step(Step::Protect(point.path.clone()))?;
            }
        }
        Ok(())
    }

    /// Makes the host's mounts read-only one by one.
    fn close(&self, mounted: &[Mount]) -> Result<(), StepError> {
        for Mount { point, flags } in mounted {
            // The script cannot reach a covered mount either.
            if self.leaves_writable(&point.path) || !fs::is_mounted_at(point) {
                continue;
            }
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | *flags;
            mount(None::<&str>, &point.path, None::<&str>, flags, None::<&str>)
                .step(Step::Protect(point.path.clone()))?;
        }
        Ok(())
    }
}

/// Has this process, and what it executes, lose the capabilities by which protection could be undone.
pub(super) fn give_up_capabilities() -> io::Result<()> {
    for capability in GIVEN_UP {
        rustix::thread::remove_capability_from_bounding_set(capability)?;
    }
    let mut own = capabilities(None)?;
    for capability in GIVEN_UP {
        own.effective.remove(capability);
        own.permitted.remove(capability);
        // An inheritable one would come back when a program is executed.
        own.inheritable.remove(capability);
    }
    Ok(set_capabilities(None, own)?)
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn protection(writable: &[&Path], read_only: &[&Path]) -> Protection {
        let owned = |paths: &[&Path]| paths.iter().map(|path| path.to_path_buf()).collect();
        Protection {
            writable: owned(writable),
            read_only: owned(read_only),
            home: None,
        }
    }

    #[test]
    fn longest_directory_decides() {
        let [base, sys, tmp] = ["/var/vcap", "/var/vcap/sys", "/tmp"].map(Path::new);
        let mut protection = protection(&[base, tmp], &[sys]);
        protection.home = Some(PathBuf::from("/var/vcap/sys/home"));
        for (path, expected) in [
            ("/etc/passwd", false),
            ("/var/vcap/packages/app", true),
            ("/var/vcap/sys", false),
            ("/var/vcap/sys/log", false),
            ("/var/vcap/sys/home/x", true),
            ("/var/vcap/system", true),
            ("/tmp", true),
            ("/tmpx", false),
        ] {
            let found = protection.leaves_writable(Path::new(path));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn both_ways_leave_the_same_mounts_writable() {
        for is_old in [false, true] {
            let temporary = tempfile::tempdir().unwrap();
            let path = temporary.path().to_owned();
            // A thread with mounts of its own.
            let thread = std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNS).map(|()| protect_a_tree(is_old, &path))
            });
            // An ordinary user and root in most containers may not have them; `tests/it/protect_host.rs` requires them.
            let refused = thread.join().unwrap().err();
            assert!(matches!(refused, None | Some(Errno::EPERM)), "{refused:?}");
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
        let protection = protection(&[&own], &[]);
        let mut mounted = fs::mounts().unwrap();
        mounted.retain(|mount| !mount.flags.contains(MsFlags::MS_RDONLY));
        if is_old {
            protection.close(&mounted).unwrap();
        } else {
            sys::set_read_only_below(Path::new("/"), true).unwrap();
            protection.open(&mounted).unwrap();
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
