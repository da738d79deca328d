//! The packages of one release, one after another.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::assemble::PackageBlob;
use super::error::OfflineError;
use super::inspect::{Listed, Member, members, order};
use super::open::{Blob, Opened, Role};
use super::progress::Progress;
use crate::compile::{self, CompileError, Compiled, Context, Dependency, Installed, Job};
use crate::diag::Elapsed;
use crate::fs;
use crate::release::{
    Algorithm, CompiledPackage, Manifest, MultiDigest, Name, Slug, Version, graph,
};
use crate::runtime;
use crate::sandbox::ScriptEnd;

/// How often the progress is drawn.
const TICK: Duration = Duration::from_millis(120);

/// A release whose packages have not all been compiled.
#[derive(Debug, thiserror::Error)]
#[error("failed to compile package {}/{} of release {}/{}", package.0, package.1, release.0, release.1)]
pub struct ReleaseFailure {
    /// Name and version of the release.
    pub release: (Name, Version),
    /// Name and version of the package that failed.
    pub package: (Name, Version),
    /// Why.
    pub source: CompileError,
    /// Packages that have been compiled.
    pub compiled: Vec<Name>,
    /// Packages that need the one that failed.
    pub dependents: Vec<Name>,
    /// Packages that were not begun for no fault of theirs.
    pub not_begun: Vec<Name>,
}

/// What a compiled release consists of.
#[derive(Debug)]
pub(super) struct CompiledRelease {
    pub manifest: Manifest,
    /// In the manifest's order.
    pub packages: Vec<PackageBlob>,
}

/// Where the parts of one release go.
#[derive(Debug)]
pub(super) struct Places {
    /// Compiled blobs.
    pub blobs: PathBuf,
    /// Logs of its packaging scripts.
    pub logs: PathBuf,
}

/// Compiles the packages of a release that has been found to be in order.
pub(super) async fn compile_release(
    context: &Arc<Context>,
    opened: &Opened,
    stemcell: &Slug,
    places: &Places,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<CompiledRelease, OfflineError> {
    let manifest = &opened.manifest;
    let members = members(manifest);
    // Found to be in order before, so there is no problem to report here.
    let order = order(&members).unwrap_or_default();
    progress.expect(manifest.packages.len());
    progress.line("Starting packages compilation");
    let start = Instant::now();
    let mut run = Run {
        context,
        opened,
        places,
        members: &members,
        order: &order,
        progress,
        cancel,
        installed: members.iter().map(|_| None).collect(),
        finished: Vec::new(),
    };
    let mut packages = Vec::new();
    let mut entries = Vec::new();
    for index in order.iter().copied() {
        let (entry, blob) = match members[index].listed {
            Listed::Source(listed) => {
                let compiled = run.compile(index, listed).await?;
                compiled_entry(manifest, listed, &compiled, stemcell)
            }
            Listed::Compiled(listed) => run.keep(index, listed).await?,
        };
        packages.push(PackageBlob {
            name: members[index].name.clone(),
            blob,
        });
        entries.push(entry);
        run.finish(index)?;
    }
    progress.line(&format!(
        "Finished packages compilation after {}",
        Elapsed(start.elapsed())
    ));
    Ok(CompiledRelease {
        manifest: Manifest {
            packages: Vec::new(),
            compiled_packages: (!entries.is_empty()).then_some(entries),
            ..manifest.clone()
        },
        packages,
    })
}

/// What the manifest will say of a compiled package, and its blob.
fn compiled_entry(
    manifest: &Manifest,
    listed: usize,
    compiled: &Compiled,
    stemcell: &Slug,
) -> (CompiledPackage, Blob) {
    let digests = compiled.digests.clone();
    let package = &manifest.packages[listed];
    let mut package = package.clone();
    // A bare SHA-1 is what every Director and agent reads.
    if let Some(digest) = MultiDigest::of(&digests, &[Algorithm::Sha1]) {
        package.digest = digest;
    }
    let entry = CompiledPackage {
        name: package.name,
        version: package.version,
        fingerprint: package.fingerprint,
        digest: package.digest,
        dependencies: package.dependencies,
        stemcell: stemcell.clone(),
    };
    let blob = Blob {
        file: compiled.blob.clone(),
        size: compiled.size,
        digests,
    };
    (entry, blob)
}

/// What a person should hear of a script that succeeded.
fn warnings(package: &Name, end: &ScriptEnd) -> Vec<String> {
    let count = |processes| match processes {
        1 => "a process".to_owned(),
        more => format!("{more} processes"),
    };
    let mut warnings = Vec::new();
    if end.left_behind > 0 {
        warnings.push(format!(
            "Warning: the packaging script of {package} left {} running, to be ended with it",
            count(end.left_behind)
        ));
    }
    if end.not_ended > 0 {
        warnings.push(format!(
            "Warning: {} of it could not be ended: another user has it by now",
            count(end.not_ended)
        ));
    }
    if let Some(failure) = &end.output.log_failure {
        warnings.push(format!(
            "Warning: the log of the packaging script of {package} is not complete: {failure}"
        ));
    }
    warnings
}

/// The packages of a release on their way.
struct Run<'a> {
    context: &'a Arc<Context>,
    opened: &'a Opened,
    places: &'a Places,
    members: &'a [Member],
    order: &'a [usize],
    progress: &'a Progress,
    cancel: &'a CancellationToken,
    /// What is in the store, for packages that others need.
    installed: Vec<Option<(Version, Installed)>>,
    /// Indices of the packages that are done.
    finished: Vec<usize>,
}

