//! The packages in the tree, by name. The tree has only one package of each name, so a package that needs another version of it waits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::fs::{Difference, Record};
use crate::release::Name;
use crate::sandbox::request::PlaceRequest;

/// The packages in the tree.
#[derive(Debug, Default)]
pub(super) struct PackagesInTree(HashMap<Name, InTree>);

/// A package in the tree.
#[derive(Debug)]
enum InTree {
    /// It is being compiled.
    Compiling,
    /// It is a copy of a sealed tree.
    Dependency {
        sealed: PathBuf,
        /// The number of packages that are being compiled against it.
        users: usize,
        /// The copy; `None` until it is complete.
        copy: Option<DependencyCopy>,
    },
    /// The package has left the tree, but its directories could not be removed.
    Left,
}

/// A complete copy of a sealed dependency. It is verified because Landlock does not deny changes of modes, owners and times.
#[derive(Debug)]
pub(super) struct DependencyCopy {
    record: Record,
    /// When it was last compared with the record, or recorded.
    verified: Instant,
    /// How it differs from the record, if it was changed.
    difference: Option<Difference>,
}

/// A copy of a dependency that a script has changed. It is replaced before the next package uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedCopy {
    /// The dependency.
    pub dependency: Name,
    /// How the copy differed.
    pub difference: Difference,
    /// When it was last known to be unchanged.
    pub last_verified: Instant,
}

impl PackagesInTree {
    /// Whether one of the requested names is not available: the package itself is being compiled or used, or a dependency is in use and its
    /// copy is incomplete, changed, or of another sealed tree.
    pub(super) fn conflict_with(&self, request: &PlaceRequest) -> bool {
        let dependencies = request.dependencies.iter();
        let mut dependencies =
            dependencies.filter_map(|(name, sealed)| Some((self.0.get(name)?, sealed)));
        self.0.get(&request.package).is_some_and(InTree::is_in_use)
            || dependencies.any(|(found, sealed)| found.is_in_use() && !found.is_copy_of(sealed))
    }

    /// Compares the copies of dependencies with their records. `path` returns the path of a dependency's copy.
    pub(super) fn verify(&mut self, request: &PlaceRequest, path: impl Fn(&Name) -> PathBuf) {
        for (name, sealed) in &request.dependencies {
            let found = self.0.get_mut(name).filter(|it| it.is_copy_of(sealed));
            if let Some(InTree::Dependency {
                copy: Some(copy), ..
            }) = found
            {
                copy.verify(&path(name));
            }
        }
    }

    /// Compares the copies of these dependencies with their records, and returns the changed ones. `path` returns the path of a
    /// dependency's copy.
    pub(super) fn changed(
        &self,
        dependencies: &[Name],
        path: impl Fn(&Name) -> PathBuf,
    ) -> Vec<ReplacedCopy> {
        let copies = dependencies
            .iter()
            .filter_map(|name| match self.0.get(name) {
                Some(InTree::Dependency {
                    copy: Some(copy), ..
                }) => Some((name, copy)),
                _ => None,
            });
        let changed = copies.filter_map(|(name, copy)| {
            Some(ReplacedCopy {
                dependency: name.clone(),
                difference: copy.record.compare(&path(name))?,
                last_verified: copy.verified,
            })
        });
        changed.collect()
    }

    /// The requested dependencies of which the tree has no copy, or one that is incomplete, changed, or of another sealed tree.
    pub(super) fn missing(&self, request: &PlaceRequest) -> Vec<Name> {
        let dependencies = request.dependencies.iter();
        dependencies
            .filter(|(name, sealed)| !self.0.get(name).is_some_and(|it| it.is_copy_of(sealed)))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The dependencies that no package uses, with their sealed trees.
    pub(super) fn unused(&self) -> impl Iterator<Item = (&Name, &Path)> {
        self.0.iter().filter_map(|(name, found)| match found {
            InTree::Dependency {
                sealed, users: 0, ..
            } => Some((name, sealed.as_path())),
            InTree::Compiling | InTree::Dependency { .. } | InTree::Left => None,
        })
    }

    /// The packages whose directories could not be removed.
    pub(super) fn left(&self) -> impl Iterator<Item = &Name> {
        let left = self.0.iter();
        left.filter_map(|(name, found)| matches!(found, InTree::Left).then_some(name))
    }

    /// Records that a package could not be removed.
    pub(super) fn note_left(&mut self, name: &Name) {
        self.0.insert(name.clone(), InTree::Left);
    }

    /// Records that the packages in the tree could not be removed.
    pub(super) fn note_all_left(&mut self) {
        self.0.values_mut().for_each(|found| *found = InTree::Left);
    }

    /// Removes a package. Returns its copy if a script has changed it. The outer `None` means that the package was not in the tree.
    pub(super) fn remove(&mut self, name: &Name) -> Option<Option<ReplacedCopy>> {
        let removed = self.0.remove(name)?;
        Some(removed.into_replaced(name))
    }

    /// Adds a package that is going to be compiled, as a user of its dependencies.
    pub(super) fn add(&mut self, request: &PlaceRequest) {
        self.0.insert(request.package.clone(), InTree::Compiling);
        for (name, sealed) in &request.dependencies {
            let found = self.0.entry(name.clone()).or_insert(InTree::Dependency {
                sealed: sealed.clone(),
                users: 0,
                copy: None,
            });
            if let InTree::Dependency { users, .. } = found {
                *users += 1;
            }
        }
    }

    /// Records that a dependency's copy is complete.
    pub(super) fn complete(&mut self, name: &Name, complete: DependencyCopy) {
        if let Some(InTree::Dependency { copy, .. }) = self.0.get_mut(name) {
            *copy = Some(complete);
        }
    }

    /// Ends one use of a dependency. Returns whether the dependency was removed from this list: because its copy is incomplete or, unless
    /// `keep_unused`, because no package uses it.
    pub(super) fn release(&mut self, name: &Name, keep_unused: bool) -> bool {
        let Some(InTree::Dependency { users, copy, .. }) = self.0.get_mut(name) else {
            return false;
        };
        *users = users.saturating_sub(1);
        let is_removed = copy.is_none() || !keep_unused && *users == 0;
        if is_removed {
            self.0.remove(name);
        }
        is_removed
    }

    /// Removes all packages.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl InTree {
    fn is_in_use(&self) -> bool {
        match self {
            Self::Compiling => true,
            Self::Dependency { users, .. } => *users > 0,
            Self::Left => false,
        }
    }

    /// Whether this is a complete and unchanged copy of `wanted`.
    fn is_copy_of(&self, wanted: &Path) -> bool {
        match self {
            Self::Dependency {
                sealed,
                copy: Some(copy),
                ..
            } => sealed == wanted && copy.difference.is_none(),
            Self::Compiling | Self::Dependency { .. } | Self::Left => false,
        }
    }

    fn into_replaced(self, dependency: &Name) -> Option<ReplacedCopy> {
        let Self::Dependency {
            copy: Some(copy), ..
        } = self
        else {
            return None;
        };
        Some(ReplacedCopy {
            dependency: dependency.clone(),
            difference: copy.difference?,
            last_verified: copy.verified,
        })
    }
}

impl DependencyCopy {
    pub(super) fn new(record: Record) -> Self {
        Self {
            record,
            verified: Instant::now(),
            difference: None,
        }
    }

    fn verify(&mut self, path: &Path) {
        let start = Instant::now();
        self.difference = self.record.compare(path);
        if self.difference.is_none() {
            self.verified = start;
        }
    }
}
