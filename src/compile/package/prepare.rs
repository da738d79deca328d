//! The steps before the script: unpacks the source, installs the dependencies, and confines the script with the sandbox's rules or its own
//! view of the file system.

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

/// A package whose source is unpacked and whose dependencies are installed.
pub(super) struct Prepared {
    /// The compression of the source.
    pub(super) compression: Compression,
    /// The directories in `BASE/data` that the script names, if `BASE/data` is shared with other packages.
    pub(super) directories: BTreeSet<Name>,
    /// The planned script, confined by the sandbox.
    pub(super) confined: Script,
}

impl Work {
    /// Unpacks the source and installs the dependencies. This is one step, because on a busy machine each change of threads takes time.
    pub(super) fn prepare(&self) -> Result<Prepared, CompileError> {
        // Set the rules before other packages create directories that this script must not use.
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
            directories: self.directories_named_by_script(),
            confined,
        })
    }

    fn unpack_source(&self) -> Result<Compression, CompileError> {
        let compile = &self.plan.paths.compile;
        self.make_directory(compile).map_err(self.files())?;
        if let Some(temporary) = &self.plan.temporary {
            fs::create_dir_all(temporary).map_err(self.files())?;
        }
        if let Some(directory) = &self.job.kept {
            self.restore_sources(directory).map_err(self.files())?;
            return Ok(Compression::None);
        }
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
            KnownBlobError::File(error) => self.files()(error),
            KnownBlobError::Changed(source) => CompileError::BlobChanged {
                package: self.job.name.clone(),
                path: self.job.source.clone(),
                source,
            },
        }
    }

    /// Installs the dependencies and creates the install directory with its link.
    fn install(&self) -> Result<(), CompileError> {
        let files = self.files();
        let plan = &self.plan;
        for (wanted, dependency) in self.job.dependencies.iter().zip(&plan.dependencies) {
            if self.place.has(&dependency.name) {
                continue;
            }
            self.make_directory(&dependency.paths.packages)
                .map_err(&files)?;
            self.provide(wanted, &dependency.paths.install)?;
            self.link(&dependency.link_target, &dependency.paths.link)?;
        }
        let provided = self.context.sandbox.provided(&self.place);
        provided.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })?;
        self.make_directory(&plan.paths.packages).map_err(&files)?;
        self.make_directory(&plan.paths.install).map_err(&files)?;
        self.restore_installed().map_err(&files)?;
        self.link(&plan.link_target, &plan.paths.link)
    }

    /// Makes a dependency available. A copied tree is checked after the copy, so that a change during the copy is detected; a mounted
    /// tree is checked right before the script starts.
    fn provide(&self, dependency: &Dependency, install: &Path) -> Result<(), CompileError> {
        let (sandbox, place) = (&self.context.sandbox, &self.place);
        let mut tree = dependency.installed.tree();
        loop {
            let stop = || self.cancel.is_cancelled();
            let provided = sandbox.provide(place, &tree, install, &stop);
            if sandbox.has_copies(place) {
                let unchanged = self.unchanged_tree(dependency)?.tree;
                if unchanged != tree {
                    fs::remove_tree(install).map_err(self.files())?;
                    tree = unchanged;
                    continue;
                }
            }
            return provided.map_err(|source| CompileError::Sandbox {
                package: self.job.name.clone(),
                source,
            });
        }
    }

    /// The unchanged tree of a dependency, reinstalled if necessary.
    fn unchanged_tree(&self, dependency: &Dependency) -> Result<SealedTree, CompileError> {
        check::unchanged_tree(&self.context, &self.job, dependency, &self.cancel)
    }

    /// Confines the planned script. `trees` has the trees of its dependencies, in the plan's order.
    fn confined_script<'a>(&self, trees: impl Iterator<Item = &'a Path>) -> Script {
        let mut script = self.plan.script.clone();
        let paths = self.plan.dependencies.iter().map(|it| &it.paths);
        let dependencies: Vec<(&Path, &PackagePaths)> = trees.zip(paths).collect();
        let sandbox = &self.context.sandbox;
        sandbox.confine(&self.place, &mut script, &self.plan.paths, &dependencies);
        script
    }

    /// Checks the mounted dependencies of the script, and notes their trees for the check after the script's end. Returns the confined
    /// script, in which reinstalled trees replace the planned ones.
    pub(super) fn with_unchanged_trees(&self, confined: &Script) -> Result<Script, CompileError> {
        if self.context.sandbox.has_copies(&self.place) {
            return Ok(confined.clone());
        }
        let dependencies = self.job.dependencies.iter();
        let used: Vec<SealedTree> = dependencies
            .map(|dependency| self.unchanged_tree(dependency))
            .collect::<Result<_, _>>()?;
        let planned = self.plan.dependencies.iter().map(|it| &it.sealed);
        let script = match planned.eq(used.iter().map(|known| &known.tree)) {
            true => confined.clone(),
            false => self.confined_script(used.iter().map(|known| known.tree.as_path())),
        };
        *self.used() = used;
        Ok(script)
    }

    /// Checks that the dependencies were not changed while the script ran. Changed copies are only reported: under Landlock, scripts can
    /// change their modes, owners and times, and most such changes are harmless.
    pub(super) fn check_dependencies_in_use(&self) -> Result<(), CompileError> {
        check::unchanged_in_use(&self.context, &self.job, &self.used())?;
        let copies = self.context.sandbox.changed_copies(&self.place);
        check::report_copies_changed_in_use(&self.context, &self.job, &copies);
        Ok(())
    }

    fn link(&self, target: &Path, link: &Path) -> Result<(), CompileError> {
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent).map_err(self.files())?;
        }
        fs::symlink(target, link).map_err(self.files())
    }

    /// Creates a directory as the Go agent does: 0755, root:vcap, independent of the umask.
    fn make_directory(&self, path: &Path) -> fs::Result<()> {
        fs::create_dir_all(path)?;
        fs::set_mode(path, 0o755)?;
        fs::set_owner_if_allowed(path, 0, vcap_group())
    }

    /// The directories in `BASE/data` that the script names, if `BASE/data` is shared with other packages.
    fn directories_named_by_script(&self) -> BTreeSet<Name> {
        if !self.context.sandbox.is_shared() {
            return BTreeSet::new();
        }
        scratch::named_in_source(&self.scratch, &self.plan.paths.compile, &self.context.vcap)
    }

    /// Waits until no other script uses these directories in `BASE/data`, and claims them for this one.
    pub(super) async fn claim(&self, named: &BTreeSet<Name>) -> Result<(), CompileError> {
        tokio::select! {
            // Cancel-safe: directories that were claimed nevertheless are removed with the package.
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
