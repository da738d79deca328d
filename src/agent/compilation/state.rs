//! The state that the daemon keeps between compile requests: its work directory, its sandbox,
//! installed packages, and scratch directories (directories in which the scripts of a package and
//! of its dependents share files such as a compiler's cache). The work directory is below the data
//! directory. Scratch directories remain when the agent ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::cache::PackageCache;
use super::failure::Reason;
use super::on_disk::on_disk;
use super::options::CompilerOptions;
use super::phases::Phases;
use crate::compile::{
    Context, Event, Keep, KeptSettings, SecondRun, SourceDates, Store, WorkDirectory,
};
use crate::diag::Chain;
use crate::fs::{self, MadeDirectories};
use crate::process::{TAIL_LINES, TimeLimits};
use crate::release::{MultiDigest, Name};
use crate::runtime;
use crate::sandbox::{PathLookup, Sandbox, SandboxError, Sharing, SilentMount, Tier, TierOptions};

/// The subdirectory of the work directory for fetched blobs.
const FETCHED: &str = "fetched";

/// The gzip level of compiled packages, as in the Go agent.
const COMPRESSION_LEVEL: u32 = 6;

/// The receiver of the events of the current request; `None` between requests.
type Listener = Arc<Mutex<Option<Arc<Phases>>>>;

/// The state for compiling packages.
#[derive(Debug)]
pub(super) struct CompilerState {
    work: WorkDirectory,
    context: Arc<Context>,
    listener: Listener,
    pub(super) cache: PackageCache,
}

