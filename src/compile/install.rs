//! Installs packages that an earlier run has compiled.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::error::CompileError;
use super::installed::Installed;
use super::step_log::Step;
use super::store::CompiledBlobError;
use crate::fs;
use crate::release::{Digests, Name};
use crate::runtime;

/// Unpacks a compiled package into the store, for its dependents. The caller must keep the blob: if a script changes the installed files,
/// the blob is unpacked again. If there are digests, the blob is verified each time.
///
/// # Errors
/// The blob does not have the digests or cannot be unpacked, or `cancel` was triggered.
pub async fn install_compiled(
    context: Arc<Context>,
    name: Name,
    (blob, digests): (PathBuf, Digests),
    cancel: CancellationToken,
) -> Result<Installed, CompileError> {
    let unpacking = runtime::spawn_blocking("install", {
        let (name, cancel) = (name.clone(), cancel.clone());
        move || {
            let source = (blob.as_path(), &digests);
            let step = Step::of(&name);
            let unpacked = context.store.unpack_compiled(&name, source, &cancel);
            if unpacked.is_ok() {
                step.done("unpacked the compiled package");
            }
            unpacked.map_err(|error| {
                let package = name;
                match error {
                    CompiledBlobError::Changed(source) => CompileError::BlobChanged {
                        package,
                        path: blob,
                        source,
                    },
                    CompiledBlobError::Unpack(source) => {
                        CompileError::Compiled { package, source }.with_space(fs::parent(&blob))
                    }
                }
            })
        }
    });
    let unpacked = unpacking.await;
    if cancel.is_cancelled() {
        return Err(CompileError::Stopped { package: name });
    }
    match unpacked {
        Ok(Ok(installed)) => Ok(installed),
        Ok(Err(error)) => Err(error),
        Err(source) => Err(CompileError::Task {
            package: name,
            source,
        }),
    }
}
