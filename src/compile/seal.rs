//! Makes an installed tree what its unpacked blob would be, so that a package which has just been compiled and one that was
//! compiled before are the same to those compiled against them.
//!
//! The measure is our own unpacking as root: everything belongs to root, times are whole seconds, extended attributes,
//! sockets and devices are not there.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use walkdir::WalkDir;

use crate::fs::{self, Context};

/// As long as the kernel lets a list of attributes be (`XATTR_LIST_MAX`), in bytes.
const XATTR_LIST_MAX: usize = 64 * 1024;

/// What a file is called while it takes the place of one that has names elsewhere. No package has such a file.
const COPY: &str = ".bosh-agent:copy";

/// What a tree was before it was sealed, as far as its archive tells of it and the sealed tree does not.
#[derive(Debug, Default)]
pub(super) struct Unsealed {
    /// Owners other than root, by names in the archive.
    owners: HashMap<Vec<u8>, (u32, u32)>,
}

impl Unsealed {
    /// The user and the group that an entry had, by its name in the archive (`./bin/tool`), where that was not root.
    pub(super) fn owners(&self, name: &[u8]) -> Option<(u32, u32)> {
        self.owners.get(name).copied()
    }
}

/// A tree that has been looked through before it is sealed.
#[derive(Debug, Default)]
pub(super) struct Examined {
    unsealed: Unsealed,
    /// The names in the tree of each file with several names, by device and inode, and how many names it has everywhere.
    linked: HashMap<(u64, u64), (u64, Vec<PathBuf>)>,
    /// Whether there is something that an archive has and a sealed tree has not.
    pub has_devices: bool,
}

/// Looks through a tree that is to be sealed.
///
/// # Errors
/// What the system answered, with the path of the entry.
pub(super) fn examine(tree: &Path) -> fs::Result<Examined> {
    let mut examined = Examined::default();
    for entry in WalkDir::new(tree) {
        let (path, metadata) = looked_at(entry, tree)?;
        let kind = metadata.file_type();
        examined.has_devices |= kind.is_block_device() || kind.is_char_device();
        let owners = (metadata.uid(), metadata.gid());
        if owners != (0, 0)
            && let Ok(below) = path.strip_prefix(tree)
        {
            let name = [b"./", below.as_os_str().as_bytes()].concat();
            examined.unsealed.owners.insert(name, owners);
        }
        if kind.is_file() && metadata.nlink() > 1 {
            examined
                .linked
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| (metadata.nlink(), Vec::new()))
                .1
                .push(path);
        }
    }
    Ok(examined)
}

/// Seals a tree that nothing has changed since it was examined. Its own root directory keeps its owner, which no archive changes
/// either.
///
/// # Errors
/// What the system answered, with the path of the entry.
pub(super) fn seal(tree: &Path, examined: Examined) -> fs::Result<Unsealed> {
    for (links, paths) in examined.linked.into_values() {
        if links != paths.len() as u64 {
            separate(&paths)?;
        }
    }
    // Contents first: removing an entry changes the time of its directory.
    for entry in WalkDir::new(tree).contents_first(true) {
        let (path, metadata) = looked_at(entry, tree)?;
        let kind = metadata.file_type();
        if kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            keeping_time(fs::parent(&path), || fs::remove_file(&path))?;
            continue;
        }
        remove_attributes(&path)?;
        if path != tree && (metadata.uid(), metadata.gid()) != (0, 0) {
            fs::set_owner_if_allowed(&path, 0, 0)?;
            // A change of owner takes the setuid and setgid bits away.
            if !kind.is_symlink() {
                fs::set_mode(&path, metadata.permissions().mode() & 0o7777)?;
            }
        }
        set_whole_seconds(&path, metadata.mtime())?;
    }
    Ok(examined.unsealed)
}

fn looked_at(
    entry: walkdir::Result<walkdir::DirEntry>,
    tree: &Path,
) -> fs::Result<(PathBuf, Metadata)> {
    let entry = entry.map_err(|error| {
        let path = error.path().unwrap_or(tree).to_owned();
        fs::Error::new("read the tree", &path, error.into())
    })?;
    let metadata = entry
        .metadata()
        .map_err(io::Error::from)
        .at("examine", entry.path())?;
    Ok((entry.into_path(), metadata))
}

