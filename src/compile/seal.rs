//! Seals an installed tree: makes it equal to the tree that results from unpacking the compiled blob as root. Dependents can then not
//! distinguish a package that was just compiled from one that was installed from its blob.
//!
//! In a sealed tree, everything below the top directory belongs to root, times are whole seconds, and there are no extended attributes, sockets or devices.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};
use rustix::io::Errno;

use super::source_date::SourceDate;
use crate::fs::{self, Found, Mounts, Walk, WalkStep};

/// The kernel's limit for a list of attributes, in bytes.
const XATTR_LIST_MAX: usize = 64 * 1024;

/// The temporary name of a copy that replaces a file with hard links outside the tree. No file of a package has this name.
const COPY: &str = ".bosh-agent:copy";

/// The name by which a directory of a walk refers to itself.
const ITSELF: &str = "";

/// Properties that sealing removes from a tree, and that the archive needs.
#[derive(Debug, Default)]
pub(super) struct Unsealed {
    /// The user and the group of each entry that did not belong to root. The keys are names in the archive.
    owners: HashMap<Vec<u8>, (u32, u32)>,
}

impl Unsealed {
    /// The user and the group of an entry, by its name in the archive (`./bin/tool`), if it did not belong to root.
    pub(super) fn owners(&self, name: &[u8]) -> Option<(u32, u32)> {
        self.owners.get(name).copied()
    }
}

/// The examination of a tree before it is sealed.
#[derive(Debug, Default)]
pub(super) struct Examined {
    unsealed: Unsealed,
    /// For each file with several hard links, by device and inode: the number of links in total, and in the tree.
    linked: HashMap<(u64, u64), (u64, u64)>,
    /// Whether the tree contains devices, which an archive keeps and a sealed tree does not.
    pub has_devices: bool,
}

/// Examines a tree before it is sealed. Changes nothing.
///
/// # Errors
/// An entry cannot be read, or the tree contains a mount.
pub(super) fn examine(tree: &Path) -> fs::Result<Examined> {
    let mut examined = Examined::default();
    let mut walk = Walk::to_read(tree, Mounts::Refuse)?;
    while let Some(step) = walk.next_step()? {
        let (name, found) = match step {
            WalkStep::Enter(found) => (ITSELF.into(), found),
            WalkStep::Entry(name, found) => (name, found),
            WalkStep::Leave(_) => continue,
        };
        let kind = found.kind();
        examined.has_devices |= is_device(kind);
        let owners = (found.uid, found.gid);
        if owners != (0, 0)
            && let path = walk.path_of(&name)
            && let Ok(below) = path.strip_prefix(tree)
        {
            let name = [b"./", below.as_os_str().as_bytes()].concat();
            examined.unsealed.owners.insert(name, owners);
        }
        if kind == FileType::RegularFile && found.links > 1 {
            let (_, in_tree) = examined
                .linked
                .entry(found.id())
                .or_insert((found.links, 0));
            *in_tree += 1;
        }
    }
    Ok(examined)
}

/// Seals a tree that was not changed since it was examined. The top directory keeps its owner, as in unpacking. Immutable and append-only
/// flags are cleared, because archives have none. Times after `newest` become `newest`, as in packing.
///
/// # Errors
/// An entry cannot be changed.
pub(super) fn seal(
    tree: &Path,
    examined: Examined,
    newest: Option<SourceDate>,
) -> fs::Result<Unsealed> {
    let mut sealing = Sealing::new(tree, &examined, newest)?;
    // The path of the current directory, relative to the root of the tree.
    let mut inside = PathBuf::new();
    while let Some(step) = sealing.walk.next_step()? {
        match step {
            WalkStep::Enter(found) => {
                if sealing.root.is_none() {
                    let root = sealing.walk.directory().try_clone_to_owned();
                    let failed = |error| {
                        sealing
                            .walk
                            .failed("open the directory", ITSELF.as_ref(), error)
                    };
                    sealing.root = Some(root.map_err(failed)?);
                } else {
                    inside.push(sealing.walk.path().file_name().unwrap_or_default());
                }
                if found.is_flagged {
                    sealing.walk.clear_flags(ITSELF.as_ref())?;
                }
            }
            WalkStep::Entry(name, found) => {
                if found.is_flagged {
                    sealing.walk.clear_flags(&name)?;
                }
                if found.kind() == FileType::Socket || is_device(found.kind()) {
                    sealing.remove(&name)?;
                    continue;
                }
                if sealing.shared.contains(&found.id()) && sealing.detach(&inside, &name, &found)? {
                    continue;
                }
                sealing.seal(&name, &found, true)?;
            }
            // Seal a directory after its contents: removing an entry changes the time of its directory.
            WalkStep::Leave(found) => {
                let is_below = !inside.as_os_str().is_empty();
                sealing.seal(ITSELF.as_ref(), &found, is_below)?;
                inside.pop();
            }
        }
    }
    Ok(examined.unsealed)
}

fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::BlockDevice | FileType::CharacterDevice)
}

/// A tree that is being sealed.
struct Sealing {
    walk: Walk,
    /// The device and inode of files that also have hard links outside the tree.
    shared: HashSet<(u64, u64)>,
    /// The copies that have replaced shared files: their paths relative to the root, by device and inode of the replaced file.
    detached: HashMap<(u64, u64), PathBuf>,
    root: Option<OwnedFd>,
    /// The upper limit of the entries' times, in seconds since 1970.
    newest: i64,
    /// A buffer for the names of an entry's extended attributes.
    attributes: Vec<u8>,
    is_root: bool,
}

impl Sealing {
    fn new(tree: &Path, examined: &Examined, newest: Option<SourceDate>) -> fs::Result<Self> {
        let linked = examined.linked.iter();
        Ok(Self {
            walk: Walk::to_change(tree, Mounts::Refuse)?,
            shared: linked
                .filter(|(_, (total, in_tree))| total != in_tree)
                .map(|(id, _)| *id)
                .collect(),
            detached: HashMap::new(),
            root: None,
            newest: newest.map_or(i64::MAX, SourceDate::seconds),
            attributes: Vec::with_capacity(XATTR_LIST_MAX),
            is_root: nix::unistd::geteuid().is_root(),
        })
    }

