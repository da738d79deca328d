//! The inputs of a compile request: fetches blobs, and installs dependencies where there is room for them.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::CompileRun;
use super::failure::Reason;
use super::on_disk::on_disk;
use super::request::{BlobSource, RequestedDependency};
use super::state::CompilerState;
use super::upload::reporter;
use crate::archive;
use crate::blobs::Persistence;
use crate::compile::{Dependency, Installed};
use crate::fs;
use crate::release::{MultiDigest, Name};
use crate::runtime;

/// The free space, in bytes, that should remain after a blob is extracted. If less would remain, [`make_room`](CompileRun::make_room)
/// removes packages that are kept from earlier requests.
const RESERVE: u64 = 512 << 20;

/// The free space, in bytes, that is assumed to be enough for any script; how much a script writes is unknown. Before a blob is extracted,
/// [`make_room`](CompileRun::make_room) removes kept packages until this much is free, or half of the disk if that is less.
const AMPLE: u64 = 16 << 30;

impl CompileRun<'_> {
    /// Installs the dependencies of the request.
    pub(super) async fn dependencies(
        &self,
        state: &mut CompilerState,
    ) -> Result<Vec<Dependency>, Reason> {
        let mut dependencies = Vec::new();
        for dependency in &self.request.dependencies {
            let installed =
                self.install(state, dependency)
                    .await
                    .map_err(|source| Reason::Dependency {
                        dependency: dependency.name.clone(),
                        source: Box::new(source),
                    })?;
            dependencies.push(Dependency {
                name: dependency.name.clone(),
                version: dependency.version.clone(),
                installed,
            });
        }
        Ok(dependencies)
    }

    /// Returns an installed dependency, kept from an earlier request or newly extracted from its blob.
    async fn install(
        &self,
        state: &mut CompilerState,
        dependency: &RequestedDependency,
    ) -> Result<Installed, Reason> {
        if let Some(installed) = state.cache.get(&dependency.name, &dependency.digest) {
            if is_unchanged(state, &dependency.name, &installed).await? {
                return Ok(installed);
            }
            state.discard(&dependency.name, &dependency.digest).await?;
        }
        let RequestedDependency {
            name,
            version,
            digest,
            ..
        } = dependency;
        let blob = state.fetched(name);
        self.fetch(name, dependency.blob.as_ref(), digest, &blob)
            .await?;
        self.make_room(state, name, &blob).await?;
        let (context, own) = (Arc::clone(state.context()), name.clone());
        let (from, cancel) = (blob.clone(), self.task.cancel.clone());
        let unpacking = runtime::spawn_blocking("install", move || {
            context.store.unpack(&own, &from, &cancel)
        });
        let unpacked = unpacking.await.map_err(Reason::Task)?;
        let installed = unpacked.map_err(|source| Reason::Unpack {
            package: name.clone(),
            source,
        })?;
        state.cache.insert(name, version, digest, installed.clone());
        on_disk("blob", move || fs::remove_file(&blob)).await?;
        Ok(installed)
    }

    /// Fetches the blob of a package, and verifies it.
    pub(super) async fn fetch(
        &self,
        package: &Name,
        origin: Option<&BlobSource>,
        digest: &MultiDigest,
        to: &Path,
    ) -> Result<(), Reason> {
        let report = reporter(self.phases);
        let (persistence, cancel) = (Persistence::Minutes(&report), &self.task.cancel);
        let fetched = match origin {
            None => {
                return Err(Reason::NoBlob {
                    package: package.clone(),
                });
            }
            Some(BlobSource::Blobstore(id)) => {
                self.with_current_blobs(|blobs| {
                    async move { blobs.get(id, digest, to, persistence, cancel).await }.boxed()
                })
                .await
            }
            Some(BlobSource::Signed(url, headers)) => {
                self.with_current_blobs(|blobs| {
                    async move {
                        let get = blobs.get_signed(url, headers, digest, to, persistence, cancel);
                        get.await
                    }
                    .boxed()
                })
                .await
            }
        };
        fetched.map_err(|source| Reason::Fetch {
            package: package.clone(),
            source: Box::new(source),
        })
    }

    /// Makes room to extract a blob: removes packages of earlier requests and, if that is not enough, the contents of scratch directories.
    pub(super) async fn make_room(
        &self,
        state: &mut CompilerState,
        package: &Name,
        blob: &Path,
    ) -> Result<(), Reason> {
        let own = blob.to_owned();
        let needed = on_disk("measure", move || archive::least_unpacked(&own)).await?;
        let mut has_waited = false;
        let space = loop {
            let own = blob.to_owned();
            let space = on_disk("measure", move || fs::space(&own)).await?;
            if is_space_ample(space, needed) {
                break space;
            }
            if !has_waited {
                // The files of the last package may not have been removed yet.
                let ample = ample_space(space.total, needed);
                state.wait_for_space(ample, &self.task.cancel).await?;
                has_waited = true;
            } else if !state.forget_one().await? {
                break space;
            }
        };
        if space.free < needed {
            return Err(Reason::NoSpace {
                package: package.clone(),
                directory: fs::parent(blob).to_owned(),
                purpose: "its contents",
                needed,
                free: space.free,
            });
        }
        Ok(())
    }
}

/// Whether an installed package still has the content that was installed.
async fn is_unchanged(
    state: &CompilerState,
    dependency: &Name,
    installed: &Installed,
) -> Result<bool, Reason> {
    let (context, own) = (Arc::clone(state.context()), installed.clone());
    let checking = runtime::spawn_blocking("check", move || context.store.check(&own));
    let Err(changed) = checking.await.map_err(Reason::Task)? else {
        return Ok(true);
    };
    tracing::warn!(
        dependency = %dependency,
        changes = %changed.difference,
        suspects = %changed.suspects,
        "an installed package was changed; fetching it again"
    );
    Ok(false)
}

/// Whether there is room for a script without removing packages that are kept from earlier requests.
fn is_space_ample(space: fs::Space, needed: u64) -> bool {
    space.free >= ample_space(space.total, needed)
}

/// The free space, on a disk of `total` bytes, that is assumed to be enough for `needed` bytes of files and for any script.
fn ample_space(total: u64, needed: u64) -> u64 {
    needed.saturating_add(RESERVE).max(AMPLE.min(total / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_kept_while_there_is_room() {
        const GIB: u64 = 1 << 30;
        let is_space_ample = |free, total, needed| {
            is_space_ample(
                fs::Space {
                    free,
                    total,
                    inodes: None,
                    device: 0,
                },
                needed,
            )
        };
        assert!(is_space_ample(6 * GIB, 10 * GIB, GIB));
        assert!(!is_space_ample(4 * GIB, 10 * GIB, GIB));
        // On a large disk, `AMPLE` is enough.
        assert!(is_space_ample(17 * GIB, 1000 * GIB, GIB));
        assert!(!is_space_ample(15 * GIB, 1000 * GIB, GIB));
        // The contents of the blob must fit, too.
        assert!(!is_space_ample(6 * GIB, 10 * GIB, 6 * GIB));
        assert!(is_space_ample(u64::MAX, 0, u64::MAX));
    }
}
