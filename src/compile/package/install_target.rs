//! Finds the tree that the script has installed. The install target is a link to the install directory, but the script may have replaced
//! the link or the directory.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::work::Work;
use crate::compile::error::CompileError;
use crate::diag::Chain;
use crate::fs;
use crate::sandbox::{CopyEnd, FileKind, LookupError, SeenPath, SeenPaths};

/// The tree that a script has installed.
#[derive(Debug)]
pub(super) struct FoundTree {
    pub(super) path: PathBuf,
    /// Whether the agent, not the script, created the root of the tree.
    pub(super) agent_made_root: bool,
    /// Whether the tree is a copy, in a new directory in the store.
    is_copy: bool,
}

impl FoundTree {
    fn in_place(path: PathBuf, agent_made_root: bool) -> Self {
        Self {
            path,
            agent_made_root,
            is_copy: false,
        }
    }

    /// If the tree is a copy, removes the copy and its directory. Call this when the tree was moved or is no longer needed.
    pub(super) fn remove_copy(&self) {
        if self.is_copy {
            remove_copy(&self.path);
        }
    }
}

/// Removes a copy and the directory that was created for it. If that fails, both are removed with the store.
fn remove_copy(copy: &Path) {
    if let Err(error) = fs::remove_tree(fs::parent(copy)) {
        tracing::warn!(error = %Chain(&error), "could not remove the copy of an install target");
    }
}

/// The tree to which the link at an install target leads.
struct LinkedTree {
    /// Where the agent finds the files.
    tree: PathBuf,
    /// The target of the link in the package's place. It differs from `tree` if it is in a dependency, which is no longer mounted there.
    target: PathBuf,
}

