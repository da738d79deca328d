//! Merges the layers of an image: decides what each entry changes in the root file system. No I/O.
//!
//! The caller passes the entries of all layers in order, starting with the lowest layer, and carries out each [`Step`] in a directory that
//! is empty at first. The paths of steps are relative to it and have no `..`. No directory on the way is a symbolic link.
//!
//! - An entry replaces what exists at its path; directories are merged. Directories that no layer lists are created.
//! - An entry below a symbolic link belongs to the link's target. Targets are resolved inside the root, as in a container.
//! - The whiteout `.wh.NAME` removes NAME, and `.wh..wh..opq` everything in its directory. Both remove only files of lower layers, so they
//!   may precede or follow the entries of their own layer. Other names that start with `.wh..wh.` are ignored: the storage driver aufs
//!   wrote them.
//! - Devices are skipped, and so are hard links to them. They still remove what they replace.
//! - The number and the lengths of paths are limited, and so is the number of lookups for them.

mod error;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::archive;
use crate::archive::entry::normalize;
use error::{MAX_LINKS, MAX_PATH};

pub use error::LayerError;

/// The beginning of the name of a whiteout.
const WHITEOUT: &[u8] = b".wh.";

/// The beginning of names with a special meaning.
const SPECIAL: &[u8] = b".wh..wh.";

/// The name of the entry that makes its directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The maximum size of all nodes together, in bytes. They are kept in memory.
const MAX_SIZE: usize = 1 << 30;

/// The maximum number of nodes.
const MAX_NODES: usize = 5_000_000;

/// How much memory a node needs in addition to its path and its target, in bytes.
const NODE: usize = 128;

/// The maximum number of path components to look up and of nodes to remove, for all entries together. It is many times what a large image
/// needs, and takes about a minute.
const MAX_WORK: u64 = 200_000_000;

/// An entry of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member<'a> {
    /// The name in the archive.
    pub name: &'a [u8],
    /// The target of a link in the archive.
    pub link: &'a [u8],
    /// The kind.
    pub kind: archive::Kind,
}

impl<'a> From<&'a archive::Entry> for Member<'a> {
    fn from(entry: &'a archive::Entry) -> Self {
        Self {
            name: &entry.name,
            link: &entry.link,
            kind: entry.kind,
        }
    }
}

/// What an entry changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Step {
    /// The directories to create first, with default attributes: no layer has listed them so far.
    pub directories: Vec<PathBuf>,
    /// The files, links and directories to remove then, in this order: the contents of a directory precede it.
    pub remove: Vec<PathBuf>,
    /// What to create, if anything.
    pub action: Option<Action>,
}

/// What an entry creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A directory, or only its attributes if it exists already. The empty path is the root.
    Directory(PathBuf),
    /// A regular file.
    File(PathBuf),
    /// A symbolic link with the target of the entry.
    Symlink(PathBuf),
    /// A FIFO.
    Fifo(PathBuf),
    /// Another name of a file.
    HardLink {
        /// The new name.
        path: PathBuf,
        /// The file.
        target: PathBuf,
    },
    /// Nothing: a device, or a hard link to one.
    Skip(PathBuf),
}

/// A file in the merged tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    /// The number of the layer that it comes from.
    layer: u32,
    kind: NodeKind,
}