impl Run<'_> {
    async fn compile(&mut self, index: usize, listed: usize) -> Result<Compiled, OfflineError> {
        let package = &self.opened.manifest.packages[listed];
        let source = self.blob(&Role::Package(package.name.to_string()));
        let job = Job {
            name: package.name.clone(),
            version: package.version.clone(),
            source: source.map_or_else(PathBuf::new, |blob| blob.file.clone()),
            dependencies: self.dependencies(index),
            log: self.places.logs.join(format!("{}.log", package.name)),
            blob: self.places.blobs.join(format!("{}.tgz", package.name)),
            is_dependency: self.is_needed(index),
            stdout_log: None,
            algorithms: vec![Algorithm::Sha1, Algorithm::Sha256],
        };
        self.progress.start(&package.name, &package.version);
        let result = self.watch(job).await;
        self.progress.end(&package.name);
        let compiled = match result {
            Ok(compiled) => compiled,
            Err(CompileError::Stopped { .. }) => return Err(OfflineError::Stopped),
            Err(source) => {
                let package = (package.name.clone(), package.version.clone());
                return Err(self.failure(index, package, source));
            }
        };
        self.progress.line(&format!(
            "Finished compiling release {}/{} BlobstoreID={} after {}",
            package.name,
            package.version,
            compiled.digests.sha1().unwrap_or_default(),
            Elapsed(compiled.elapsed)
        ));
        if let Some(end) = &compiled.script {
            for warning in warnings(&package.name, end) {
                self.progress.line(&warning);
            }
        }
        if let Some(blob) = source {
            // Nobody will read it again, and a work directory may be small.
            fs::remove_file_if_there(&blob.file)?;
        }
        self.installed[index] = compiled
            .installed
            .clone()
            .map(|installed| (package.version.clone(), installed));
        Ok(compiled)
    }

    /// Compiles while the progress is drawn.
    async fn watch(&self, job: Job) -> Result<Compiled, CompileError> {
        let compiling = compile::compile(self.context, job, self.cancel);
        tokio::pin!(compiling);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                // Cancel-safe: the same future is polled in the next round.
                result = &mut compiling => return result,
                // Cancel-safe per docs on `tick`.
                _ = ticks.tick() => self.progress.tick(),
            }
        }
    }

    /// Takes a package that is compiled already, for the output and for those that need it.
    async fn keep(
        &mut self,
        index: usize,
        listed: usize,
    ) -> Result<(CompiledPackage, Blob), OfflineError> {
        let compiled = &self.opened.manifest.compiled_packages;
        let package = compiled.iter().flatten().nth(listed).cloned();
        let role = Role::CompiledPackage(self.members[index].name.to_string());
        let (Some(package), Some(blob)) = (package, self.blob(&role).cloned()) else {
            // Found to be there when the release was inspected.
            return Err(OfflineError::Stopped);
        };
        if self.is_needed(index) {
            let context = Arc::clone(self.context);
            let name = package.name.clone();
            let file = blob.file.clone();
            let cancel = self.cancel.clone();
            let unpacked = runtime::spawn_blocking("install", move || {
                context.store.unpack(&name, &file, &cancel)
            })
            .await?;
            if self.cancel.is_cancelled() {
                return Err(OfflineError::Stopped);
            }
            match unpacked {
                Ok(installed) => {
                    self.installed[index] = Some((package.version.clone(), installed));
                }
                Err(source) => {
                    let named = (package.name.clone(), package.version.clone());
                    let source = CompileError::Source {
                        package: package.name,
                        source,
                    };
                    return Err(self.failure(index, named, source));
                }
            }
        }
        Ok((package, blob))
    }

    fn blob(&self, role: &Role) -> Option<&Blob> {
        self.opened
            .carried
            .iter()
            .find(|carried| carried.role == *role)
            .and_then(|carried| carried.blob.as_ref())
    }

    fn dependencies(&self, index: usize) -> Vec<Dependency> {
        let mut found: Vec<Dependency> = Vec::new();
        for name in &self.members[index].dependencies {
            let other = self.position(name);
            if let Some((version, installed)) =
                other.and_then(|other| self.installed[other].clone())
                && found.iter().all(|dependency| dependency.name != *name)
            {
                found.push(Dependency {
                    name: name.clone(),
                    version,
                    installed,
                });
            }
        }
        found
    }

    fn position(&self, name: &Name) -> Option<usize> {
        self.members.iter().position(|member| member.name == *name)
    }

    /// Whether a package that is still to be compiled needs this one.
    fn is_needed(&self, index: usize) -> bool {
        let name = &self.members[index].name;
        self.members.iter().enumerate().any(|(other, member)| {
            matches!(member.listed, Listed::Source(_))
                && !self.finished.contains(&other)
                && member.dependencies.contains(name)
        })
    }

    /// Notes that a package is done, and removes what nobody needs any more.
    fn finish(&mut self, index: usize) -> Result<(), OfflineError> {
        self.finished.push(index);
        for other in 0..self.members.len() {
            if !self.is_needed(other)
                && self.finished.contains(&other)
                && let Some((_, installed)) = self.installed[other].take()
            {
                self.context.store.remove(&installed)?;
            }
        }
        Ok(())
    }

    fn failure(
        &self,
        index: usize,
        package: (Name, Version),
        source: CompileError,
    ) -> OfflineError {
        let entries: Vec<graph::Entry<'_>> = self
            .members
            .iter()
            .map(|member| (&member.name, member.dependencies.as_slice()))
            .collect();
        let dependents = graph::dependents(&entries, index);
        let names = |indices: &[usize]| -> Vec<Name> {
            indices
                .iter()
                .map(|index| self.members[*index].name.clone())
                .collect()
        };
        let not_begun: Vec<usize> = self
            .order
            .iter()
            .copied()
            .filter(|other| {
                *other != index && !self.finished.contains(other) && !dependents.contains(other)
            })
            .collect();
        let manifest = &self.opened.manifest;
        OfflineError::Release(Box::new(ReleaseFailure {
            release: (manifest.name.clone(), manifest.version.clone()),
            package,
            source,
            compiled: names(&self.finished),
            dependents: names(&dependents),
            not_begun: names(&not_begun),
        }))
    }
}