/// Gives a file that has names outside the tree, too, an existence of its own: what is changed here must not change there.
fn separate(paths: &[PathBuf]) -> fs::Result<()> {
    let [first, others @ ..] = paths else {
        return Ok(());
    };
    let copy = fs::parent(first).join(COPY);
    keeping_time(fs::parent(first), || {
        fs::copy_tree(first, &copy)?;
        fs::rename(&copy, first)
    })?;
    for other in others {
        keeping_time(fs::parent(other), || {
            fs::remove_file(other)?;
            fs::hard_link(first, other)
        })?;
    }
    Ok(())
}

/// Does something in a directory whose time is to stay what it is, for archives tell it.
fn keeping_time(directory: &Path, work: impl FnOnce() -> fs::Result<()>) -> fs::Result<()> {
    let before = fs::metadata(directory)?;
    work()?;
    set_whole_seconds(directory, before.mtime())
}

fn set_whole_seconds(path: &Path, seconds: i64) -> fs::Result<()> {
    // What an archive cannot hold is stored as the nearest that it can.
    let time = TimeSpec::new(seconds.max(0), 0);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .at("set the times of", path)
}

/// Removes the extended attributes, capabilities and ACLs among them. Where there can be none, there is nothing to do.
fn remove_attributes(path: &Path) -> fs::Result<()> {
    let mut names = Vec::with_capacity(XATTR_LIST_MAX);
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(io::Error::from(error)).at("list the attributes of", path),
    }
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // A security label that the system sets by itself can neither be removed nor packed.
        let _ = rustix::fs::lremovexattr(path, name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_sealed_tree_is_what_its_archive_would_give() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path();
        fs::create_dir(&tree.join("bin")).unwrap();
        let tool = tree.join("bin/tool");
        fs::write(&tool, b"tool").unwrap();
        symlink("tool", tree.join("bin/link")).unwrap();
        let _ = UnixListener::bind(tree.join("bin/socket")).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            std::os::unix::fs::lchown(&tool, Some(1234), Some(5678)).unwrap();
        }
        fs::set_mode(&tool, 0o6755).unwrap();
        let _ = rustix::fs::setxattr(
            &tool,
            "user.test",
            b"value",
            rustix::fs::XattrFlags::empty(),
        );
        let before = fs::metadata(&tree.join("bin")).unwrap().mtime();

        let examined = examine(tree).unwrap();
        assert!(!examined.has_devices);
        let unsealed = seal(tree, examined).unwrap();

        assert!(fs::lookup(&tree.join("bin/socket")).unwrap().is_none());
        let sealed = fs::metadata(&tool).unwrap();
        assert_eq!(sealed.mode() & 0o7777, 0o6755);
        assert_eq!(sealed.mtime_nsec(), 0);
        if is_root {
            assert_eq!((sealed.uid(), sealed.gid()), (0, 0));
            assert_eq!(unsealed.owners(b"./bin/tool"), Some((1234, 5678)));
            assert_eq!(unsealed.owners(b"./bin"), None);
        }
        let mut names = Vec::with_capacity(1024);
        rustix::fs::llistxattr(&tool, rustix::buffer::spare_capacity(&mut names)).unwrap();
        assert!(!names.windows(9).any(|name| name == b"user.test"));
        let directory = fs::metadata(&tree.join("bin")).unwrap();
        assert_eq!((directory.mtime(), directory.mtime_nsec()), (before, 0));
    }

    #[test]
    fn a_file_with_a_name_outside_is_not_changed_there() {
        let scratch = tempfile::tempdir().unwrap();
        let (outside, tree) = (scratch.path().join("outside"), scratch.path().join("tree"));
        fs::create_dir(&tree).unwrap();
        fs::write(&outside, b"contents").unwrap();
        fs::hard_link(&outside, &tree.join("a")).unwrap();
        fs::hard_link(&outside, &tree.join("b")).unwrap();
        set_whole_seconds(&tree, 1_000_000_000).unwrap();
        let before = fs::metadata(&outside).unwrap();

        seal(&tree, examine(&tree).unwrap()).unwrap();

        let after = fs::metadata(&outside).unwrap();
        assert_eq!(
            (before.mtime(), before.mtime_nsec(), 1),
            (after.mtime(), after.mtime_nsec(), after.nlink())
        );
        assert_eq!(fs::metadata(&tree).unwrap().mtime(), 1_000_000_000);
        let inode = |name| fs::metadata(&tree.join(name)).unwrap().ino();
        assert_eq!(inode("a"), inode("b"));
        assert_eq!(fs::read(&tree.join("b")).unwrap(), b"contents");
    }
}
