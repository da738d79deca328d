//! Checks that installed packages have not changed. The directory of an installed package in the store is its tree. When the tree is moved
//! to the store, the state of its files is saved in a record. Before a dependent uses the tree, the tree is compared with the record. A
//! changed tree is reinstalled from the compiled blob of its package.
//!
//! See `docs/adr/0016-a-seal-is-checked.md`.

use std::path::PathBuf;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::changed::{ATTEMPTS, Changed, RestoreError};
use super::context::Context;
use super::error::CompileError;
use super::event::Event;
use super::installed::{Installed, KnownBlob, KnownBlobError, SealedTree};
use super::job::{Dependency, Job};
use super::script_runs::Suspects;
use super::store::Store;
use crate::archive;
use crate::fs::{self, Record};
use crate::release::Name;
use crate::runtime::Cancellable;
use crate::sandbox::ReplacedCopy;

impl Store {
    /// Compares a tree with the record that was made when it was sealed.
    ///
    /// # Errors
    /// [`Changed`], also if the tree cannot be read.
    pub fn check(&self, installed: &Installed) -> Result<PathBuf, Changed> {
        self.verify(installed).map(|sealed| sealed.tree)
    }

    fn verify(&self, installed: &Installed) -> Result<SealedTree, Changed> {
        let start = Instant::now();
        let mut sealed = installed.sealed();
        self.compare(&sealed)?;
        installed.mark_verified(&sealed.tree, start);
        sealed.verified = start;
        Ok(sealed)
    }

    fn compare(&self, sealed: &SealedTree) -> Result<(), Changed> {
        match sealed.record.compare(&sealed.tree) {
            None => Ok(()),
            Some(difference) => Err(Changed {
                tree: sealed.tree.clone(),
                difference,
                suspects: self.script_runs().since(sealed.verified),
            }),
        }
    }

    /// Reinstalls a changed package. The new tree has a new path, because scripts may still have the old tree mounted. Returns `false` if
    /// the tree was already replaced for another dependent.
    fn reinstall(
        &self,
        name: &Name,
        installed: &Installed,
        changed: &Changed,
        cancel: &CancellationToken,
    ) -> Result<bool, RestoreError> {
        let blob = installed.blob(cancel).ok_or(RestoreError::NoBlob)?;
        installed.replace(&changed.tree, || {
            let tree = self.new_tree(name)?;
            match unpack_verified(&blob, &tree, cancel) {
                Ok(record) => Ok((tree, record)),
                Err(error) => {
                    if let Err(error) = fs::remove_tree(fs::parent(&tree)) {
                        tracing::debug!(%error, "could not remove a partial tree");
                    }
                    Err(error)
                }
            }
        })
    }
}

fn unpack_verified(
    blob: &KnownBlob,
    tree: &std::path::Path,
    cancel: &CancellationToken,
) -> Result<Record, RestoreError> {
    let file = blob.open(cancel).map_err(|error| match error {
        KnownBlobError::File(error) if error.is_not_found() => RestoreError::NoBlob,
        KnownBlobError::File(error) => error.into(),
        KnownBlobError::Changed(source) => RestoreError::Blob {
            path: blob.file.clone(),
            source,
        },
    })?;
    super::store::create_root(tree)?;
    archive::unpack_whole(Cancellable::new(file, cancel), tree)?;
    Ok(Record::of(tree)?)
}

/// Returns the tree of a dependency after a successful check. Reinstalls the dependency first if its tree was changed. Blocks.
///
/// # Errors
/// [`CompileError::Changed`] if the tree was changed and cannot be reinstalled.
pub(super) fn unchanged_tree(
    context: &Context,
    job: &Job,
    dependency: &Dependency,
    cancel: &CancellationToken,
) -> Result<SealedTree, CompileError> {
    let store = &context.store;
    let (name, installed) = (&dependency.name, &dependency.installed);
    let mut attempt = 1;
    loop {
        let changed = match store.verify(installed) {
            Ok(sealed) => return Ok(sealed),
            Err(changed) => changed,
        };
        let reinstalled = store.reinstall(name, installed, &changed, cancel);
        if cancel.is_cancelled() {
            let package = job.name.clone();
            return Err(CompileError::Stopped { package });
        }
        if let Ok(true) = reinstalled {
            (context.events)(Event::TreeChanged {
                job: job.number,
                package: job.name.clone(),
                dependency: name.clone(),
                changed: Box::new(changed.clone()),
            });
        }
        let source = match reinstalled {
            Ok(_) if attempt < ATTEMPTS => {
                attempt += 1;
                continue;
            }
            Ok(_) => RestoreError::ChangedAgain,
            Err(error) => error,
        };
        return Err(CompileError::Changed {
            package: name.clone(),
            changed: Box::new(changed),
            source: Some(Box::new(source)),
        });
    }
}

/// Checks the dependencies of a package again after its script has ended. `used` are the trees that the script had mounted, in the order
/// of the job's dependencies. The store may have replaced some of these trees for other dependents meanwhile.
///
/// # Errors
/// [`CompileError::ChangedInUse`] if a tree was changed, because the result may depend on the change.
pub(super) fn check_trees_in_use(
    context: &Context,
    job: &Job,
    used: &[SealedTree],
) -> Result<(), CompileError> {
    for (dependency, sealed) in job.dependencies.iter().zip(used) {
        let compared = context.store.compare(sealed);
        compared.map_err(|changed| CompileError::ChangedInUse {
            package: job.name.clone(),
            dependency: dependency.name.clone(),
            changed: Box::new(changed),
        })?;
    }
    Ok(())
}

/// Reports copies of dependencies that were changed while this package was compiled against them. In a shared tree, packages use the same
/// copies of their dependencies. A copy is reported only if scripts of other packages ran meanwhile, because a script may change the copies
/// for itself.
pub(super) fn report_copies_changed_in_use(context: &Context, job: &Job, copies: &[ReplacedCopy]) {
    for copy in copies {
        let suspects = context.store.script_runs().since(copy.last_verified);
        if suspects.0.iter().all(|name| *name == job.name) {
            continue;
        }
        (context.events)(Event::CopyChangedInUse {
            job: job.number,
            package: job.name.clone(),
            dependency: copy.dependency.clone(),
            changed: Box::new(changed_copy(context, copy, suspects)),
        });
    }
}

fn changed_copy(context: &Context, copy: &ReplacedCopy, suspects: Suspects) -> Changed {
    Changed {
        tree: context.vcap.data_packages().join(copy.dependency.as_str()),
        difference: copy.difference.clone(),
        suspects,
    }
}

/// Reports copies of dependencies that were changed before this package used them, and were replaced.
pub(super) fn report_replaced_copies(context: &Context, job: &Job, replaced: &[ReplacedCopy]) {
    for copy in replaced {
        let suspects = context.store.script_runs().since(copy.last_verified);
        (context.events)(Event::CopyChanged {
            job: job.number,
            package: job.name.clone(),
            dependency: copy.dependency.clone(),
            changed: Box::new(changed_copy(context, copy, suspects)),
        });
    }
}
