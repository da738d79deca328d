//! The daemon (`bosh-agent` as a service): loads settings, prepares the machine, connects to the
//! message bus, and handles the requests of a Director until it is stopped.

mod bus;
mod stand_aside;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, AgentOptions, CompilerOptions};
use crate::blobs::BlobsError;
use crate::config::{
    AgentConfig, AgentConfigError, DiskSource, Environment, MissingSetting, Settings, Source, Vcap,
};
use crate::diag::Chain;
use crate::machine::bootstrap::{self, BootstrapError, Platform};
use crate::machine::data::DataDirectory;
use crate::machine::settings::{LoadError, LoadedSettings, SettingsStore};
use crate::machine::sources::NoSource;
use crate::process::ForkServer;
use crate::sandbox::{Isolation, PathLookup, SandboxError, UserNamespace};
use crate::transport::TransportError;
use crate::{fs, runtime, sandbox};
use bus::BusConnection;
pub(crate) use stand_aside::GO_AGENT;
pub use stand_aside::{ServingAgent, StartContext, choose_agent, find_go_agent};

/// The time between SIGTERM and SIGKILL when a script is stopped, because the daemon stops or its task was canceled.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long a stopping daemon waits for the end of its tasks. Then it removes the work directory, or leaves this to the next start if tasks
/// are still running, and closes its connections. Both have time limits of their own. In total, the daemon must stop within ninety seconds,
/// because systemd then kills it.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// The options of a daemon.
#[derive(Debug)]
pub struct DaemonOptions {
    /// The kind of machine.
    pub platform: Platform,
    /// The path of the agent's configuration, `agent.json`.
    pub config: PathBuf,
    /// The base directory.
    pub vcap: Vcap,
    /// The daemon's environment.
    pub environment: Environment,
    /// The fork server, a helper process that starts scripts.
    pub fork_server: ForkServer,
    /// The name of this process in the lock file of the shared package directories. Another agent that finds the lock held reports this name.
    pub who: String,
    /// How packages are isolated from each other and from the host.
    pub isolation: Isolation,
    /// The user namespace that this process has entered for isolation.
    pub user_namespace: UserNamespace,
    /// The path of this program.
    pub program: PathBuf,
}