    /// Gives an entry the properties that it would have after unpacking.
    fn seal(&mut self, name: &OsStr, found: &Found, with_owner: bool) -> fs::Result<()> {
        self.remove_attributes(name)?;
        if with_owner && (found.uid, found.gid) != (0, 0) {
            self.give_to_root(name)?;
            // A change of owner clears the setuid and setgid bits.
            if found.kind() != FileType::Symlink && !found.is_dir() {
                self.change("set the mode of", name, |walk| {
                    fs::set_mode_at(walk.directory(), name, found.permissions())
                })?;
            }
        }
        if found.is_dir() || found.mtime.1 != 0 || found.mtime.0 > self.newest {
            let time = Timespec {
                tv_sec: found.mtime.0.min(self.newest),
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            self.change("set the times of", name, |walk| {
                fs::set_times_at(walk.directory(), name, &times)
            })?;
        }
        Ok(())
    }

    /// Changes an entry. If an immutable or append-only flag prevents the change, clears the flag and retries.
    fn change(
        &self,
        action: &'static str,
        name: &OsStr,
        change: impl Fn(&Walk) -> rustix::io::Result<()>,
    ) -> fs::Result<()> {
        let mut changed = change(&self.walk);
        if changed == Err(Errno::PERM) && self.walk.clear_flags(name)? {
            changed = change(&self.walk);
        }
        changed.map_err(|error| self.walk.failed(action, name, error.into()))
    }

    fn give_to_root(&self, name: &OsStr) -> fs::Result<()> {
        if self.is_root {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
            let root = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
            let give = |walk: &Walk| {
                let (uid, gid) = (Some(root.0), Some(root.1));
                rustix::fs::chownat(walk.directory(), name, uid, gid, flags)
            };
            if give(&self.walk) == Err(Errno::PERM) && self.walk.clear_flags(name)? {
                return give(&self.walk)
                    .map_err(|error| self.walk.failed("set the owner of", name, error.into()));
            }
        } else {
            fs::set_owner_if_allowed_at(self.walk.directory(), name, 0, 0)
                .map_err(|error| self.walk.failed("set the owner of", name, error.into()))?;
        }
        Ok(())
    }

    fn remove(&self, name: &OsStr) -> fs::Result<()> {
        rustix::fs::unlinkat(self.walk.directory(), name, AtFlags::empty())
            .map_err(|error| self.walk.failed("remove", name, error.into()))
    }

    /// Replaces a file that has hard links outside the tree with a copy, so that changes in the tree do not affect files outside. Returns
    /// `true` if the entry is now a hard link to a copy that is already sealed.
    fn detach(&mut self, inside: &Path, name: &OsStr, found: &Found) -> fs::Result<bool> {
        if let (Some(copy), Some(root)) = (self.detached.get(&found.id()), &self.root) {
            self.remove(name)?;
            fs::link_below(root.as_fd(), copy, self.walk.directory(), name)
                .map_err(|error| self.walk.failed("link", name, error.into()))?;
            return Ok(true);
        }
        fs::detach(&self.walk, name, found, COPY.as_ref())?;
        self.detached.insert(found.id(), inside.join(name));
        Ok(false)
    }

    /// Removes all extended attributes, which include capabilities and ACLs. Does nothing if the file system has none.
    fn remove_attributes(&mut self, name: &OsStr) -> fs::Result<()> {
        let path = self.walk.usable_path_of(name);
        self.attributes.clear();
        let list = rustix::buffer::spare_capacity(&mut self.attributes);
        match rustix::fs::llistxattr(&path, list) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                return Err(self
                    .walk
                    .failed("list the attributes of", name, error.into()));
            }
        }
        for attribute in self
            .attributes
            .split(|byte| *byte == 0)
            .filter(|attribute| !attribute.is_empty())
        {
            let removed = rustix::fs::lremovexattr(&path, attribute);
            // Ignore errors: a security label of the system cannot be removed, and it is not packed.
            if removed == Err(Errno::PERM) && self.walk.clear_flags(name)? {
                let _ = rustix::fs::lremovexattr(&path, attribute);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sealed_tree_equals_its_unpacked_archive() {
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
        let unsealed = seal(tree, examined, None).unwrap();

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
    fn file_with_a_name_outside_is_not_changed_there() {
        let scratch = tempfile::tempdir().unwrap();
        let (outside, tree) = (scratch.path().join("outside"), scratch.path().join("tree"));
        fs::create_dir(&tree).unwrap();
        fs::write(&outside, b"contents").unwrap();
        fs::hard_link(&outside, &tree.join("a")).unwrap();
        fs::hard_link(&outside, &tree.join("b")).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::open(&tree).unwrap().set_modified(time).unwrap();
        let before = fs::metadata(&outside).unwrap();

        seal(&tree, examine(&tree).unwrap(), None).unwrap();

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

    #[test]
    fn deep_trees_and_flagged_and_old_files_are_sealed() {
        let scratch = fs::scratch_for_deep_trees();
        let tree = scratch.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::make_deep(&tree, 15_000);
        let old = tree.join("old");
        fs::write(&old, b"").unwrap();
        let time = Timespec {
            tv_sec: -1001,
            tv_nsec: 500_000_000,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(rustix::fs::CWD, &old, &times, AtFlags::empty()).unwrap();
        let flagged = fs::flag(&old);

        seal(&tree, examine(&tree).unwrap(), None).unwrap();

        let sealed = fs::metadata(&old).unwrap();
        assert_eq!((sealed.mtime(), sealed.mtime_nsec()), (-1001, 0));
        fs::write(&old, b"free").unwrap_or_else(|error| panic!("{flagged}: {error}"));
        let store = scratch.path().join("store");
        fs::rename_tree(&tree, &store).unwrap();
        fs::remove_tree(&store).unwrap();
    }
}
