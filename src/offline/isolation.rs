//! How packages are kept apart in a call.

use std::num::NonZeroUsize;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::progress::Progress;
use super::run::Options;
use crate::diag::Chain;
use crate::process;
use crate::runtime;
use crate::sandbox::{Namespaces, Sandbox, SharedTree, Writes};

/// How packages are to be kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// As well as it can be done here.
    Auto,
    /// In namespaces, or not at all.
    Namespace,
    /// In place, one after another.
    None,
}

/// Chooses how packages are kept apart, and says so in one line.
pub(super) async fn choose(
    options: &Options,
    work: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Sandbox, OfflineError> {
    let unusable = if options.isolation == Isolation::None {
        None
    } else {
        let probe = Namespaces::probe(
            work,
            &options.vcap,
            &options.agent,
            options.readonly_dependencies,
        );
        match probe.await {
            Ok(namespaces) => {
                progress.line(match namespaces.writes() {
                    Writes::ToDisk | Writes::ToMemory => "Isolation: namespace",
                    Writes::Refused => "Isolation: namespace, with read-only dependencies",
                });
                return Ok(Sandbox::Namespaces(namespaces));
            }
            Err(error) if options.isolation == Isolation::Namespace => return Err(error.into()),
            Err(error) => Some(error),
        }
    };
    let reason = unusable.map_or_else(String::new, |error| {
        format!(" (namespaces cannot be used here: {})", Chain(&error))
    });
    progress.line(&format!("Isolation: none{reason}"));
    let (vcap, who, force) = (options.vcap.clone(), options.who.clone(), options.force);
    let cancel = cancel.clone();
    let taking = runtime::spawn_blocking("tree", move || {
        SharedTree::take(&vcap, &who, force, &|| cancel.is_cancelled())
    });
    Ok(Sandbox::Shared(taking.await??))
}

/// How many packages are compiled at once, and says so where there are several.
pub(super) fn jobs(
    wanted: Option<NonZeroUsize>,
    sandbox: &Sandbox,
    progress: &Progress,
) -> NonZeroUsize {
    const ONE: NonZeroUsize = NonZeroUsize::MIN;
    if !sandbox.takes_several() {
        if let Some(wanted) = wanted.filter(|wanted| *wanted > ONE) {
            progress.line(&format!(
                "Packages compile one after another, not {wanted} at once: nothing keeps them apart here"
            ));
        }
        return ONE;
    }
    let jobs = wanted.unwrap_or_else(process::processors);
    if jobs > ONE {
        progress.line(&format!("Compiling up to {jobs} packages at once"));
    }
    jobs
}
