//! The daemon's work directory below the data directory, its sandbox, the packages kept from earlier requests, and the scratch directories
//! that all requests share. In namespaces scratch directories outlive the agent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::failure::Reason;
use super::on_disk::on_disk;
use super::options::CompilerOptions;
use super::phases::Phases;
use crate::compile::{Context, Event, SecondRun, Store};
use crate::config::WORK_PREFIX;
use crate::diag::Chain;
use crate::fs::{self, LeasedDirectory};
use crate::process::{TAIL_LINES, TimeLimits};
use crate::release::{MultiDigest, Name};
use crate::runtime;
use crate::sandbox::{
    self, NamespaceOptions, Namespaces, Sandbox, SandboxError, Scratch, SharedTree, Sharing,
};

/// How long to wait for the processes of a killed agent before its work directory is removed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gzip level of compiled packages, as in the Go agent.
const COMPRESSION_LEVEL: u32 = 6;

/// Receives the events of the compile core, while a request runs.
type Listener = Arc<Mutex<Option<Arc<Phases>>>>;

/// Everything that compiling needs.
#[derive(Debug)]
pub(super) struct WorkDirectory {
    work: LeasedDirectory,
    context: Arc<Context>,
    listener: Listener,
    pub(super) cache: Cache,
}

impl WorkDirectory {
    /// Removes the work directory of a killed agent and creates a new one. `cancel` ends the wait for its processes.
    pub(super) async fn make(
        options: &CompilerOptions,
        cancel: &CancellationToken,
    ) -> Result<Self, Reason> {
        let (data, own) = (options.vcap.data(), cancel.clone());
        let making = runtime::spawn_blocking("work directory", move || {
            make_directory(&data, &|| own.is_cancelled())
        });
        let work = making.await.map_err(Reason::Task)?.map_err(Reason::Files)?;
        let sandbox = choose(options, work.path(), cancel).await?;
        let listener = Listener::default();
        let heard = Arc::clone(&listener);
        let context = Context {
            vcap: options.vcap.clone(),
            sandbox,
            store: Store::new(&work.path().join("store")),
            environment: options.environment.clone(),
            agent: options.agent.clone(),
            grace: options.grace,
            nice: 0,
            limits: TimeLimits::default(),
            second_run: SecondRun::AUTO,
            keep: None,
            shells: None,
            log_lines: TAIL_LINES,
            script_lines: None,
            jobserver: None,
            compression_level: COMPRESSION_LEVEL,
            events: Arc::new(move |event: Event| {
                let listener = heard.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(phases) = listener.as_ref() {
                    phases.hear(&event);
                }
            }),
        };
        Ok(Self {
            work,
            context: Arc::new(context),
            listener,
            cache: Cache::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.work.path()
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Sends the core's events to `phases`.
    pub(super) fn listen(&self, phases: Option<Arc<Phases>>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = phases;
    }

    /// The path of a package's blob.
    pub(super) fn fetched(&self, package: &Name) -> PathBuf {
        self.work.path().join("fetched").join(package.as_str())
    }

    /// The path of the compiled package.
    pub(super) fn result(&self) -> PathBuf {
        self.work.path().join("result.tgz")
    }

    /// Removes the least recently used package, or the content of scratch directories if the request needs all packages. Returns `false`
    /// if there was nothing to remove.
    pub(super) async fn forget_one(&mut self) -> Result<bool, Reason> {
        let context = Arc::clone(&self.context);
        let Some((name, installed)) = self.cache.forget() else {
            let discarded = on_disk("discard", move || context.sandbox.discard_scratch()).await?;
            if discarded {
                tracing::info!("removed the scratch directories of packages for lack of space");
            }
            return Ok(discarded);
        };
        on_disk("forget", move || context.store.remove(&installed)).await?;
        tracing::info!(package = %name, "removed an installed package for lack of space");
        Ok(true)
    }

    /// Removes an installed package that was changed.
    pub(super) async fn discard(
        &mut self,
        name: &Name,
        digest: &MultiDigest,
    ) -> Result<(), Reason> {
        let context = Arc::clone(&self.context);
        let Some(installed) = self.cache.discard(name, digest) else {
            return Ok(());
        };
        on_disk("discard", move || context.store.remove(&installed)).await
    }

    /// Removes the files of a request.
    pub(super) async fn clear(&mut self) -> Result<(), Reason> {
        let (result, fetched) = (self.result(), self.work.path().join("fetched"));
        let (context, cached) = (Arc::clone(&self.context), self.cache.end());
        on_disk("clear", move || {
            fs::remove_file_if_there(&result)?;
            for entry in fs::list(&fetched)? {
                fs::remove_file_if_there(&entry.path())?;
            }
            context.store.keep_only(&cached)
        })
        .await
    }

    /// Removes the work directory.
    pub(super) fn close(self) -> Result<(), Reason> {
        if let Ok(context) = Arc::try_unwrap(self.context) {
            context.sandbox.close().map_err(Reason::Sandbox)?;
        }
        self.work.remove().map_err(Reason::Files)
    }
}

fn make_directory(data: &Path, stop: &dyn Fn() -> bool) -> fs::Result<LeasedDirectory> {
    fs::create_dir_all(data)?;
    let data = fs::canonicalize(data)?;
    let processes = (sandbox::PROCESSES, PATIENCE, stop);
    for removed in fs::remove_abandoned(&data, WORK_PREFIX, Some(processes)) {
        tracing::info!(path = %removed.display(), "removed the work directory of a killed agent");
    }
    let work = LeasedDirectory::create(&data, WORK_PREFIX)?;
    for name in ["fetched", "store"] {
        fs::create_dir(&work.path().join(name))?;
    }
    Ok(work)
}

/// Selects namespaces if they work, otherwise the shared tree.
async fn choose(
    options: &CompilerOptions,
    work: &Path,
    cancel: &CancellationToken,
) -> Result<Sandbox, Reason> {
    let defaults = NamespaceOptions::default();
    let probe = Namespaces::probe(work, &options.vcap, &options.agent, defaults);
    let reason = match probe.await {
        Ok(namespaces) => {
            tracing::info!("isolation: namespace");
            let vcap = options.vcap.clone();
            let opening = runtime::spawn_blocking("scratch", move || {
                let kept = Sharing::Kept(vcap.kept_scratch());
                namespaces.with_scratch(Scratch::open(&kept, &[vcap.base()])?)
            });
            let namespaces = opening.await.map_err(Reason::Task)?;
            let namespaces = namespaces.map_err(Reason::Sandbox)?;
            let secrets = options.secrets.clone();
            return Ok(namespaces.with_secrets(secrets).into());
        }
        Err(error) => Chain(&error).to_string(),
    };
    tracing::info!(reason, "isolation: none");
    let (vcap, who, force) = (options.vcap.clone(), options.who.clone(), options.force);
    let cancel = cancel.clone();
    let taking = runtime::spawn_blocking("tree", move || -> Result<SharedTree, SandboxError> {
        SharedTree::take(&vcap, &who, force, &|| cancel.is_cancelled())
    });
    let tree = taking.await.map_err(Reason::Task)?;
    Ok(tree.map_err(Reason::Sandbox)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Vcap};

    #[tokio::test]
    async fn scratch_is_removed_after_the_packages() {
        let temporary = tempfile::tempdir().unwrap();
        let options = CompilerOptions {
            vcap: Vcap::new(&temporary.path().join("vcap")),
            environment: Environment::default(),
            // Without a child there are no namespaces.
            agent: temporary.path().join("none").into(),
            who: "a test".to_owned(),
            force: true,
            grace: Duration::ZERO,
            secrets: Vec::new(),
        };
        let cancel = CancellationToken::new();
        let mut work_directory = WorkDirectory::make(&options, &cancel).await.unwrap();
        assert!(!work_directory.forget_one().await.unwrap());
        let name = Name::parse("golang").unwrap();
        let sandbox = &work_directory.context.sandbox;
        let scratch = std::slice::from_ref(&name);
        let place = sandbox.enter(&name, &[], scratch, &|| {}).await.unwrap();
        let file = options.vcap.data().join("golang/file");
        fs::write(&file, b"").unwrap();
        sandbox.leave(&place).unwrap();
        drop(place);
        assert!(file.exists());
        assert!(work_directory.forget_one().await.unwrap());
        assert!(!file.exists());
        assert!(!work_directory.forget_one().await.unwrap());
        work_directory.close().unwrap();
    }
}
