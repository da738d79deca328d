//! Chooses the isolation tier of a call.

use std::num::NonZeroUsize;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::options::{Isolation, Options};
use super::progress::Progress;
use crate::diag::Chain;
use crate::runtime;
use crate::sandbox::{
    Entry, Landlocked, NamespaceOptions, Namespaces, Sandbox, SandboxError, Scratch, SharedTree,
    Sharing, Users, Writes,
};

/// Chooses the best isolation tier that works here, and prints it in one line, with a hint if a better tier is possible.
pub(super) async fn choose(
    options: &Options,
    work: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Sandbox, OfflineError> {
    let own = options.clone();
    let scratch = runtime::spawn_blocking("scratch", move || scratch(&own)).await??;
    if let Sharing::Kept(directory) = &options.scratch {
        progress.line(&format!(
            "Scratch directories of packages are kept in {}",
            directory.display()
        ));
    }
    let mut reasons = Vec::new();
    if let Some(namespaces) = try_namespaces(options, work, &mut reasons).await? {
        progress.line(&format!("Isolation: {}", described(&namespaces)));
        let linking = runtime::spawn_blocking("scratch", move || namespaces.with_scratch(scratch));
        return Ok(linking.await??.into());
    }
    let has_rules = try_rules(options, work, &mut reasons).await?;
    let is_auto = options.isolation == Isolation::Auto;
    progress.line(&fallback(has_rules, is_auto, &reasons));
    let is_parallel = options.jobs.is_some_and(|jobs| jobs > NonZeroUsize::MIN);
    let (own, work, cancel) = (options.clone(), work.to_owned(), cancel.clone());
    let taking = runtime::spawn_blocking("tree", move || -> Result<Sandbox, SandboxError> {
        let stop = || cancel.is_cancelled();
        let tree = SharedTree::take(&own.vcap, &own.who, own.force, &stop)?.with_scratch(scratch);
        if !has_rules && !is_parallel {
            return Ok(tree.into());
        }
        let home = own.environment.get("HOME").map(Path::new);
        let several = Landlocked::new(tree, &work, home)?;
        Ok(match has_rules {
            true => several.into(),
            false => several.without_rules().into(),
        })
    });
    let sandbox = taking.await??;
    if !has_rules && is_parallel {
        progress.warn(
        "Warning: packages that are compiled concurrently are not isolated from each other: undeclared dependencies go \
         undetected, and a script may use files of another package",
    );
    }
    Ok(sandbox)
}

/// The namespaces, if they are wanted and work; otherwise adds the reasons.
async fn try_namespaces(
    options: &Options,
    work: &Path,
    reasons: &mut Vec<String>,
) -> Result<Option<Namespaces>, OfflineError> {
    let wanted = options.isolation;
    if matches!(wanted, Isolation::Landlock | Isolation::None) {
        return match needs_namespaces(options, None) {
            Some(error) => Err(error.into()),
            None => Ok(None),
        };
    }
    match namespaces(options, work).await {
        Ok(namespaces) => return Ok(Some(namespaces)),
        // With a full disk, another tier may fail the same way.
        Err(error) if wanted != Isolation::Auto || error.is_no_space() => {
            return Err(error.into());
        }
        Err(error) => {
            reasons.push(format!("no namespaces: {}", reason(&error)));
            if let Some(error) = needs_namespaces(options, Some(error)) {
                return Err(error.into());
            }
        }
    }
    if let Entry::Refused(error) = &options.user_namespace {
        reasons.push(format!("no user namespaces: {error}"));
    }
    Ok(None)
}

/// Whether Landlock is wanted and works; otherwise adds the reason.
async fn try_rules(
    options: &Options,
    work: &Path,
    reasons: &mut Vec<String>,
) -> Result<bool, OfflineError> {
    if options.isolation == Isolation::None {
        return Ok(false);
    }
    match Landlocked::probe(work, &options.agent).await {
        Ok(()) => Ok(true),
        Err(error) if options.isolation == Isolation::Landlock || error.is_no_space() => {
            Err(error.into())
        }
        Err(error) => {
            reasons.push(format!("no Landlock: {}", reason(&error)));
            Ok(false)
        }
    }
}

/// The scratch directories of packages. They cannot be isolated if they are where every script needs access.
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

/// Why a tier does not work, in short.
fn reason(error: &SandboxError) -> String {
    match error {
        SandboxError::Step(step) => step.to_string(),
        other => Chain(other).to_string(),
    }
}

/// The error for an option that needs namespaces; `source` is why there are none, if they were tried.
fn needs_namespaces(options: &Options, source: Option<SandboxError>) -> Option<SandboxError> {
    let source = source.map(Box::new);
    if !options.network {
        Some(SandboxError::Network { source })
    } else if options.protect_host {
        Some(SandboxError::ProtectHost { source })
    } else {
        None
    }
}

/// The line about a tier without namespaces. With rules, the reasons are only in the debug log.
fn fallback(has_rules: bool, is_auto: bool, reasons: &[String]) -> String {
    for reason in reasons {
        tracing::debug!(reason, "an isolation tier does not work here");
    }
    let mut line = match (has_rules, reasons) {
        (true, _) => "Isolation: landlock".to_owned(),
        (false, []) => "Isolation: none".to_owned(),
        (false, reasons) => format!("Isolation: none ({})", reasons.join("; ")),
    };
    if is_auto {
        line.push_str("; for stronger isolation, ");
        line.push_str(stronger());
    }
    line
}

/// How to get a stronger tier.
fn stronger() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        "pass `--cap-add SYS_ADMIN --security-opt apparmor=unconfined` to docker, or `privileged: true` to Concourse"
    } else {
        "compile as root, or allow user namespaces, with newuidmap and a range in /etc/subuid and /etc/subgid"
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
    let namespace_options = NamespaceOptions {
        readonly_dependencies: options.readonly_dependencies,
        protect_host: options.protect_host,
        network: options.network,
        users,
    };
    Namespaces::probe(work, &options.vcap, &options.agent, namespace_options).await
}

/// The tier, with its restrictions.
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