/// Why a daemon ended without being stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The directories of the machine cannot be used; for example, a file system over one of them does not respond.
    #[error("Checking the directories of the machine")]
    Directories(#[from] SandboxError),
    /// The configuration cannot be read.
    #[error("the agent's configuration cannot be read")]
    ReadConfig(#[source] fs::Error),
    /// The configuration is invalid.
    #[error("the agent's configuration `{}` cannot be used", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why the file is invalid.
        source: AgentConfigError,
    },
    /// The configuration contains no usable source of settings.
    #[error("the agent's configuration does not say where settings come from")]
    NoSource(#[from] NoSource),
    /// No settings could be loaded.
    #[error("Loading settings")]
    Settings(#[from] LoadError),
    /// The machine could not be prepared.
    #[error("Preparing the machine")]
    Machine(#[from] BootstrapError),
    /// Another agent uses this base directory.
    #[error("another agent is running: it holds the lock `{}`", path.display())]
    Running {
        /// The lock file.
        path: PathBuf,
    },
    /// A task of the start panicked.
    #[error("Starting the agent")]
    Task(#[from] runtime::TaskFailed),
    /// The blobstore's settings cannot be used.
    #[error("Getting blobstore")]
    Blobstore(#[from] BlobsError),
    /// The settings lack a value for the message bus.
    #[error("Getting mbus handler")]
    Missing(#[from] MissingSetting),
    /// The message bus cannot be used.
    #[error("Getting mbus handler")]
    Bus(#[from] TransportError),
}

impl DaemonError {
    /// What the user can do about the error.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let Self::Directories(error) = self else {
            return None;
        };
        error.hint()
    }
}

/// Runs the daemon until `stop` is canceled.
///
/// # Errors
/// The daemon could not start, or could not continue to handle requests. Being stopped is not an
/// error.
pub async fn run(options: DaemonOptions, stop: &CancellationToken) -> Result<(), DaemonError> {
    // Check the directories before a file in them is opened.
    let checked =
        check_directories(&options.vcap, &options.fork_server, options.isolation, stop).await;
    if stop.is_cancelled() {
        return Ok(());
    }
    let is_data_usable = checked?;
    let config = read_config(&options.config)?;
    let _lock = lock(&options.vcap)?;
    let secrets = secrets(&options.config, &config);
    let store = SettingsStore::new(&options.vcap, &config, &options.environment)?;
    let loaded = match store.load(stop).await {
        Err(LoadError::Stopped) => return Ok(()),
        loaded => loaded?,
    };
    tracing::info!(agent_id = %loaded.settings.agent_id, from = loaded.origin, "loaded the settings");
    check_settings(&loaded, &config)?;
    let data = prepare(&options, is_data_usable, stop).await?;
    let agent = Agent::start(AgentOptions {
        compiler: compiler(&options, secrets, &loaded.settings, config, data.clone()),
        environment: options.environment.clone(),
        platform: options.platform,
        root: "/".into(),
        check_urls: bus::check_urls,
        store,
        settings: loaded.settings,
        update: loaded.update,
    })?;
    let mut connection = BusConnection::start(&agent, data).await?;
    let stop_starting = stop.child_token();
    let starting = runtime::spawn("compiler", {
        let (agent, cancel) = (agent.clone(), stop_starting.clone());
        async move { agent.start_compiler(&cancel).await }
    });
    let served = connection.serve(&agent, stop).await;
    tracing::info!("stopping");
    stop_starting.cancel();
    drop(starting);
    if !agent.stop(STOP_WITHIN).await {
        tracing::error!("shutdown timed out");
    }
    connection.stop().await;
    Ok(served?)
}

/// Checks that the file systems that are mounted over the machine's directories respond. Returns whether the data directory can be used:
/// `false` if a script of a killed daemon has replaced it with a link or a mount. Then [`bootstrap::bootstrap`] must not run, because it
/// would change and remove files behind the link or mount. The daemon serves nevertheless; compile requests fail and tell the Director why.
async fn check_directories(
    vcap: &Vcap,
    fork_server: &ForkServer,
    isolation: Isolation,
    stop: &CancellationToken,
) -> Result<bool, DaemonError> {
    let (vcap, fork_server, cancel) = (vcap.clone(), fork_server.clone(), stop.clone());
    let checking = runtime::spawn_blocking("mounts", move || {
        let lookup = PathLookup::at_mounts(&fork_server, &cancel);
        sandbox::check_mounts(&vcap, &bootstrap::directories(&vcap), &lookup)?;
        isolation.check_data(&vcap, &lookup)
    });
    match checking.await? {
        Ok(_) => Ok(true),
        Err(error) if error.is_data_replaced() => {
            let hint = error.hint();
            tracing::error!(hint, "compile requests will fail: {}", Chain(&error));
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates the machine's directories and removes the leftovers of a killed agent. If the data directory is not usable, creates nothing, and
/// removes only the leftovers outside of it.
async fn prepare(
    options: &DaemonOptions,
    is_data_usable: bool,
    stop: &CancellationToken,
) -> Result<DataDirectory, DaemonError> {
    let (vcap, fork_server, isolation) = (
        options.vcap.clone(),
        options.fork_server.clone(),
        options.isolation,
    );
    let cancel = stop.clone();
    let check = move || {
        let lookup = PathLookup::at_mounts(&fork_server, &cancel);
        isolation.check_data(&vcap, &lookup).is_ok()
    };
    let data = DataDirectory::unprepared(&options.vcap, options.platform, check);
    let (own, vcap) = (data.clone(), options.vcap.clone());
    let preparing = runtime::spawn_blocking("bootstrap", move || {
        if is_data_usable {
            return own.prepare();
        }
        bootstrap::remove_leftovers_outside_data(&vcap);
        Ok(())
    });
    preparing.await??;
    Ok(data)
}

/// Locks the base directory against a second agent. Two agents would remove each other's temporary files and answer the
/// same requests.
fn lock(vcap: &Vcap) -> Result<Option<File>, DaemonError> {
    let path = vcap.agent_lock();
    match fs::create_dir_all(&vcap.bosh()).and_then(|()| fs::try_lock_file(&path)) {
        Ok(Some(held)) => Ok(Some(held)),
        Ok(None) => Err(DaemonError::Running { path }),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "failed to lock the base directory: a second agent would not be detected");
            Ok(None)
        }
    }
}

/// The files to hide from scripts because they may contain secrets: `agent.json`, which may contain passwords of metadata services, and the
/// settings files that it names.
fn secrets(path: &Path, config: &AgentConfig) -> Vec<PathBuf> {
    let sources = config.sources.iter().flat_map(|source| match source {
        Source::File { path } => vec![path.clone()],
        Source::Disk(source) => secrets_on_disks(source),
        Source::Http(_) | Source::Unsupported { .. } => Vec::new(),
    });
    std::iter::once(path.to_owned())
        .chain(sources)
        .filter_map(|path| std::path::absolute(path).ok())
        .collect()
}

/// The files with settings on disks that another program has mounted, and images of disks. Devices are not included: to hide one with
/// Landlock, the rules would have to list all other entries of `/dev`, and scripts could not use later ones.
fn secrets_on_disks(source: &DiskSource) -> Vec<PathBuf> {
    let disks = source.disks.iter().filter_map(|disk| {
        let found = fs::metadata(disk).ok()?;
        match found.is_dir() {
            true => Some(disk.join(source.file.strip_prefix("/").unwrap_or(&source.file))),
            false => found.is_file().then(|| disk.clone()),
        }
    });
    disks.collect()
}

/// Checks that the settings say how to connect to the message bus. Logs a warning if this agent should leave the VM to the Go agent, but
/// cannot.
fn check_settings(loaded: &LoadedSettings, config: &AgentConfig) -> Result<(), MissingSetting> {
    loaded.settings.check_bus(&loaded.update)?;
    if !loaded.settings.is_for_compilation() && config.compilation.stand_aside {
        tracing::warn!(
            "the settings are not those of a compilation VM, and the Go agent is not installed as `{GO_AGENT}`: serving compilation only"
        );
    }
    Ok(())
}

/// The options for compiling packages.
fn compiler(
    options: &DaemonOptions,
    secrets: Vec<PathBuf>,
    settings: &Settings,
    config: AgentConfig,
    data: DataDirectory,
) -> CompilerOptions {
    CompilerOptions {
        vcap: options.vcap.clone(),
        environment: bootstrap::script_environment(
            &options.vcap,
            options.platform,
            &options.environment,
        ),
        fork_server: options.fork_server.clone(),
        who: options.who.clone(),
        // On a compilation VM, packages of another agent may be removed.
        removes_foreign: settings.is_for_compilation(),
        grace: GRACE,
        secrets,
        isolation: options.isolation,
        user_namespace: options.user_namespace.clone(),
        config: config.compilation,
        data,
        program: options.program.clone(),
    }
}

fn read_config(path: &Path) -> Result<AgentConfig, DaemonError> {
    let text = fs::read(path).map_err(DaemonError::ReadConfig)?;
    AgentConfig::parse(&text).map_err(|source| DaemonError::Config {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_in_mounted_disks_and_images_are_secrets() {
        let scratch = tempfile::tempdir().unwrap();
        let (mounted, image) = (scratch.path().join("mounted"), scratch.path().join("image"));
        fs::create_dir(&mounted).unwrap();
        fs::write(&image, b"").unwrap();
        let disks = vec![
            mounted.clone(),
            image.clone(),
            "/dev/null".into(),
            scratch.path().join("missing"),
        ];
        let config = AgentConfig {
            sources: vec![Source::Disk(DiskSource {
                kind: "ConfigDrive",
                disks,
                file: "/ec2/user-data".into(),
            })],
            ..AgentConfig::default()
        };
        let agent_json = scratch.path().join("agent.json");
        let expected = [agent_json.clone(), mounted.join("ec2/user-data"), image];
        assert_eq!(secrets(&agent_json, &config), expected);
    }
}
