//! Records the state of a tree in a few bytes for each entry, to detect later changes without reading contents.
//!
//! The kernel updates the change time (`ctime`) of a file when its contents, mode, owner, times,
//! attributes or number of names change, and programs cannot set it. A file with the same inode and
//! the same change time is therefore unchanged. In two cases, the change time changes although the
//! file does not. In these cases, the modification time and the contents of files are compared
//! instead:
//!
//! - A walk changes the mode of a file or directory that its owner may not read (see `opened_up`).
//! - A hard link outside the tree is removed.

mod clock;
mod difference;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rustix::fs::FileType;

use super::walk::{Mounts, Walk, WalkStep};
use super::{Context, Found, Result};

pub use difference::{Change, Difference};

/// The key of all hashes. It is random, so a script cannot construct collisions.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The state of a tree at some time, in 24 bytes for each entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The entries in the order of a walk.
    items: Vec<Item>,
    /// The inodes of files that also have names outside the tree. The contents of these files are
    /// compared.
    shared: HashSet<u64>,
}

/// An entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    /// A hash of the entry's path.
    path: u64,
    /// A hash of mode, owners and times, and for files also of inode and size. If the change time
    /// may change by itself, it is left out, and a hash of the file's contents is included.
    identity: u64,
    /// The length of a file modulo 2^32, or the number of entries of a directory.
    size: u32,
    /// The last bits of a hash of the entry's user and group.
    owner: u16,
    /// The type and permissions.
    mode: u16,
}

impl Record {
    /// Records a tree.
    ///
    /// # Errors
    /// The error of the system, with the path. A mount in the tree is an error.
    pub fn of(tree: &Path) -> Result<Self> {
        clock::wait_for_later(tree);
        let mut names = HashMap::new();
        let items = Collector {
            names: Some(&mut names),
            ..Collector::default()
        }
        .items_of(tree)?;
        let shared = names.into_iter();
        let shared: HashSet<u64> = shared
            .filter(|(_, (everywhere, here))| everywhere != here)
            .map(|(inode, _)| inode)
            .collect();
        if shared.is_empty() {
            return Ok(Self { items, shared });
        }
        let items = Collector::of_shared(&shared).items_of(tree)?;
        Ok(Self { items, shared })
    }

    /// Compares a tree with the record. Returns `None` if nothing has changed. An entry that cannot be read is a change.
    #[must_use]
    pub(crate) fn compare(&self, tree: &Path) -> Option<Difference> {
        match Collector::of_shared(&self.shared).items_of(tree) {
            Ok(items) if items == self.items => return None,
            Ok(_) => {}
            Err(error) => return Some(Difference::unreadable(tree, &error)),
        }
        let mut paths = Vec::new();
        let collector = Collector {
            paths: Some(&mut paths),
            ..Collector::of_shared(&self.shared)
        };
        match collector.items_of(tree) {
            Ok(items) => Some(Difference::between(&self.items, &items, &paths)),
            Err(error) => Some(Difference::unreadable(tree, &error)),
        }
    }
}

/// Collects the items of a tree, and optionally paths and names.
#[derive(Default)]
struct Collector<'a> {
    /// The files whose contents are compared.
    shared: Option<&'a HashSet<u64>>,
    /// Receives the path of each item, relative to the tree.
    paths: Option<&'a mut Vec<PathBuf>>,
    /// Receives, for each file with several hard links, how many there are in total and how many in the tree.
    names: Option<&'a mut HashMap<u64, (u64, u64)>>,
}

impl<'a> Collector<'a> {
    fn of_shared(shared: &'a HashSet<u64>) -> Self {
        Self {
            shared: Some(shared),
            ..Self::default()
        }
    }

    fn items_of(mut self, tree: &Path) -> Result<Vec<Item>> {
        let mut items: Vec<Item> = Vec::new();
        // For each directory above the current entry: the hash of its path, and its index in the
        // items.
        let mut above: Vec<(u64, usize)> = Vec::new();
        let mut walk = Walk::to_read(tree, Mounts::Refuse)?;
        while let Some(step) = walk.next_step()? {
            let (name, found) = match step {
                WalkStep::Enter(found) => (None, found),
                WalkStep::Entry(name, found) => (Some(name), found),
                WalkStep::Leave(_) => {
                    above.pop();
                    continue;
                }
            };
            let (parent, named) = match (above.last(), &name) {
                (None, _) => (0, OsStr::new("")),
                (Some((parent, _)), Some(name)) => (*parent, name.as_os_str()),
                (Some((parent, _)), None) => (*parent, super::file_name(walk.path())),
            };
            let path = hash(&(parent, named));
            if let Some((_, directory)) = above.last() {
                items[*directory].size = items[*directory].size.wrapping_add(1);
            }
            if let Some(paths) = &mut self.paths {
                let path = walk.path_of(name.as_deref().unwrap_or_default());
                paths.push(path.strip_prefix(tree).unwrap_or(&path).to_owned());
            }
            match &name {
                Some(name) => items.push(self.entry(path, &walk, name, &found)?),
                None => {
                    above.push((path, items.len()));
                    items.push(Item::of_directory(path, &found));
                }
            }
        }
        Ok(items)
    }

    fn entry(&mut self, path: u64, walk: &Walk, name: &OsStr, found: &Found) -> Result<Item> {
        if found.links > 1
            && let Some(names) = &mut self.names
        {
            let (_, here) = names.entry(found.inode).or_insert((found.links, 0));
            *here += 1;
        }
        let is_shared = self.shared.is_some_and(|it| it.contains(&found.inode));
        let contents = match found.kind() {
            FileType::RegularFile if is_shared || found.mode & 0o400 == 0 => contents(walk, name)?,
            FileType::Symlink if is_shared => Some(hash(&walk.read_link(name)?)),
            _ if is_shared => Some(0),
            _ => None,
        };
        Ok(Item::of_entry(path, found, contents))
    }
}

impl Item {
    /// The inode of a directory is not part of its identity, because it may change without a reason
    /// on an overlay. A different directory in its place is detected by its change time or its
    /// entries.
    fn of_directory(path: u64, found: &Found) -> Self {
        let is_readable = found.mode & 0o500 == 0o500;
        let time = is_readable.then_some(found.ctime);
        Self::new(path, found, &(found.mtime, time), 0)
    }

    fn of_entry(path: u64, found: &Found, contents: Option<u64>) -> Self {
        let time = contents.is_none().then_some(found.ctime);
        let identity = (found.inode, found.size, contents, found.mtime, time);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it distinguishes sizes only for messages"
        )]
        let size = found.size as u32;
        Self::new(path, found, &identity, size)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a mode has 16 bits, and owners are distinguished only for messages"
    )]
    fn new(path: u64, found: &Found, identity: &impl Hash, size: u32) -> Self {
        let owners = (found.uid, found.gid);
        Self {
            path,
            identity: hash(&(identity, found.mode, owners)),
            size,
            owner: hash(&owners) as u16,
            mode: found.mode as u16,
        }
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }
}

/// A hash of a file's contents; `None` if it cannot be opened.
fn contents(walk: &Walk, name: &OsStr) -> Result<Option<u64>> {
    let Ok(mut file) = walk.open(name) else {
        return Ok(None);
    };
    let mut hasher = KEY.build_hasher();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).at("read", &walk.path_of(name))? {
            0 => return Ok(Some(hasher.finish())),
            count => hasher.write(&buffer[..count]),
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    KEY.hash_one(value)
}

#[cfg(test)]
mod tests;