impl Node {
    /// Approximately how much memory it needs with its path, in bytes.
    fn size(&self, path: &[u8]) -> usize {
        let target = match &self.kind {
            NodeKind::Symlink(target) => target.len(),
            _ => 0,
        };
        NODE + path.len() + target
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NodeKind {
    Directory,
    Symlink(Vec<u8>),
    File,
    /// A device or a hard link to one, which is not created.
    Skipped,
}

/// The merged tree.
#[derive(Debug)]
pub(super) struct Layers {
    /// The nodes by their paths, without the root. A path is below a directory if it starts with the directory's path and a slash.
    nodes: BTreeMap<Vec<u8>, Node>,
    /// The size of all nodes, in bytes.
    size: usize,
    /// The number of the current layer.
    layer: u32,
    /// Whether names that start with `.wh.` are whiteouts.
    whiteouts: bool,
    /// The number of lookups and removals so far; see [`MAX_WORK`].
    work: u64,
    /// The directories that were created for the current entry.
    made: Vec<PathBuf>,
}

impl Layers {
    /// For the layers of a container image.
    pub(super) fn new() -> Self {
        Self::with(true)
    }

    /// For a single archive, in which no name has a special meaning.
    pub(super) fn flat() -> Self {
        Self::with(false)
    }

    fn with(whiteouts: bool) -> Self {
        Self {
            nodes: BTreeMap::new(),
            size: 0,
            layer: 0,
            whiteouts,
            work: 0,
            made: Vec::new(),
        }
    }

    /// Starts the next layer above the current one.
    pub(super) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Merges the next entry of the current layer. After an error, the tree must not be used.
    ///
    /// # Errors
    /// If the entry must not be merged.
    pub(super) fn add(&mut self, member: Member<'_>) -> Result<Step, LayerError> {
        check_length(member.name)?;
        check_length(member.link)?;
        let entry = normalize(member.name).map_err(|source| LayerError::Outside { source })?;
        let Some(name) = entry.file_name().map(OsStr::as_bytes) else {
            return match member.kind {
                archive::Kind::Directory => Ok(Step {
                    action: Some(Action::Directory(PathBuf::new())),
                    ..Step::default()
                }),
                _ => Err(LayerError::RootNotDirectory),
            };
        };
        if self.whiteouts {
            let parts = || entry.iter().map(OsStr::as_bytes);
            if name == OPAQUE {
                return self.opaque(&entry);
            } else if parts().any(|part| part.starts_with(SPECIAL)) {
                return Ok(Step::default());
            } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                return self.whiteout(&entry, hidden);
            } else if parts().any(|part| part.starts_with(WHITEOUT)) {
                return Err(LayerError::Whiteout { entry });
            }
        }
        let directory = self
            .directory_of(&entry, Missing::Create)?
            .unwrap_or_default();
        let path = join(&directory, name);
        let mut step = self.create(&entry, path, member)?;
        step.directories = std::mem::take(&mut self.made);
        Ok(step)
    }

    /// Creates an entry at its resolved path.
    fn create(
        &mut self,
        entry: &Path,
        path: Vec<u8>,
        member: Member<'_>,
    ) -> Result<Step, LayerError> {
        let owned = || to_path(&path);
        let (kind, action) = match member.kind {
            archive::Kind::Directory => (NodeKind::Directory, Action::Directory(owned())),
            archive::Kind::File => (NodeKind::File, Action::File(owned())),
            archive::Kind::Fifo => (NodeKind::File, Action::Fifo(owned())),
            archive::Kind::Symlink if member.link.is_empty() || member.link.contains(&0) => {
                return Err(LayerError::NoTarget {
                    entry: entry.to_owned(),
                });
            }
            archive::Kind::Symlink => (
                NodeKind::Symlink(member.link.to_vec()),
                Action::Symlink(owned()),
            ),
            archive::Kind::HardLink => {
                let (target, kind) = self.target(entry, member.link)?;
                if target == path {
                    return Ok(Step::default());
                }
                let action = match kind {
                    NodeKind::Skipped => Action::Skip(owned()),
                    _ => Action::HardLink {
                        path: owned(),
                        target: to_path(&target),
                    },
                };
                (kind, action)
            }
            archive::Kind::CharacterDevice | archive::Kind::BlockDevice => {
                (NodeKind::Skipped, Action::Skip(owned()))
            }
            archive::Kind::Other(_) => {
                return Err(LayerError::Unsupported {
                    entry: entry.to_owned(),
                });
            }
        };
        let remove = self.replace(&path, &kind)?;
        // The link has replaced a directory that contained its target.
        if let Action::HardLink { target, .. } = &action
            && !self.nodes.contains_key(target.as_os_str().as_bytes())
        {
            return Err(LayerError::TargetMissing {
                entry: entry.to_owned(),
                target: target.clone(),
            });
        }
        self.insert(path, kind)?;
        Ok(Step {
            remove,
            action: Some(action),
            ..Step::default()
        })
    }

    /// Removes what a new entry of this kind replaces.
    fn replace(&mut self, path: &[u8], kind: &NodeKind) -> Result<Vec<PathBuf>, LayerError> {
        let old = self.nodes.get(path).map(|node| &node.kind);
        match (old, kind) {
            (None, _) | (Some(NodeKind::Directory), NodeKind::Directory) => Ok(Vec::new()),
            _ => self.remove(path, Which::All),
        }
    }

    /// Removes what a whiteout names.
    fn whiteout(&mut self, entry: &Path, hidden: &[u8]) -> Result<Step, LayerError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::Whiteout {
                entry: entry.to_owned(),
            });
        }
        let Some(directory) = self.directory_of(entry, Missing::Ignore)? else {
            return Ok(Step::default());
        };
        Ok(Step {
            remove: self.remove(&join(&directory, hidden), Which::Lower)?,
            ..Step::default()
        })
    }

    /// Removes everything of lower layers from the directory of an entry.
    fn opaque(&mut self, entry: &Path) -> Result<Step, LayerError> {
        let Some(directory) = self.directory_of(entry, Missing::Ignore)? else {
            return Ok(Step::default());
        };
        Ok(Step {
            remove: self.remove_below(&directory, Which::Lower)?,
            ..Step::default()
        })
    }

    /// Removes a path with everything below it. Directories with remaining entries stay. Returns the removed paths.
    fn remove(&mut self, path: &[u8], which: Which) -> Result<Vec<PathBuf>, LayerError> {
        let mut removed = self.remove_below(path, which)?;
        removed.extend(self.remove_one(path, which));
        Ok(removed)
    }

    /// Removes everything below a directory; the empty path is the root.
    fn remove_below(&mut self, directory: &[u8], which: Which) -> Result<Vec<PathBuf>, LayerError> {
        let below: Vec<Vec<u8>> = self
            .below(directory)
            .map(|(path, _)| path.clone())
            .collect();
        self.spend(below.len())?;
        // In reverse order, the contents of a directory precede it.
        let below = below.iter().rev();
        Ok(below
            .filter_map(|path| self.remove_one(path, which))
            .collect())
    }

    /// Removes a file or an empty directory. Returns its path if it was created in the file system.
    fn remove_one(&mut self, path: &[u8], which: Which) -> Option<PathBuf> {
        let node = self.nodes.get(path)?;
        let stays = which == Which::Lower && node.layer == self.layer
            || node.kind == NodeKind::Directory && self.below(path).next().is_some();
        if stays {
            return None;
        }
        let node = self.nodes.remove(path)?;
        self.size -= node.size(path);
        (node.kind != NodeKind::Skipped).then(|| to_path(path))
    }

    /// The nodes below a directory, in the order of their paths' bytes.
    fn below(&self, directory: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Node)> {
        let prefix = match directory {
            b"" => Vec::new(),
            directory => [directory, b"/"].concat(),
        };
        let from = prefix.clone();
        let nodes = self.nodes.range(from..);
        nodes.take_while(move |(path, _)| path.starts_with(&prefix))
    }

    /// The resolved path of a hard link's target, and its kind.
    fn target(&mut self, entry: &Path, link: &[u8]) -> Result<(Vec<u8>, NodeKind), LayerError> {
        let entry = entry.to_owned();
        let target = match normalize(link) {
            Ok(target) => target,
            Err(source) => return Err(LayerError::TargetOutside { entry, source }),
        };
        let directory = self.directory_of(&target, Missing::Ignore)?;
        let name = target.file_name().unwrap_or_default();
        let found = directory.and_then(|directory| {
            let path = join(&directory, name.as_bytes());
            let kind = self.nodes.get(&path)?.kind.clone();
            (kind != NodeKind::Directory).then_some((path, kind))
        });
        found.ok_or(LayerError::TargetMissing { entry, target })
    }

    /// The path of the directory that contains an entry, with all symbolic links resolved. `None` if it does not exist and is not created.
    fn directory_of(
        &mut self,
        entry: &Path,
        missing: Missing,
    ) -> Result<Option<Vec<u8>>, LayerError> {
        let parent = entry.parent().unwrap_or(Path::new(""));
        // The next component is the last one.
        let mut rest: Vec<Vec<u8>> = reversed(parent.as_os_str().as_bytes());
        let (mut path, mut links) = (Vec::new(), 0);
        while let Some(component) = rest.pop() {
            self.spend(1)?;
            if component == b".." {
                let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                path.truncate(parent);
                continue;
            }
            let next = join(&path, &component);
            match self.nodes.get(&next).map(|node| &node.kind) {
                Some(NodeKind::Directory) => path = next,
                Some(NodeKind::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        let entry = entry.to_owned();
                        return Err(LayerError::Links { entry });
                    }
                    if target.starts_with(b"/") {
                        path.clear();
                    }
                    rest.extend(reversed(target));
                }
                None if missing == Missing::Create => {
                    check_length(&next)?;
                    self.insert(next.clone(), NodeKind::Directory)?;
                    self.made.push(to_path(&next));
                    path = next;
                }
                Some(NodeKind::File | NodeKind::Skipped) if missing == Missing::Create => {
                    return Err(LayerError::NotDirectory {
                        entry: entry.to_owned(),
                        parent: to_path(&next),
                    });
                }
                Some(NodeKind::File | NodeKind::Skipped) | None => return Ok(None),
            }
        }
        Ok(Some(path))
    }

    fn insert(&mut self, path: Vec<u8>, kind: NodeKind) -> Result<(), LayerError> {
        check_length(&path)?;
        let node = Node {
            layer: self.layer,
            kind,
        };
        self.size += node.size(&path);
        if let Some(old) = self.nodes.get(&path) {
            self.size -= old.size(&path);
        }
        self.nodes.insert(path, node);
        match self.size > MAX_SIZE || self.nodes.len() > MAX_NODES {
            true => Err(LayerError::TooMany),
            false => Ok(()),
        }
    }

    fn spend(&mut self, work: usize) -> Result<(), LayerError> {
        self.work += work as u64;
        match self.work > MAX_WORK {
            true => Err(LayerError::TooMuchWork),
            false => Ok(()),
        }
    }
}

/// What happens if a directory does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Ignore,
}

/// Which files are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Only files of lower layers.
    Lower,
}

fn check_length(path: &[u8]) -> Result<(), LayerError> {
    match path.len() {
        length if length > MAX_PATH => Err(LayerError::TooLong { length }),
        _ => Ok(()),
    }
}

/// The components of a path, the last one first, without empty ones and `.`.
fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path.split(|byte| *byte == b'/').rev();
    components
        .filter(|component| !component.is_empty() && *component != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

fn to_path(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}
