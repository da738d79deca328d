//! Moves the installed tree into the store and packs it into the compiled blob.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::built::{Built, CompiledBlob, InstalledTree, Packing};
use super::install_target::FoundTree;
use super::owners::PackageOwners;
use super::work::{Work, file_error, stopped};
use crate::archive::{self, Compression, GzipWriter};
use crate::compile::changed::Changed;
use crate::compile::context::Context;
use crate::compile::error::CompileError;
use crate::compile::finding::Finding;
use crate::compile::installed::{Installed, KnownBlob};
use crate::compile::job::{Compiled, Job};
use crate::compile::references;
use crate::compile::seal::{self, Unsealed};
use crate::compile::source_date::SourceDate;
use crate::compile::step_log::Step;
use crate::config::Vcap;
use crate::fs::{self, Context as _};
use crate::release::digest::{Hasher, HashingWriter};
use crate::runtime::{self, Cancellable};

impl Work {
    /// Moves the installed tree into the store, and seals it if the package has dependents. Afterwards, other packages can use the place of
    /// this package in the sandbox.
    pub(super) fn move_to_store(
        &self,
        compression: Compression,
        found: &FoundTree,
    ) -> Result<Built, CompileError> {
        let file_error = self.file_error();
        let (name, store) = (&self.job.name, &self.context.store);
        let step = Step::of(name);
        let (tree, agent_made_root) = (found.path.clone(), found.agent_made_root);
        let pack = || {
            let tree = InstalledTree {
                path: tree.clone(),
                unsealed: Unsealed::default(),
                agent_made_root,
            };
            pack_tree(&self.context, &self.job, tree, compression, &self.cancel)
        };
        let (installed, unsealed, packed) = if self.job.is_dependency {
            let examined = seal::examine(&tree).map_err(&file_error)?;
            // Pack a tree with devices before it is sealed: the archive contains devices, but sealing removes them.
            let packed = examined.has_devices.then(pack).transpose()?;
            let stored = store.seal_examined(name, &tree, examined, self.job.source_date);
            let (installed, unsealed) = stored.map_err(&file_error)?;
            step.done("sealed the installed files");
            (Some(installed), unsealed, packed)
        } else {
            let stored = store.move_to_pack(name, &tree).map_err(&file_error)?;
            let packed = stored.is_none().then(pack).transpose()?;
            step.done("moved the installed files");
            (stored, Unsealed::default(), packed)
        };
        let packing = match packed {
            Some(packed) => Packing::Done(packed),
            None => Packing::Pending {
                tree: InstalledTree {
                    path: installed.as_ref().map_or(tree, Installed::tree),
                    unsealed,
                    agent_made_root,
                },
                compression,
            },
        };
        Ok(Built {
            job: Arc::clone(&self.job),
            installed,
            packing,
            unrestricted: false,
            findings: Vec::new(),
            elapsed: Duration::ZERO,
            script: None,
            place: None,
        })
    }
}

/// Packs a built package. The tree remains in the store.
pub(in crate::compile) async fn pack(
    context: &Arc<Context>,
    built: Built,
    cancel: &CancellationToken,
) -> Result<Compiled, CompileError> {
    let Built {
        job,
        installed,
        packing,
        unrestricted,
        mut findings,
        elapsed,
        script,
        place: _,
    } = built;
    let packed = match packing {
        Packing::Done(packed) => Ok(packed),
        Packing::Pending { tree, compression } => {
            let package = job.name.clone();
            let (context, job) = (Arc::clone(context), Arc::clone(&job));
            let (sealed, cancel) = (installed.clone(), cancel.clone());
            let done = runtime::spawn_blocking("pack", move || {
                pack_sealed(&context, &job, sealed.as_ref(), tree, compression, &cancel)
            });
            done.await
                .unwrap_or_else(|source| Err(CompileError::Task { package, source }))
        }
    };
    if let Some(installed) = &installed {
        let blob = packed.as_ref().ok();
        installed.set_blob(blob.and_then(|it| KnownBlob::new(&job.blob, &it.digests)));
    }
    let packed = packed?;
    findings.extend(packed.findings);
    Ok(Compiled {
        blob: job.blob.clone(),
        size: packed.size,
        digests: packed.digests,
        installed,
        unrestricted,
        findings,
        elapsed,
        script,
    })
}

