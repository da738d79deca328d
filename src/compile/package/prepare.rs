//! The steps before the script: unpacks the source, installs the dependencies, and *confines* the script. A confined script has Landlock
//! rules, or its own view of the file system.

use std::collections::BTreeSet;
use std::path::Path;

use super::owners::vcap_group;
use super::work::{Work, stopped};
use crate::archive::{self, Compression};
use crate::compile::check;
use crate::compile::error::CompileError;
use crate::compile::event::Phase;
use crate::compile::installed::{KnownBlob, KnownBlobError, SealedTree};
use crate::compile::job::Dependency;
use crate::compile::scratch;
use crate::compile::step_log::Step;
use crate::compile::turns::ScriptTurn;
use crate::config::PackagePaths;
use crate::fs;
use crate::release::Name;
use crate::runtime::Cancellable;
use crate::sandbox::Script;

/// With less free space, in bytes, a package waits while the files of earlier packages are being removed.
const FOR_PACKAGE: u64 = 1 << 30;

/// A package whose source is unpacked and whose dependencies are installed.
pub(super) struct Prepared {
    /// The compression of the source.
    pub(super) compression: Compression,
    /// The directories in `BASE/data` that the source mentions, if packages share `BASE/data`.
    pub(super) directories: BTreeSet<Name>,
    /// The planned script, confined by the sandbox.
    pub(super) confined: Script,
}

impl Work {
    /// Unpacks the source and installs the dependencies. This is one blocking step, because on a busy machine each change of threads takes
    /// time.
    pub(super) fn prepare(&self) -> Result<Prepared, CompileError> {
        // Determine the rules now: they allow existing directories that belong to no package, and must not allow directories that are
        // created for other packages later.
        let planned = self.plan.dependencies.iter();
        let confined = self.confined_script(planned.map(|it| it.sealed.as_path()));
        let step = Step::of(&self.job.name);
        let compression = self.unpack_source()?;
        step.done("unpacked the source");
        if self.cancel.is_cancelled() {
            return Err(stopped(&self.job));
        }
        self.enter_phase(Phase::Installing);
        let step = Step::of(&self.job.name);
        self.install()?;
        step.done("provided the dependencies");
        Ok(Prepared {
            compression,
            directories: self.directories_named_in_source(),
            confined,
        })
    }

    fn unpack_source(&self) -> Result<Compression, CompileError> {
        let compile = &self.plan.paths.compile;
        self.make_directory(compile).map_err(self.file_error())?;
        if let Some(temporary) = &self.plan.temporary {
            fs::create_dir_all(temporary).map_err(self.file_error())?;
        }
        if let Some(directory) = &self.job.kept {
            self.restore_sources(directory).map_err(self.file_error())?;
            return Ok(Compression::None);
        }
        let stop = || self.cancel.is_cancelled();
        self.context.sandbox.wait_for_space(FOR_PACKAGE, &stop);
        let blob = KnownBlob::new(&self.job.source, &self.job.source_digests);
        let opened = match blob {
            None => fs::open_file(&self.job.source).map_err(KnownBlobError::File),
            Some(blob) => blob.open(&self.cancel),
        };
        let source = opened.map_err(|error| self.blob_failed(error))?;
        let source = Cancellable::new(source, &self.cancel);
        let (_, compression) =
            archive::unpack_whole(source, compile).map_err(|source| CompileError::Source {
                package: self.job.name.clone(),
                source,
            })?;
        Ok(compression)
    }

    fn blob_failed(&self, error: KnownBlobError) -> CompileError {
        match error {
            KnownBlobError::File(_) if self.cancel.is_cancelled() => stopped(&self.job),
            KnownBlobError::File(error) => self.file_error()(error),
            KnownBlobError::Changed(source) => CompileError::BlobChanged {
                package: self.job.name.clone(),
                path: self.job.source.clone(),
                source,
            },
        }
    }

