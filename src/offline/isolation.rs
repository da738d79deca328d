//! Chooses the isolation tier of a run and prints it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::options::Options;
use super::progress::Progress;
use crate::fs;
use crate::sandbox::{Isolation, Sandbox, SandboxError, Sharing, Tier, TierOptions};

/// Chooses the isolation tier, prints its name, and opens its sandbox. With `auto` and a tier without namespaces, the line also says
/// how to get a stronger tier. Also prints where scratch directories are kept, and warns if concurrent packages are not isolated.
/// Scripts cannot access the directories `shared`, those of shared caches.
pub(super) async fn choose(
    (options, shared): (&Options, Vec<PathBuf>),
    work: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Sandbox, OfflineError> {
    let chosen = choose_until((options, shared), work, progress, cancel).await;
    chosen.map_err(|error| match error {
        SandboxError::Stopped => OfflineError::Stopped,
        other => other.into(),
    })
}

async fn choose_until(
    (options, shared): (&Options, Vec<PathBuf>),
    work: &Path,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Sandbox, SandboxError> {
    let tier_options = tier_options(options, shared);
    let tier = Tier::choose(&tier_options, work, cancel).await?;
    if let Sharing::Kept(directory) = &options.scratch {
        progress.line(&format!(
            "Scratch directories of packages are kept in {}",
            directory.display()
        ));
    }
    let mut line = format!("Isolation: {}", tier.description());
    if options.isolation == Isolation::Auto && !tier.has_namespaces() {
        line.push_str("; for stronger isolation, ");
        line.push_str(stronger(nix::unistd::geteuid().is_root()));
    }
    progress.line(&line);
    let is_isolating = tier.is_isolating();
    let sandbox = tier.open(&tier_options, work, cancel).await?;
    if !is_isolating && tier_options.is_parallel {
        progress.warn(
            "Warning: packages that are compiled concurrently are not isolated from each other: undeclared dependencies go \
             undetected, and a script may use files of another package",
        );
    }
    Ok(sandbox)
}

fn tier_options(options: &Options, shared: Vec<PathBuf>) -> TierOptions {
    let cache = options.cache.as_ref();
    let cache = cache.and_then(|cache| cache.directory.as_deref());
    let cache = cache.and_then(|directory| fs::canonicalize(directory).ok());
    TierOptions {
        isolation: options.isolation,
        user_namespace: options.user_namespace.clone(),
        readonly_dependencies: options.readonly_dependencies,
        protect_host: options.protect_host,
        network: options.network,
        is_parallel: options.jobs.is_some_and(|jobs| jobs > NonZeroUsize::MIN),
        scratch: options.scratch.clone(),
        // Cache directories are not confidential, but scripts must not write to them. Paths in `secrets` are closed to both reads and
        // writes.
        secrets: cache.into_iter().chain(shared).collect(),
        vcap: options.vcap.clone(),
        image: options.image().map(|it| it.root.clone()),
        environment: options.script_environment().clone(),
        fork_server: options.fork_server.clone(),
        silent: options.silent.clone(),
        who: options.who.clone(),
        removes_foreign: options.force,
    }
}

/// How to get a stronger tier than `landlock` and `none`.
fn stronger(is_root: bool) -> &'static str {
    if is_root {
        "pass `--cap-add SYS_ADMIN --security-opt apparmor=unconfined` to docker, or `privileged: true` to Concourse"
    } else {
        "compile as root, or enable user namespaces (in docker: `--security-opt seccomp=unconfined --security-opt \
         apparmor=unconfined`), install the package `uidmap` and give this user a range in /etc/subuid and /etc/subgid; \
         --isolation=userns works without a range, but then scripts cannot change file owners"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_user_reads_about_userns_without_a_range() {
        assert!(stronger(false).contains("--isolation=userns"));
        assert!(!stronger(true).contains("--isolation=userns"));
    }
}
