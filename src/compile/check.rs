//! Compares a sealed tree with its record before a dependent uses it, and reinstalls a changed tree from its blob. A sealed tree is an
//! installed package in the store that must not change. Its record lists the state of the files at sealing.
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
        self.checked(installed).map(|known| known.tree)
    }

    fn checked(&self, installed: &Installed) -> Result<SealedTree, Changed> {
        let moment = Instant::now();
        let mut known = installed.sealed();
        self.compare(&known)?;
        installed.mark_verified(&known.tree, moment);
        known.verified = moment;
        Ok(known)
    }

    fn compare(&self, known: &SealedTree) -> Result<(), Changed> {
        match known.record.compare(&known.tree) {
            None => Ok(()),
            Some(difference) => Err(Changed {
                tree: known.tree.clone(),
                difference,
                suspects: self.script_runs().since(known.verified),
            }),
        }
    }

    /// Reinstalls a package whose tree was changed, at another path: scripts may still have the old tree mounted. Returns `false` if the
    /// tree was already replaced for another dependent.
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

/// Returns an unchanged tree of a dependency, which is reinstalled if necessary, with the time of the check. Blocks.
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
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        let changed = match store.checked(installed) {
            Ok(known) => return Ok(known),
            Err(changed) => changed,
        };
        let restored = store.reinstall(name, installed, &changed, cancel);
        if cancel.is_cancelled() {
            let package = job.name.clone();
            return Err(CompileError::Stopped { package });
        }
        match restored {
            Ok(false) => {}
            Ok(true) => (context.events)(Event::TreeChanged {
                job: job.number,
                package: job.name.clone(),
                dependency: name.clone(),
                changed: Box::new(changed.clone()),
            }),
            Err(source) => {
                failure = Some((changed, source));
                break;
            }
        }
        failure = Some((changed, RestoreError::Again));
    }
    match failure {
        None => Ok(installed.sealed()),
        Some((changed, source)) => Err(CompileError::Changed {
            package: name.clone(),
            changed: Box::new(changed),
            source: Some(Box::new(source)),
        }),
    }
}

/// Compares the mounted dependencies of a package again after its script has ended. `used` are the trees that the script had mounted. The
/// store may contain other ones by now, if a tree was replaced for another dependent.
///
/// # Errors
/// [`CompileError::ChangedInUse`] if a tree was changed, because the result may depend on the change.
pub(super) fn unchanged_in_use(
    context: &Context,
    job: &Job,
    used: &[SealedTree],
) -> Result<(), CompileError> {
    for (dependency, known) in job.dependencies.iter().zip(used) {
        let compared = context.store.compare(known);
        compared.map_err(|changed| CompileError::ChangedInUse {
            package: job.name.clone(),
            dependency: dependency.name.clone(),
            changed: Box::new(changed),
        })?;
    }
    Ok(())
}

/// Reports copies of dependencies that were changed while this package was compiled against them, unless no other script ran: a script may
/// change its own copies.
pub(super) fn report_copies_changed_in_use(context: &Context, job: &Job, copies: &[ReplacedCopy]) {
    for copy in copies {
        let suspects = context.store.script_runs().since(copy.good);
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

/// Reports copies of dependencies that were changed and are replaced for this package.
pub(super) fn report_copies(context: &Context, job: &Job, replaced: &[ReplacedCopy]) {
    for copy in replaced {
        let suspects = context.store.script_runs().since(copy.good);
        (context.events)(Event::CopyChanged {
            job: job.number,
            package: job.name.clone(),
            dependency: copy.dependency.clone(),
            changed: Box::new(changed_copy(context, copy, suspects)),
        });
    }
}