impl CompilerState {
    /// Waits until the processes of a killed agent have ended, or until `cancel`. Removes its work
    /// directory, and creates a new one.
    pub(super) async fn make(
        options: &CompilerOptions,
        cancel: &CancellationToken,
    ) -> Result<Self, Reason> {
        let (isolation, vcap) = (options.isolation, options.vcap.clone());
        let (fork_server, own) = (options.fork_server.clone(), cancel.clone());
        let checking = runtime::spawn_blocking("check", move || {
            let lookup = PathLookup::at_mounts(&fork_server, &own);
            isolation.check_data(&vcap, &lookup)
        });
        let checked = checking.await.map_err(Reason::Task)?;
        let silent = checked.map_err(Reason::Sandbox)?;
        let data = options.data.clone();
        let preparing = runtime::spawn_blocking("bootstrap", move || data.prepare());
        let prepared = preparing.await.map_err(Reason::Task)?;
        prepared.map_err(Reason::Machine)?;
        let (data, own) = (options.vcap.data(), cancel.clone());
        let making = on_disk("work directory", move || {
            fs::create_dir_all(&data)?;
            let made = MadeDirectories::default();
            WorkDirectory::make(&data, made, &[FETCHED], &|| own.is_cancelled())
        });
        let work = making.await?;
        let sandbox = choose((options, silent), work.path(), cancel).await;
        let sandbox = sandbox.map_err(Reason::Sandbox)?;
        let listener = Listener::default();
        let receiver = Arc::clone(&listener);
        let context = Context {
            vcap: options.vcap.clone(),
            sandbox,
            store: Store::new(&work.store()),
            environment: options.environment.clone(),
            fork_server: options.fork_server.clone(),
            grace: options.grace,
            source_dates: SourceDates::None,
            nice: 0,
            limits: TimeLimits::default(),
            second_run: SecondRun::AUTO,
            keep: keep(options).await?,
            shells: None,
            log_lines: TAIL_LINES,
            script_lines: None,
            jobserver: None,
            compression_level: COMPRESSION_LEVEL,
            events: Arc::new(move |event: Event| {
                let listener = receiver.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(phases) = listener.as_ref() {
                    phases.handle_event(&event);
                }
            }),
        };
        Ok(Self {
            work,
            context: Arc::new(context),
            listener,
            cache: PackageCache::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.work.path()
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Sets the receiver of events.
    pub(super) fn listen(&self, phases: Option<Arc<Phases>>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = phases;
    }

    /// The path of a package's blob.
    pub(super) fn fetched(&self, package: &Name) -> PathBuf {
        self.work.path().join(FETCHED).join(package.as_str())
    }

    /// The path of the compiled package.
    pub(super) fn result(&self) -> PathBuf {
        self.work.path().join("result.tgz")
    }

    /// The path of the file with both logs of the package, which is uploaded.
    pub(super) fn log(&self) -> PathBuf {
        self.work.path().join("log.txt")
    }

    /// Removes the directories of the package that failed last. A failure is logged, because compiling does not need them.
    pub(super) async fn remove_kept(&self) {
        let Some(keep) = &self.context.keep else {
            return;
        };
        let directory = keep.directory.clone();
        if let Err(error) = on_disk("kept", move || make_empty(&directory)).await {
            tracing::warn!(error = %Chain(&error), "failed to remove the directories of the package that failed last");
        }
    }

    /// Frees space: removes the least recently used package or, if the request needs all packages,
    /// the contents of scratch directories. Returns `false` if there was nothing to remove.
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
        tracing::info!(removed = %name, "removed an installed package for lack of space");
        Ok(true)
    }

    /// Removes an installed package whose files were changed.
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

    /// Waits while there is less free space than `needed` (in bytes) and directories of compiled packages are being removed: up to a
    /// minute, and until `cancel`.
    pub(super) async fn wait_for_space(
        &self,
        needed: u64,
        cancel: &CancellationToken,
    ) -> Result<(), Reason> {
        let (context, cancel) = (Arc::clone(&self.context), cancel.clone());
        on_disk("remove", move || {
            let stop = || cancel.is_cancelled();
            context.sandbox.wait_for_space(needed, &stop);
            Ok(())
        })
        .await
    }

    /// Removes the files of the last request.
    pub(super) async fn clear(&mut self) -> Result<(), Reason> {
        let (result, log) = (self.result(), self.log());
        let fetched = self.work.path().join(FETCHED);
        let (context, cached) = (Arc::clone(&self.context), self.cache.end());
        let clearing = runtime::spawn_blocking("clear", move || {
            fs::remove_file_if_there(&result)?;
            fs::remove_file_if_there(&log)?;
            for entry in fs::list(&fetched)? {
                fs::remove_file_if_there(&entry.path())?;
            }
            context.store.keep_only(&cached)?;
            context.sandbox.remove_unused_copies()
        });
        let cleared = clearing.await.map_err(Reason::Task)?;
        cleared.map_err(Reason::Sandbox)
    }

    /// Removes the work directory.
    pub(super) fn close(self) -> Result<(), Reason> {
        Context::close(self.context).map_err(Reason::Sandbox)?;
        self.work.remove().map_err(Reason::Files)
    }
}

/// How the directories of failed packages are kept, if the configuration demands it.
async fn keep(options: &CompilerOptions) -> Result<Option<Keep>, Reason> {
    if !options.config.keep_failed {
        return Ok(None);
    }
    let directory = options.vcap.kept_failed();
    let own = directory.clone();
    on_disk("kept", move || make_empty(&own)).await?;
    Ok(Some(Keep {
        directory,
        settings: KeptSettings {
            base: options.vcap.base().display().to_string(),
            readonly_dependencies: false,
            protect_host: false,
            network: true,
            nice: 0,
            grace: options.grace,
        },
        program: options.program.clone(),
    }))
}

/// Replaces the directory with an empty one. A script that runs without rules may have replaced it with a link: the link is removed, and
/// the files behind it stay.
fn make_empty(directory: &Path) -> fs::Result<()> {
    fs::remove_tree(directory)?;
    fs::create_dir_all_with_mode(directory, 0o700)
}

/// Chooses the isolation tier, logs it, and opens its sandbox.
async fn choose(
    (options, silent): (&CompilerOptions, Vec<SilentMount>),
    work: &Path,
    cancel: &CancellationToken,
) -> Result<Sandbox, SandboxError> {
    let tier_options = TierOptions {
        isolation: options.isolation,
        user_namespace: options.user_namespace.clone(),
        readonly_dependencies: false,
        protect_host: false,
        network: true,
        is_parallel: false,
        scratch: Sharing::Kept(options.vcap.kept_scratch()),
        secrets: options.secrets.clone(),
        vcap: options.vcap.clone(),
        image: None,
        environment: options.environment.clone(),
        fork_server: options.fork_server.clone(),
        silent,
        who: options.who.clone(),
        removes_foreign: options.removes_foreign,
    };
    let tier = Tier::choose(&tier_options, work, cancel).await?;
    tracing::info!("isolation: {}", tier.description());
    tier.open(&tier_options, work, cancel).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{CompilationConfig, Environment, Vcap};
    use crate::machine::data::DataDirectory;
    use crate::sandbox::{Isolation, SharedTree, UserNamespace};

    fn options(vcap: Vcap, isolation: Isolation) -> CompilerOptions {
        CompilerOptions {
            // This program does not exist, so no child can create namespaces.
            fork_server: vcap.base().join("none").into(),
            data: DataDirectory::prepared(&vcap),
            vcap,
            environment: Environment::default(),
            who: "a test".to_owned(),
            removes_foreign: true,
            grace: Duration::ZERO,
            secrets: Vec::new(),
            isolation,
            user_namespace: UserNamespace::Outside,
            config: CompilationConfig::default(),
            program: PathBuf::new(),
        }
    }

    #[tokio::test]
    async fn no_work_directory_behind_the_link_of_a_killed_run() {
        let temporary = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&temporary.path().join("vcap"));
        drop(SharedTree::take(&vcap, "killed", true, &|| false).unwrap());
        fs::rename(&vcap.data(), &temporary.path().join("moved")).unwrap();
        let theirs = temporary.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::symlink(&theirs, &vcap.data()).unwrap();
        let before = fs::metadata(&theirs).unwrap().modified().unwrap();
        let cancel = CancellationToken::new();
        for isolation in [Isolation::Auto, Isolation::Landlock, Isolation::None] {
            let made = CompilerState::make(&options(vcap.clone(), isolation), &cancel).await;
            let error = made.unwrap_err();
            assert!(
                matches!(&error, Reason::Sandbox(SandboxError::LeftLink { .. })),
                "{error:?}"
            );
        }
        assert_eq!(fs::metadata(&theirs).unwrap().modified().unwrap(), before);
    }

    #[tokio::test]
    async fn scratch_is_removed_after_the_packages() {
        let temporary = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&temporary.path().join("vcap"));
        let options = options(vcap, Isolation::Auto);
        let cancel = CancellationToken::new();
        let mut state = CompilerState::make(&options, &cancel).await.unwrap();
        assert!(!state.forget_one().await.unwrap());
        let name = Name::parse("golang").unwrap();
        let sandbox = &state.context.sandbox;
        let scratch = std::slice::from_ref(&name);
        let place = sandbox
            .enter(&name, &[], scratch, &|| {}, &cancel)
            .await
            .unwrap();
        let file = options.vcap.data().join("golang/file");
        fs::write(&file, b"").unwrap();
        sandbox.leave(&place).unwrap();
        drop(place);
        assert!(file.exists());
        assert!(state.forget_one().await.unwrap());
        assert!(!file.exists());
        assert!(!state.forget_one().await.unwrap());
        state.close().unwrap();
    }
}
