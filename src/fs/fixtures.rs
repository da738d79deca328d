//! Trees for tests of several modules.

use std::path::Path;

use rustix::fs::{IFlags, Mode, OFlags, mkdirat, openat};

/// Whether a test can run on this machine. If it cannot, prints the reason, and the test must return. If the variable
/// `BOSH_AGENT_TEST_REQUIRE_ALL` is set, as in CI, the test fails instead.
#[track_caller]
pub(crate) fn require(is_there: bool, what: &str) -> bool {
    if !is_there {
        #[expect(clippy::disallowed_methods, reason = "a switch of the tests alone")]
        let is_required = std::env::var_os("BOSH_AGENT_TEST_REQUIRE_ALL").is_some();
        assert!(!is_required, "this test needs {what}");
        eprintln!("skipped: this test needs {what}");
    }
    is_there
}

/// Whether the test runs as root; see [`require`].
#[track_caller]
pub(crate) fn require_root() -> bool {
    require(nix::unistd::geteuid().is_root(), "root's privileges")
}

/// A directory for deep trees, in memory if possible, because removing such trees from a disk is slow.
pub(crate) fn scratch_for_deep_trees() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Creates nested directories, with a file in the innermost one. If `depth` is 2,048 or more, the file's path is too long for the kernel.
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

/// Makes a file immutable. `false` if the file system does not support that or the user lacks privileges; see [`require`].
pub(crate) fn flag(path: &Path) -> bool {
    let file = super::open(path).unwrap();
    let flagged = rustix::fs::ioctl_getflags(&file)
        .and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE));
    require(flagged.is_ok(), "immutable files")
}

/// Mounts a file system in memory. `false` if that is not allowed; see [`require`].
pub(crate) fn mount_memory(at: &Path) -> bool {
    let kind = Some("tmpfs");
    let flags = nix::mount::MsFlags::empty();
    let mounted = nix::mount::mount(kind, at, kind, flags, None::<&str>);
    require(mounted.is_ok(), "the right to mount")
}

/// Mounts an overlay of three directories in `parts`, which are created. `false` if that is not allowed; see [`require`].
pub(crate) fn mount_overlay(parts: &Path, at: &Path) -> bool {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
        let part = parts.join(name);
        super::create_dir_all(&part).unwrap();
        part.display().to_string()
    });
    let kind = Some("overlay");
    let flags = nix::mount::MsFlags::empty();
    let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mounted = nix::mount::mount(kind, at, kind, flags, Some(data.as_str()));
    require(mounted.is_ok(), "the right to mount overlays")
}

/// Makes a directory read-only by a mount, except for a directory in it. `false` if that is not allowed; see [`require`].
pub(crate) fn mount_read_only(at: &Path, except: &Path) -> bool {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    bind_file(at, at) && bind_file(except, except) && {
        let mounted = mount(none, at, none, read_only, none);
        require(mounted.is_ok(), "the right to mount")
    }
}

/// Mounts a file or directory over another one. `false` if that is not allowed; see [`require`].
pub(crate) fn bind_file(file: &Path, over: &Path) -> bool {
    let (kind, flags) = (None::<&str>, nix::mount::MsFlags::MS_BIND);
    let mounted = nix::mount::mount(Some(file), over, kind, flags, None::<&str>);
    require(mounted.is_ok(), "the right to mount")
}