/// Packs a tree. Afterwards, checks that a sealed tree has not changed. Removes the blob after a failure.
fn pack_sealed(
    context: &Context,
    job: &Job,
    sealed: Option<&Installed>,
    tree: InstalledTree,
    compression: Compression,
    cancel: &CancellationToken,
) -> Result<CompiledBlob, CompileError> {
    let packed = pack_tree(context, job, tree, compression, cancel);
    // Check the tree after packing, because it may change during packing.
    let checked = sealed.map_or(Ok(()), |sealed| context.store.check(sealed).map(drop));
    let packed = match (checked, packed) {
        _ if cancel.is_cancelled() => Err(stopped(job)),
        (Err(changed), _) => Err(changed_before_packing(job, changed)),
        (_, packed) => packed.map_err(|error| error.with_space(fs::parent(&job.blob))),
    };
    if packed.is_err() {
        // Remove the partial blob, if any.
        let _ = fs::remove_file_if_there(&job.blob);
    }
    packed
}

fn changed_before_packing(job: &Job, changed: Changed) -> CompileError {
    CompileError::Changed {
        package: job.name.clone(),
        changed: Box::new(changed),
        source: None,
    }
}

/// Packs a tree and searches it for references to the compile directory. The search follows directly, because the files are still in the
/// page cache.
fn pack_tree(
    context: &Context,
    job: &Job,
    tree: InstalledTree,
    compression: Compression,
    cancel: &CancellationToken,
) -> Result<CompiledBlob, CompileError> {
    let in_pack = |source| CompileError::Pack {
        package: job.name.clone(),
        source,
    };
    let file_error = file_error(job);
    let blob = &job.blob;
    let path = tree.path.clone();
    let mut owners = PackageOwners::new(tree);
    let newest = job.source_date.map(SourceDate::seconds);
    let file = fs::create(blob).map_err(&file_error)?;
    let step = Step::of(&job.name);
    let out = HashingWriter::new(
        Cancellable::new(io::BufWriter::new(file), cancel),
        Hasher::new(&job.algorithms),
    );
    let out = if compression == Compression::None {
        let mut out = out;
        archive::pack(&path, &mut out, &mut owners, newest).map_err(in_pack)?;
        out
    } else {
        let mut gzip = GzipWriter::new(out, context.compression_level)
            .at("write", blob)
            .map_err(&file_error)?;
        archive::pack(&path, &mut gzip, &mut owners, newest).map_err(in_pack)?;
        gzip.finish().at("write", blob).map_err(&file_error)?
    };
    let size = out.count();
    let (writer, digests) = out.finish();
    let mut buffered = writer.into_inner();
    buffered.flush().at("write", blob).map_err(&file_error)?;
    step.done_with_bytes("packed", size);
    Ok(CompiledBlob {
        size,
        digests,
        findings: references_in(job, &context.vcap, &path, cancel)
            .into_iter()
            .collect(),
    })
}

/// The finding about a tree whose files refer to the directory in which packages are compiled.
fn references_in(
    job: &Job,
    vcap: &Vcap,
    tree: &Path,
    cancel: &CancellationToken,
) -> Option<Finding> {
    let directory = vcap.compile();
    let mut directories = vec![directory.clone()];
    // A shell reports its current directory with links resolved.
    if let Ok(real) = fs::canonicalize(&vcap.data())
        && real != vcap.data()
    {
        directories.push(real.join("compile"));
    }
    let installed = vcap.package(&job.name, &job.version).install;
    let found = references::find(tree, &installed, &directories, &|| cancel.is_cancelled());
    (!found.shown.is_empty()).then_some(Finding::CompileDirectory {
        directory,
        references: found.shown,
        others: found.others,
    })
}