    /// Installs the dependencies and creates the install directory with its link.
    fn install(&self) -> Result<(), CompileError> {
        let file_error = self.file_error();
        let plan = &self.plan;
        for (dependency, planned) in self.job.dependencies.iter().zip(&plan.dependencies) {
            if self.place.has(&planned.name) {
                continue;
            }
            self.make_directory(&planned.paths.packages)
                .map_err(&file_error)?;
            self.provide(dependency, &planned.paths.install)?;
            self.link(&planned.link_target, &planned.paths.link)?;
        }
        let provided = self.context.sandbox.record_dependencies(&self.place);
        provided.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })?;
        self.make_directory(&plan.paths.packages)
            .map_err(&file_error)?;
        self.make_directory(&plan.paths.install)
            .map_err(&file_error)?;
        self.restore_installed().map_err(&file_error)?;
        self.link(&plan.link_target, &plan.paths.link)
    }

    /// Copies or mounts a dependency to its install directory. A copied tree is checked after the copy, so that a change during the copy is
    /// detected. A mounted tree is checked right before the script starts.
    fn provide(&self, dependency: &Dependency, install: &Path) -> Result<(), CompileError> {
        let (sandbox, place) = (&self.context.sandbox, &self.place);
        let mut tree = dependency.installed.tree();
        loop {
            let stop = || self.cancel.is_cancelled();
            let provided = sandbox.provide(place, &tree, install, &stop);
            if sandbox.has_copies(place) {
                let current = self.current_tree(dependency)?.tree;
                if current != tree {
                    fs::remove_tree(install).map_err(self.file_error())?;
                    tree = current;
                    continue;
                }
            }
            return provided.map_err(|source| CompileError::Sandbox {
                package: self.job.name.clone(),
                source,
            });
        }
    }

    fn current_tree(&self, dependency: &Dependency) -> Result<SealedTree, CompileError> {
        check::unchanged_tree(&self.context, &self.job, dependency, &self.cancel)
    }

    /// Confines the planned script. `trees` has the trees of the dependencies, in the order of the plan.
    fn confined_script<'a>(&self, trees: impl Iterator<Item = &'a Path>) -> Script {
        let mut script = self.plan.script.clone();
        let paths = self.plan.dependencies.iter().map(|it| &it.paths);
        let dependencies: Vec<(&Path, &PackagePaths)> = trees.zip(paths).collect();
        let sandbox = &self.context.sandbox;
        sandbox.confine(&self.place, &mut script, &self.plan.paths, &dependencies);
        script
    }

    /// Checks the mounted dependencies of the script, and stores their trees for the check after the end of the script. Returns the confined
    /// script. If a dependency was reinstalled, the script gets the new tree.
    pub(super) fn with_unchanged_trees(&self, confined: &Script) -> Result<Script, CompileError> {
        if self.context.sandbox.has_copies(&self.place) {
            return Ok(confined.clone());
        }
        let dependencies = self.job.dependencies.iter();
        let mounted: Vec<SealedTree> = dependencies
            .map(|dependency| self.current_tree(dependency))
            .collect::<Result<_, _>>()?;
        let planned = self.plan.dependencies.iter().map(|it| &it.sealed);
        let script = match planned.eq(mounted.iter().map(|sealed| &sealed.tree)) {
            true => confined.clone(),
            false => self.confined_script(mounted.iter().map(|sealed| sealed.tree.as_path())),
        };
        *self.mounted() = mounted;
        Ok(script)
    }

    /// Checks that the dependencies were not changed while the script ran. Changed copies are only reported: under Landlock, scripts can
    /// change the modes, owners and times of these files, and most such changes are harmless.
    pub(super) fn check_dependencies_in_use(&self) -> Result<(), CompileError> {
        check::check_trees_in_use(&self.context, &self.job, &self.mounted())?;
        let copies = self.context.sandbox.changed_copies(&self.place);
        check::report_copies_changed_in_use(&self.context, &self.job, &copies);
        Ok(())
    }

    fn link(&self, target: &Path, link: &Path) -> Result<(), CompileError> {
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent).map_err(self.file_error())?;
        }
        fs::symlink(target, link).map_err(self.file_error())
    }

    /// Creates a directory as the Go agent does: 0755, root:vcap, independent of the umask.
    fn make_directory(&self, path: &Path) -> fs::Result<()> {
        fs::create_dir_all(path)?;
        fs::set_mode(path, 0o755)?;
        fs::set_owner_if_allowed(path, 0, vcap_group())
    }

    /// The directories in `BASE/data` that the source mentions, if packages share `BASE/data`.
    fn directories_named_in_source(&self) -> BTreeSet<Name> {
        if !self.context.sandbox.is_shared() {
            return BTreeSet::new();
        }
        scratch::named_in_source(&self.scratch, &self.plan.paths.compile, &self.context.vcap)
    }

    /// Waits until no other script uses these directories in `BASE/data`, and claims them for this script.
    pub(super) async fn claim(&self, named: &BTreeSet<Name>) -> Result<(), CompileError> {
        tokio::select! {
            // Cancel-safe: if some directories are already claimed, they are removed with the package.
            claimed = self.context.sandbox.claim(&self.place, named) => {
                claimed.map_err(|source| CompileError::Sandbox {
                    package: self.job.name.clone(),
                    source,
                })
            }
            () = self.cancel.cancelled() => Err(stopped(&self.job)),
        }
    }

    /// Waits for the turn of the script.
    pub(super) async fn wait_for_turn(&self) -> Result<ScriptTurn, CompileError> {
        if let Some(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        self.enter_phase(Phase::Ready);
        let step = Step::of(&self.job.name);
        tokio::select! {
            Some(turn) = self.turns.acquire() => {
                step.done("waited for the turn of the script");
                Ok(turn)
            }
            () = self.cancel.cancelled() => Err(stopped(&self.job)),
        }
    }
}
