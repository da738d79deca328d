//! Trees for tests of several modules.

use std::path::Path;

use rustix::fs::{IFlags, Mode, OFlags, mkdirat, openat};

/// A directory for deep trees, in memory if possible: on a disk their removal is slow.
pub(crate) fn scratch_for_deep_trees() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Creates nested directories, with a file in the innermost one. From a depth of 2,048 on, its path is too long for the kernel.
pub(crate) fn make_deep(directory: &Path, depth: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = openat(rustix::fs::CWD, directory, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, "d", flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    openat(&at, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
}

/// Makes a file immutable. `false` if the file system does not support that or the user lacks privileges.
pub(crate) fn flag(path: &Path) -> bool {
    let file = super::open(path).unwrap();
    let is_flagged = rustix::fs::ioctl_getflags(&file)
        .and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE))
        .is_ok();
    if !is_flagged {
        eprintln!("no immutable flag can be set on `{}`", path.display());
    }
    is_flagged
}

/// Mounts a file system in memory. Returns `false`, and prints why, if that is not allowed.
pub(crate) fn mount_memory(at: &Path) -> bool {
    let kind = Some("tmpfs");
    let flags = nix::mount::MsFlags::empty();
    let mounted = nix::mount::mount(kind, at, kind, flags, None::<&str>);
    if let Err(error) = mounted {
        eprintln!(
            "no file system can be mounted at `{}`: {error}",
            at.display()
        );
    }
    mounted.is_ok()
}

/// Mounts a file or directory over another one. Returns `false`, and prints why, if that is not allowed.
pub(crate) fn bind_file(file: &Path, over: &Path) -> bool {
    let (kind, flags) = (None::<&str>, nix::mount::MsFlags::MS_BIND);
    let mounted = nix::mount::mount(Some(file), over, kind, flags, None::<&str>);
    if let Err(error) = mounted {
        eprintln!("no file can be mounted at `{}`: {error}", over.display());
    }
    mounted.is_ok()
}
