//! How packages are kept apart in a call.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::progress::Progress;
use super::run::Options;
use crate::diag::Chain;
use crate::runtime;
use crate::sandbox::{Entry, Namespaces, Sandbox, SandboxError, SharedTree, Users, Wishes, Writes};

/// How packages are to be kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// As well as it can be done here.
    Auto,
    /// In namespaces, or not at all.
    Namespace,
    /// In namespaces that a user namespace makes possible, or not at all.
    Userns,
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
    let mut reasons = Vec::new();
    if options.isolation == Isolation::None && !options.network {
        return Err(SandboxError::Network { source: None }.into());
    }
    if options.isolation != Isolation::None {
        match namespaces(options, work).await {
            Ok(namespaces) => {
                progress.line(&format!("Isolation: {}", described(&namespaces)));
                return Ok(Sandbox::Namespaces(namespaces));
            }
            Err(error) if options.isolation != Isolation::Auto => return Err(error.into()),
            Err(error) => {
                reasons.push(format!("namespaces cannot be used here: {}", Chain(&error)))
            }
        }
        if let Entry::Refused(error) = &options.user_namespace {
            reasons.push(format!("user namespaces neither: {error}"));
        }
    }
    let reasons = match reasons.join("; ") {
        none if none.is_empty() => none,
        reasons => format!(" ({reasons})"),
    };
    progress.line(&format!("Isolation: none{reasons}"));
    let (vcap, who, force) = (options.vcap.clone(), options.who.clone(), options.force);
    let cancel = cancel.clone();
    let taking = runtime::spawn_blocking("tree", move || {
        SharedTree::take(&vcap, &who, force, &|| cancel.is_cancelled())
    });
    Ok(Sandbox::Shared(taking.await??))
}

async fn namespaces(options: &Options, work: &Path) -> Result<Namespaces, SandboxError> {
    let users = match &options.user_namespace {
        Entry::Outside => None,
        Entry::Inside(users) => Some(*users),
        Entry::Refused(error) if options.isolation == Isolation::Userns => {
            return Err(SandboxError::NoUserNamespace(error.clone()));
        }
        Entry::Refused(_) => None,
    };
    let wishes = Wishes {
        readonly_dependencies: options.readonly_dependencies,
        network: options.network,
        users,
    };
    Namespaces::probe(work, &options.vcap, &options.agent, wishes).await
}

/// A tier with what a person should know of it.
fn described(namespaces: &Namespaces) -> String {
    let mut text = match namespaces.users() {
        None => "namespace",
        Some(_) => "userns",
    }
    .to_owned();
    if namespaces.users() == Some(Users::Single) {
        text += ", with a single user: scripts that change owners fail";
    }
    if namespaces.writes() == Writes::Refused {
        text += ", with read-only dependencies";
    }
    if !namespaces.has_processes() {
        text += ", without a process namespace";
    }
    text
}
