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
use crate::sandbox::{
    Entry, Landlocked, Namespaces, Sandbox, SandboxError, Scratch, SharedTree, Sharing, Users,
    Wishes, Writes,
};

/// How packages are to be kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// As well as it can be done here.
    Auto,
    /// In namespaces, or not at all.
    Namespace,
    /// In namespaces that a user namespace makes possible, or not at all.
    Userns,
    /// In place, by rules on what a script may reach, or not at all.
    Landlock,
    /// In place, one after another unless several jobs are asked for.
    None,
}

/// Chooses how packages are kept apart, and says so in one line. A second one says how it would be better.
pub(super) async fn choose(
    options: &Options,
    work: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Sandbox, OfflineError> {
    let wanted = options.isolation;
    let scratch = scratch(options)?;
    if let Sharing::Kept(directory) = &options.scratch {
        progress.line(&format!(
            "Scratch directories of packages are kept in {}",
            directory.display()
        ));
    }
    let mut reasons = Vec::new();
    if matches!(wanted, Isolation::Landlock | Isolation::None) {
        if let Some(error) = beyond_namespaces(options, None) {
            return Err(error.into());
        }
    } else {
        match namespaces(options, work).await {
            Ok(namespaces) => {
                progress.line(&format!("Isolation: {}", described(&namespaces)));
                return Ok(Sandbox::Namespaces(namespaces.with_scratch(scratch)?));
            }
            // A full disk says nothing of what could be had on another one.
            Err(error) if wanted != Isolation::Auto || error.is_no_space() => {
                return Err(error.into());
            }
            Err(error) => {
                reasons.push(format!("no namespaces: {}", reason(&error)));
                if let Some(error) = beyond_namespaces(options, Some(error)) {
                    return Err(error.into());
                }
            }
        }
        if let Entry::Refused(error) = &options.user_namespace {
            reasons.push(format!("no user namespaces: {error}"));
        }
    }
    let mut has_rules = false;
    if wanted != Isolation::None {
        match Landlocked::probe(work, &options.agent).await {
            Ok(()) => has_rules = true,
            Err(error) if wanted == Isolation::Landlock || error.is_no_space() => {
                return Err(error.into());
            }
            Err(error) => reasons.push(format!("no Landlock: {}", reason(&error))),
        }
    }
    let reasons = match reasons.join("; ") {
        none if none.is_empty() => none,
        reasons => format!(" ({reasons})"),
    };
    let name = if has_rules { "landlock" } else { "none" };
    progress.line(&format!("Isolation: {name}{reasons}"));
    if wanted == Isolation::Auto {
        progress.line(hint());
    }
    let (vcap, who, force) = (options.vcap.clone(), options.who.clone(), options.force);
    let cancel = cancel.clone();
    let taking = runtime::spawn_blocking("tree", move || {
        SharedTree::take(&vcap, &who, force, &|| cancel.is_cancelled())
    });
    let tree = taking.await??.with_scratch(scratch);
    let is_parallel = options.jobs.is_some_and(|jobs| jobs > NonZeroUsize::MIN);
    if !has_rules && !is_parallel {
        return Ok(Sandbox::Shared(tree));
    }
    let home = options.environment.get("HOME").map(Path::new);
    let several = Landlocked::new(tree, work, home)?;
    if has_rules {
        return Ok(Sandbox::Landlocked(several));
    }
    progress.line(
        "Warning: nothing keeps packages apart that are compiled at once: a script that uses one that it does not declare is \
         not found out, and may get another one's files",
    );
    Ok(Sandbox::Landlocked(several.without_rules()))
}

/// The scratch directories of packages. Packages can be kept from each other's unless they lie where scripts have to go.
fn scratch(options: &Options) -> Result<Scratch, SandboxError> {
    // Variables name a home directory, for example, or the cache of a compiler.
    let named = options
        .environment
        .iter()
        .map(|(_, value)| Path::new(value));
    let in_use: Vec<&Path> = ["/tmp", "/var/tmp", "/dev/shm"]
        .into_iter()
        .map(Path::new)
        .chain(named.filter(|value| value.is_absolute()))
        .chain([options.vcap.base()])
        .collect();
    Scratch::open(&options.scratch, &in_use)
}

/// Why something cannot be had, in short.
fn reason(error: &SandboxError) -> String {
    match error {
        SandboxError::Step(step) => step.to_string(),
        other => Chain(other).to_string(),
    }
}

/// The error where something is asked for that takes namespaces, and there are none: for `source`, where they were tried.
fn beyond_namespaces(options: &Options, source: Option<SandboxError>) -> Option<SandboxError> {
    let source = source.map(Box::new);
    if !options.network {
        Some(SandboxError::Network { source })
    } else if options.protect_host {
        Some(SandboxError::ProtectHost { source })
    } else {
        None
    }
}

/// How packages would be kept apart better.
fn hint() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        "Hint: packages are kept apart better in a container with `--cap-add SYS_ADMIN --security-opt apparmor=unconfined`, or \
         without a capability with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`, and in a Concourse \
         task with `privileged: true`"
    } else {
        "Hint: packages are kept apart better for root, or with newuidmap (package uidmap), a range for this user in \
         /etc/subuid and /etc/subgid, and user namespaces allowed"
    }
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
        protect_host: options.protect_host,
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
    if namespaces.protects_host() {
        text += ", with a read-only host";
    }
    if namespaces.writes() == Writes::Refused {
        text += ", with read-only dependencies";
    }
    if !namespaces.has_processes() {
        text += ", without a process namespace";
    }
    if !namespaces.has_locked_mounts() {
        text += ", with mounts that a script can undo";
    }
    text
}

/// How many packages are compiled at once, and says so where there are several.
pub(super) fn jobs(
    wanted: Option<NonZeroUsize>,
    sandbox: &Sandbox,
    progress: &Progress,
) -> NonZeroUsize {
    if !sandbox.takes_several() {
        return NonZeroUsize::MIN;
    }
    let jobs = wanted.unwrap_or_else(process::processors);
    if jobs > NonZeroUsize::MIN {
        progress.line(&format!("Compiling up to {jobs} packages at once"));
    }
    jobs
}
