//! Everything before the script: the source is unpacked and the dependencies are installed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::owners::vcap_group;
use super::work::{Work, stopped};
use crate::archive::{self, Compression};
use crate::compile::check;
use crate::compile::error::CompileError;
use crate::compile::event::Phase;
use crate::compile::installed::{BlobError, KnownBlob};
use crate::compile::job::Dependency;
use crate::compile::scratch;
use crate::compile::turns::Turn;
use crate::config::PackagePaths;
use crate::fs;
use crate::release::Name;
use crate::runtime::Cancellable;
use crate::sandbox::Script;

impl Work {
    pub(super) fn unpack_source(&self) -> Result<Compression, CompileError> {
        let compile = &self.plan.paths.compile;
        self.make_directory(compile).map_err(self.files())?;
        if let Some(temporary) = &self.plan.temporary {
            fs::create_dir_all(temporary).map_err(self.files())?;
        }
        let blob = KnownBlob::new(&self.job.source, &self.job.source_digests);
        let opened = match blob {
            None => fs::open(&self.job.source).map_err(BlobError::File),
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

    fn blob_failed(&self, error: BlobError) -> CompileError {
        match error {
            BlobError::File(_) if self.cancel.is_cancelled() => stopped(&self.job),
            BlobError::File(error) => self.files()(error),
            BlobError::Changed(source) => CompileError::BlobChanged {
                package: self.job.name.clone(),
                path: self.job.source.clone(),
                source,
            },
        }
    }

    /// Makes the install directory with its link, and puts the dependencies in place.
    pub(super) fn install(&self) -> Result<(), CompileError> {
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
        self.link(&plan.link_target, &plan.paths.link)
    }

    /// Puts a dependency in place. Its tree is checked after a copy has been made of it, so that a change meanwhile is seen, too;
    /// one that is mounted is checked right before the script starts.
    fn provide(&self, dependency: &Dependency, install: &Path) -> Result<(), CompileError> {
        let (sandbox, place) = (&self.context.sandbox, &self.place);
        let mut tree = dependency.installed.tree();
        loop {
            let stop = || self.cancel.is_cancelled();
            let provided = sandbox.provide(place, &tree, install, &stop);
            if sandbox.has_copies(place) {
                let genuine = self.genuine(dependency)?;
                if genuine != tree {
                    fs::remove_tree(install).map_err(self.files())?;
                    tree = genuine;
                    continue;
                }
            }
            return provided.map_err(|source| CompileError::Sandbox {
                package: self.job.name.clone(),
                source,
            });
        }
    }

    /// The tree of a dependency as it was sealed.
    fn genuine(&self, dependency: &Dependency) -> Result<PathBuf, CompileError> {
        check::genuine(&self.context, &self.job, dependency, &self.cancel)
    }

    /// The script with the trees of its dependencies as they were sealed, where it has them mounted.
    pub(super) fn checked_script(&self) -> Result<Script, CompileError> {
        let mut script = self.plan.script.clone();
        let sandbox = &self.context.sandbox;
        if sandbox.has_copies(&self.place) {
            return Ok(script);
        }
        let dependencies = self.job.dependencies.iter();
        let trees: Vec<PathBuf> = dependencies
            .map(|dependency| self.genuine(dependency))
            .collect::<Result<_, _>>()?;
        let planned = self.plan.dependencies.iter();
        if planned.clone().map(|it| &it.sealed).eq(&trees) {
            return Ok(script);
        }
        let mounted: Vec<(&Path, &PackagePaths)> = trees
            .iter()
            .map(PathBuf::as_path)
            .zip(planned.map(|it| &it.paths))
            .collect();
        sandbox.confine(&self.place, &mut script, &self.plan.paths, &mounted);
        Ok(script)
    }

    pub(super) fn link(&self, target: &Path, link: &Path) -> Result<(), CompileError> {
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent).map_err(self.files())?;
        }
        fs::symlink(target, link).map_err(self.files())
    }

    /// A directory as the Go agent makes them: 0755, root:vcap, whatever the umask.
    fn make_directory(&self, path: &Path) -> fs::Result<()> {
        fs::create_dir_all(path)?;
        fs::set_mode(path, 0o755)?;
        fs::set_owner_if_allowed(path, 0, vcap_group())
    }

    /// The directories in the data directory that the script names, where it would share them with others otherwise.
    pub(super) fn named(&self) -> BTreeSet<Name> {
        if !self.context.sandbox.is_shared() {
            return BTreeSet::new();
        }
        scratch::named(&self.scratch, &self.plan.paths.compile, &self.context.vcap)
    }

    /// Takes directories in the data directory for the script, as soon as no other has them to itself.
    pub(super) async fn claim(&self, named: &BTreeSet<Name>) -> Result<(), CompileError> {
        tokio::select! {
            // Cancel-safe: nothing is taken before it is ready.
            claimed = self.context.sandbox.claim(&self.place, named) => {
                claimed.map_err(|source| CompileError::Sandbox {
                    package: self.job.name.clone(),
                    source,
                })
            }
            () = self.cancel.cancelled() => Err(stopped(&self.job)),
        }
    }

    /// Waits until no more scripts run than may.
    pub(super) async fn turn(&self) -> Result<Turn, CompileError> {
        if let Some(turn) = self.turns.try_take() {
            return Ok(turn);
        }
        self.enter(Phase::Ready);
        tokio::select! {
            Some(turn) = self.turns.take() => Ok(turn),
            () = self.cancel.cancelled() => Err(stopped(&self.job)),
        }
    }
}