impl Work {
    /// Checks that the package's directories were not replaced. `mounts` has the mount points that the script has left.
    pub(super) fn check_directories(&self, mounts: &[String]) -> Result<(), CompileError> {
        let checked = self.context.sandbox.check(&self.place);
        checked.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })?;
        let paths = &self.plan.paths;
        // Check the mounts first: if one of them does not respond, any access to the covered path blocks.
        self.check_mounts(&paths.link, mounts)?;
        self.check_mounts(&paths.install, mounts)?;
        match fs::lookup(&paths.packages).map_err(self.file_error())? {
            Some(metadata) if !metadata.is_dir() => Err(CompileError::InstallTarget {
                package: self.job.name.clone(),
                path: paths.packages.clone(),
                found: "there is a link or a file".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Finds the installed tree. If the script has replaced the link with a directory, this directory is the tree. If the script has
    /// replaced the link with another link, the tree is a copy of the directory to which the new link leads.
    pub(super) fn installed_tree(&self, mounts: &[String]) -> Result<FoundTree, CompileError> {
        let paths = &self.plan.paths;
        let own = || FoundTree::in_place(paths.install.clone(), true);
        let wrong = |found: &'static str| self.wrong_target(found.into());
        let Some(metadata) = fs::lookup(&paths.link).map_err(self.file_error())? else {
            // The script has removed the link. The directory may still exist.
            return match fs::lookup(&paths.install).map_err(self.file_error())? {
                Some(metadata) if metadata.is_dir() => Ok(own()),
                _ => Err(wrong("there is nothing")),
            };
        };
        if metadata.is_dir() {
            return Ok(FoundTree::in_place(paths.link.clone(), false));
        }
        if !metadata.is_symlink() {
            return Err(wrong("there is a file"));
        }
        let target = fs::read_link(&paths.link).map_err(self.file_error())?;
        if target == self.plan.link_target {
            match fs::lookup(&paths.install).map_err(self.file_error())? {
                Some(metadata) if metadata.is_dir() => return Ok(own()),
                // The script has replaced the install directory with a link: follow it below.
                Some(metadata) if metadata.is_symlink() => {}
                _ => return Err(wrong("there is a link that leads nowhere")),
            }
        }
        self.copy_of_linked(mounts)
    }

    /// Fails if the script has left a mount in, at or above its installed tree. The files in the mount are not part of the tree. If the
    /// script had its own mount namespace, these files no longer exist.
    fn check_mounts(&self, installed: &Path, mounts: &[String]) -> Result<(), CompileError> {
        if mounts.is_empty() {
            return Ok(());
        }
        let Ok(below) = installed.strip_prefix(self.plan.outside.base()) else {
            return Ok(());
        };
        let base = self.context.vcap.base();
        // Mount points are reported with links resolved.
        let real = fs::canonicalize(base).unwrap_or_else(|_| base.to_owned());
        let conflicting = mounts.iter().map(Path::new).find(|mount| {
            [base, &real].into_iter().any(|base| {
                let installed = base.join(below).to_string_lossy().into_owned();
                let installed = Path::new(&installed);
                mount.starts_with(installed) || installed.starts_with(mount)
            })
        });
        match conflicting {
            None => Ok(()),
            Some(mount) => Err(CompileError::Mounted {
                package: self.job.name.clone(),
                mount: mount.to_owned(),
            }),
        }
    }

    /// Copies the tree to which the install target links. The tree is copied, not moved, because it may belong to another package or to the
    /// system.
    fn copy_of_linked(&self, mounts: &[String]) -> Result<FoundTree, CompileError> {
        let LinkedTree { tree, target } = self.linked_tree(mounts)?;
        if self.lookup_result(self.lookup().kind(&tree))? != FileKind::Directory {
            return Err(self.wrong_target("there is a link to a file".into()));
        }
        let copy = self.context.store.new_tree(&self.job.name);
        let copy = copy.map_err(self.file_error())?;
        let not_contained = self.directories_not_to_copy(&copy)?;
        let ended = self.lookup().copy(&tree, &copy, not_contained);
        // A process that cannot be killed may still write to the copy.
        let is_abandoned = matches!(ended, Err(LookupError::NoResponse(_)));
        let ended = self.lookup_result(ended);
        let wrong: Cow<'static, str> = match ended {
            Ok(CopyEnd::Copied) => {
                let paths = &self.plan.paths;
                // Resolve links above the directory, but not a link that the script has created in place of the directory.
                let is_target = |own: &Path| {
                    let parent = fs::canonicalize(fs::parent(own));
                    target == own || parent.is_ok_and(|it| target == it.join(fs::file_name(own)))
                };
                return Ok(FoundTree {
                    path: copy,
                    agent_made_root: is_target(&paths.compile) || is_target(&paths.packages),
                    is_copy: true,
                });
            }
            Ok(CopyEnd::Contains) => {
                "there is a link to a directory that contains those of all packages".into()
            }
            Ok(CopyEnd::Kernel) => "there is a link to a file system of the kernel".into(),
            Ok(CopyEnd::Mounted(mount)) => {
                let mount = mount.display();
                format!("there is a link to a directory in which `{mount}` is mounted").into()
            }
            Err(error) => {
                if !is_abandoned {
                    remove_copy(&copy);
                }
                return Err(error);
            }
        };
        remove_copy(&copy);
        Err(self.wrong_target(wrong))
    }

    /// Resolves the install target's link as the script saw it.
    fn linked_tree(&self, mounts: &[String]) -> Result<LinkedTree, CompileError> {
        let paths = &self.plan.paths;
        let wrong = |found: &'static str| self.wrong_target(found.into());
        let link = self.context.vcap.packages().join(self.job.name.as_ref());
        let seen_paths = self.seen_paths();
        let resolved = self.lookup_result(self.lookup().seen(&link, &seen_paths))?;
        let is_dependency = resolved.is_through_dependency;
        if is_dependency && self.context.sandbox.mounts_dependencies(&self.place) {
            // The script's changes in the dependency existed only in its view, which is gone.
            return Err(CompileError::AcrossMounts {
                package: self.job.name.clone(),
                lines: Vec::new(),
            });
        }
        let Some(seen) = resolved.seen else {
            return Err(wrong("there is a link that leads nowhere"));
        };
        let target = self.outside_paths().here(&seen).0;
        let (tree, is_in_dependency) = seen_paths.here(&seen);
        if self.has_other_paths_inside() && !is_in_dependency {
            let scratch = self.scratch_directories().map(|(_, directory)| directory);
            let own = [&paths.compile, &paths.packages, &paths.link].into_iter();
            if !own
                .cloned()
                .chain(scratch)
                .any(|own| target.starts_with(own))
            {
                // The files existed only in the script's view, which is gone.
                return Err(wrong(
                    "there is a link that leads out of the package's own directories",
                ));
            }
            self.check_mounts(&target, mounts)?;
        }
        Ok(LinkedTree { tree, target })
    }

    /// Directories that a copied tree must not contain: those that contain the directories of all packages, and the directory of `copy`.
    /// Links are resolved.
    fn directories_not_to_copy(&self, copy: &Path) -> Result<Vec<PathBuf>, CompileError> {
        let paths = &self.plan.paths;
        let own = [&paths.compile, &paths.packages, &paths.link];
        std::iter::once(copy)
            .chain(own.into_iter().map(PathBuf::as_path))
            .filter_map(|path| match fs::canonicalize(fs::parent(path)) {
                // The script has removed the directory.
                Err(error) if error.is_not_found() => None,
                found => Some(found.map_err(self.file_error())),
            })
            .collect()
    }

    fn wrong_target(&self, found: Cow<'static, str>) -> CompileError {
        CompileError::InstallTarget {
            package: self.job.name.clone(),
            path: self.plan.paths.link.clone(),
            found,
        }
    }

    /// Maps paths that the script sees to the agent's paths. Includes dependencies, which are mounted only while the script runs.
    pub(super) fn seen_paths(&self) -> SeenPaths {
        let has_copies = self.context.sandbox.has_copies(&self.place);
        let planned = self.plan.dependencies.iter();
        let dependencies = planned.zip(&self.job.dependencies);
        let dependencies = dependencies.flat_map(|(planned, dependency)| {
            let installed = &planned.paths.install;
            let here = match has_copies {
                true => installed.clone(),
                // Use the current tree: the dependency may have been reinstalled since the planning.
                false => dependency.installed.tree(),
            };
            self.seen_at(installed, here, true)
        });
        let dependencies: Vec<SeenPath> = dependencies.collect();
        let others = self.outside_paths().0;
        let image = self.context.sandbox.image().map(|root| SeenPath {
            seen: PathBuf::from("/"),
            here: root.to_owned(),
            is_dependency: false,
        });
        SeenPaths([dependencies, others, Vec::from_iter(image)].concat())
    }

    /// As [`seen_paths`](Self::seen_paths), without dependencies and without an image.
    fn outside_paths(&self) -> SeenPaths {
        let outside = self.plan.outside.base();
        let scratch = self.scratch_directories();
        let scratch = scratch.flat_map(|(at, here)| self.seen_at(&at, here, false));
        let base = self.seen_at(outside, outside.to_owned(), false);
        SeenPaths(scratch.chain(base).collect())
    }

    /// Maps the script's paths of the directory `at` to the agent's path `here`. The script may use the path of the base directory with
    /// links or with links resolved.
    fn seen_at(&self, at: &Path, here: PathBuf, is_dependency: bool) -> Vec<SeenPath> {
        let base = self.context.vcap.base();
        let real = fs::canonicalize(base).unwrap_or_else(|_| base.to_owned());
        let Ok(below) = at.strip_prefix(self.plan.outside.base()) else {
            return Vec::new();
        };
        let seen = |base: &Path| SeenPath {
            seen: base.join(below),
            here: here.clone(),
            is_dependency,
        };
        vec![seen(base), seen(&real)]
    }

    /// For each shared scratch directory that is mounted, its path in the package's place, and the path of the directory itself.
    fn scratch_directories(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        let names = self
            .scratch
            .iter()
            .filter(|_| self.has_other_paths_inside());
        names.filter_map(|name| {
            let at = self.plan.outside.scratch(name)?;
            Some((at, self.context.sandbox.scratch_directory(name)?))
        })
    }
}
