//! The changes of a tree, for messages.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::Item;
use crate::diag::Chain;
use crate::fs::Error;

/// The maximum number of changed paths in a message. Further paths are only counted.
const SHOWN: usize = 5;

/// The difference between a tree and its record. `Display` writes one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The first changes.
    pub changes: Vec<Change>,
    /// The number of further changes.
    pub others: usize,
}

/// A changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path relative to the tree; empty for its root.
    pub path: PathBuf,
    /// What has changed.
    pub(crate) aspects: Vec<Aspect>,
}

/// What has changed at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Aspect {
    /// The path did not exist before.
    Added,
    /// This number of entries was removed from the directory.
    Removed(usize),
    /// The kind of the file, for example from a directory to a link.
    Kind,
    /// The contents and their length.
    Contents,
    /// The permissions.
    Mode,
    /// The user or group.
    Owner,
    /// The contents, but not their length; or only times or attributes.
    ContentsOrTimes,
    /// The file can no longer be read, for this reason.
    Unreadable(String),
}

impl Difference {
    pub(super) fn unreadable(tree: &Path, error: &Error) -> Self {
        let path = error.path.strip_prefix(tree).unwrap_or(&error.path);
        Self {
            changes: vec![Change {
                path: path.to_owned(),
                aspects: vec![Aspect::Unreadable(Chain(&error.source).to_string())],
            }],
            others: 0,
        }
    }

    /// Compares the items of a tree `before` and `after`. `paths` are the paths of `after`.
    pub(super) fn between(before: &[Item], after: &[Item], paths: &[PathBuf]) -> Self {
        let old_items: HashMap<u64, &Item> = before.iter().map(|item| (item.path, item)).collect();
        // The number of added entries in each directory.
        let mut added: HashMap<&Path, usize> = HashMap::new();
        for (item, path) in after.iter().zip(paths) {
            if !old_items.contains_key(&item.path)
                && let Some(parent) = path.parent()
            {
                *added.entry(parent).or_default() += 1;
            }
        }
        let (mut changes, mut only_times) = (Vec::new(), Vec::new());
        for (item, path) in after.iter().zip(paths) {
            let Some(old) = old_items.get(&item.path) else {
                changes.push((path, vec![Aspect::Added]));
                continue;
            };
            let added = added.get(path.as_path()).copied().unwrap_or_default();
            // An item with added entries may look unchanged if as many entries were removed and the
            // time was set back.
            if *old == item && added == 0 {
                continue;
            }
            match aspects(old, item, added) {
                // The directory is not reported if only entries were added, because these are
                // reported.
                aspects if aspects.is_empty() && added > 0 => {}
                aspects if aspects.is_empty() => {
                    only_times.push((path, vec![Aspect::ContentsOrTimes]))
                }
                aspects => changes.push((path, aspects)),
            }
        }
        // A directory whose only change is its time is reported only if nothing else has changed.
        if changes.is_empty() {
            changes = only_times;
        }
        let others = changes.len().saturating_sub(SHOWN);
        let shown = changes.into_iter().take(SHOWN);
        Self {
            changes: shown
                .map(|(path, aspects)| Change {
                    path: path.clone(),
                    aspects,
                })
                .collect(),
            others,
        }
    }
}

/// The differences between two items of one path. A directory of which only the time has changed
/// has no differences. `added` is the number of new entries in the directory.
fn aspects(old: &Item, new: &Item, added: usize) -> Vec<Aspect> {
    if old.kind() != new.kind() {
        return vec![Aspect::Kind];
    }
    let is_directory = new.kind() == FileType::Directory;
    let mut aspects = Vec::new();
    if is_directory {
        let removed = (old.size as usize + added).saturating_sub(new.size as usize);
        if removed > 0 {
            aspects.push(Aspect::Removed(removed));
        }
    } else if old.size != new.size {
        aspects.push(Aspect::Contents);
    }
    if old.mode != new.mode {
        aspects.push(Aspect::Mode);
    }
    if old.owner != new.owner {
        aspects.push(Aspect::Owner);
    }
    if aspects.is_empty() && !is_directory {
        aspects.push(Aspect::ContentsOrTimes);
    }
    aspects
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.changes.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{change}")?;
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, " and {others} more"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path.as_os_str().is_empty() {
            true => Path::new("."),
            false => &self.path,
        };
        let aspects: Vec<String> = self.aspects.iter().map(ToString::to_string).collect();
        write!(f, "`{}` ({})", path.display(), aspects.join(", "))
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => write!(f, "added"),
            Self::Removed(1) => write!(f, "1 entry removed"),
            Self::Removed(count) => write!(f, "{count} entries removed"),
            Self::Kind => write!(f, "replaced by another kind of file"),
            Self::Contents => write!(f, "contents"),
            Self::Mode => write!(f, "mode"),
            Self::Owner => write!(f, "owner"),
            Self::ContentsOrTimes => write!(f, "contents or times"),
            Self::Unreadable(error) => write!(f, "{error}"),
        }
    }
}
