//! Checks whether the file systems of cache directories respond, and prepares the directories. A network file system whose server is gone
//! may block a thread, which then keeps the agent from exiting, so another process accesses each directory first (`sandbox::PathLookup`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::options::Options;
use crate::cache::Remotes;
use crate::diag::{Chain, Elapsed};
use crate::process::ForkServer;
use crate::runtime::{self, TaskFailed};
use crate::sandbox::{LookupError, PathLookup, SeenPaths};

/// How long a file system may take to respond.
const LIMIT: Duration = Duration::from_secs(10);

/// Returns the options. If the file system of the local cache does not respond, reports it and removes the cache from the options.
pub(super) async fn without_unresponsive_cache(
    options: &Options,
    cancel: &CancellationToken,
) -> Result<Options, TaskFailed> {
    let mut options = options.clone();
    if let Some(cache) = &mut options.cache
        && let Some(directory) = &cache.directory
        && !responds(directory, (&options.fork_server, cancel)).await?
    {
        tracing::warn!(
            "the cache {} is not used: its file system does not respond: no result after {}",
            directory.display(),
            Elapsed(LIMIT)
        );
        cache.directory = None;
    }
    Ok(options)
}

/// Reports the shared caches whose file systems do not respond, and stops using them.
pub(super) async fn check(
    remotes: &Remotes,
    fork_server: &ForkServer,
    cancel: &CancellationToken,
) -> Result<(), TaskFailed> {
    for (directory, remote) in remotes.directories() {
        if !responds(&directory, (fork_server, cancel)).await? {
            remote.give_up_silent(LIMIT);
        }
    }
    Ok(())
}

/// Whether the file system of a directory responds.
async fn responds(
    directory: &Path,
    with: (&ForkServer, &CancellationToken),
) -> Result<bool, TaskFailed> {
    // The kernel may have cached the attributes of the directory itself, so look up an entry of it.
    let below = directory.join("v1");
    let looked = look_up(&below, with, |lookup, path| lookup.kind(path)).await?;
    Ok(looked.is_some())
}

/// Stops using the shared caches whose file systems do not respond, and creates the directory in which packages are stored. Returns the
/// directories, with links resolved, so that they can be hidden from scripts.
pub(super) async fn prepare(
    remotes: &Remotes,
    fork_server: &ForkServer,
    cancel: &CancellationToken,
) -> Result<Vec<PathBuf>, TaskFailed> {
    check(remotes, fork_server, cancel).await?;
    remotes.prepare().await;
    let mut found = Vec::new();
    for (directory, remote) in remotes.directories() {
        if remote.is_broken() {
            continue;
        }
        let resolve =
            |lookup: PathLookup<'_>, path: &Path| lookup.seen(path, &SeenPaths::default());
        match look_up(&directory, (fork_server, cancel), resolve).await? {
            Some(resolved) => found.extend(resolved.and_then(|it| it.seen)),
            None => remote.give_up_silent(LIMIT),
        }
    }
    Ok(found)
}

/// Examines a path in another process. Returns `None` if the file system does not respond, and `Some(None)` after another failure, which
/// is reported when the directory is used.
async fn look_up<T: Send + 'static>(
    path: &Path,
    (fork_server, cancel): (&ForkServer, &CancellationToken),
    ask: impl FnOnce(PathLookup<'_>, &Path) -> Result<T, LookupError> + Send + 'static,
) -> Result<Option<Option<T>>, TaskFailed> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (fork_server, cancel) = (fork_server.clone(), cancel.clone());
    let looking = runtime::spawn_blocking("look up", move || {
        let lookup = PathLookup {
            fork_server: &fork_server,
            cancel: &cancel,
            limit: LIMIT,
        };
        ask(lookup, &path)
    });
    Ok(match looking.await? {
        Ok(value) => Some(Some(value)),
        Err(LookupError::NoResponse(_) | LookupError::TimedOut(_)) => None,
        Err(error) => {
            tracing::debug!(error = %Chain(&error), "could not look up the directory of a cache");
            Some(None)
        }
    })
}
