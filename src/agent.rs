//! Handles the requests of a Director, the BOSH server that controls this machine. It turns the
//! bytes of a request into the bytes of a reply, and does not know NATS or HTTP. An *action*
//! implements a method of the protocol; a *task* is an action whose result the Director polls for.
//!
//! ```text
//! protocol     envelopes of requests and replies (pure)
//! method       the names of methods, and the action of each
//! dispatch     runs the action of a request: at once, or as a task
//! actions      one file for each method
//! tasks        running tasks, results, tasks.json
//! compilation  fetches, compiles and uploads one package at a time
//! ```

mod actions;
pub mod arguments;
pub mod compilation;
mod dispatch;
mod heartbeat;
pub mod log_filters;
pub mod logs_archive;
pub mod logs_request;
mod method;
pub mod protocol;
mod recent;
pub mod short_requests;
pub mod tasks;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use compilation::CompilerOptions;

use crate::blobs::{Blobs, BlobsError, BlobstoreSettings};
use crate::config::{Environment, Secret, Settings, UpdateSettings, Vcap};
use crate::machine::bootstrap::Platform;
use crate::machine::data::DataDirectory;
use crate::machine::instance::Instance;
use crate::machine::program::Programs;
use crate::machine::settings::SettingsStore;
use crate::machine::vitals::VitalsCollector;
use compilation::PackageCompiler;
use recent::RecentRequests;
use tasks::Tasks;

/// The reported state of this machine's jobs. The machine has no jobs, but a Director waits for
/// this value.
const JOB_STATE: &str = "running";

/// A reply, and what the transport needs to know about the request.
#[derive(Debug)]
pub struct Answer {
    /// The request's method, for the audit log.
    pub method: String,
    /// The NATS subject of the reply. HTTPS ignores it.
    pub reply_to: String,
    /// The serialized reply.
    pub body: Vec<u8>,
}

/// Checks the URLs of a message bus.
pub type CheckUrls = fn(Vec<Secret>) -> Result<(), String>;

/// The options of an agent.
#[derive(Debug)]
pub struct AgentOptions {
    /// How the agent compiles. These options also contain the agent's base directory.
    pub compiler: CompilerOptions,
    /// The agent's environment variables, such as those for proxies and `PATH`.
    pub environment: Environment,
    /// The kind of machine.
    pub platform: Platform,
    /// The root directory of the system, in which users and host names are changed, and whose programs are run.
    pub root: PathBuf,
    /// Checks the URLs of a message bus. The error is a text without secrets.
    pub check_urls: CheckUrls,
    /// Where settings are loaded from and saved.
    pub store: SettingsStore,
    /// The settings from the CPI.
    pub settings: Settings,
    /// The Director's changes to the settings.
    pub update: UpdateSettings,
}

/// The agent. Clones share its state.
#[derive(Debug, Clone)]
pub struct Agent {
    state: Arc<AgentState>,
}

#[derive(Debug)]
struct AgentState {
    vcap: Vcap,
    data: DataDirectory,
    instance: Instance,
    vitals: VitalsCollector,
    environment: Environment,
    platform: Platform,
    root: PathBuf,
    check_urls: CheckUrls,
    store: SettingsStore,
    live: RwLock<Arc<Live>>,
    /// The client for the blobstore in the settings. It is replaced when that blobstore changes.
    blobs: watch::Sender<Arc<Blobs>>,
    tasks: Tasks,
    recent: RecentRequests,
    /// The latest requests that start tasks. Short requests, which are many, do not displace them.
    recent_tasks: RecentRequests,
    compiler: PackageCompiler,
    /// Locked while an action changes the settings or the applied spec (the state that the Director
    /// wants this machine to have).
    changing: tokio::sync::Mutex<()>,
    /// Locked while an action changes users or host names.
    changing_system: tokio::sync::Mutex<()>,
    /// Counts the changes of the message bus in the settings.
    bus: watch::Sender<u64>,
    /// Counts the announcements of a shutdown to the health monitor.
    shutdowns: watch::Sender<u64>,
}

/// The settings in use.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    /// The settings from the CPI.
    pub settings: Settings,
    /// The Director's changes to the CPI's settings.
    pub update: UpdateSettings,
}

impl Agent {
    /// Starts an agent. Loads the task results of the agent's previous process, and resumes an
    /// `update_settings` that the end of that process interrupted.
    ///
    /// # Errors
    /// If the blobstore in the settings has invalid certificates.
    pub fn start(options: AgentOptions) -> Result<Self, BlobsError> {
        let vcap = options.compiler.vcap.clone();
        let live = Live {
            settings: options.settings,
            update: options.update,
        };
        let blobs = blobs(&live, &vcap, &options.environment)?;
        let (tasks, interrupted) = Tasks::load(&vcap.tasks());
        let agent = Self {
            state: Arc::new(AgentState {
                instance: Instance::new(&vcap),
                vitals: VitalsCollector::new(&vcap),
                environment: options.environment,
                platform: options.platform,
                root: options.root,
                data: options.compiler.data.clone(),
                check_urls: options.check_urls,
                store: options.store,
                live: RwLock::new(Arc::new(live)),
                blobs: watch::Sender::new(Arc::new(blobs)),
                tasks,
                recent: RecentRequests::default(),
                recent_tasks: RecentRequests::default(),
                compiler: PackageCompiler::new(options.compiler),
                changing: tokio::sync::Mutex::new(()),
                changing_system: tokio::sync::Mutex::new(()),
                bus: watch::Sender::new(0),
                shutdowns: watch::Sender::new(0),
                vcap,
            }),
        };
        for task in interrupted {
            if let Err(error) = agent.resume(task) {
                tracing::warn!(%error, "failed to resume a task of the last process");
            }
        }
        Ok(agent)
    }

    /// Starts the compiler; see [`PackageCompiler::start`].
    pub(crate) async fn start_compiler(&self, cancel: &CancellationToken) {
        self.state.compiler.start(cancel).await;
    }

    /// The settings in use.
    #[must_use]
    pub(crate) fn live(&self) -> Arc<Live> {
        let live = self.state.live.read();
        Arc::clone(&live.unwrap_or_else(PoisonError::into_inner))
    }

    /// Notifies the receiver when the message bus in the settings changes, so that the connection
    /// must be replaced.
    #[must_use]
    pub(crate) fn bus_changes(&self) -> watch::Receiver<u64> {
        self.state.bus.subscribe()
    }

    /// Notifies the receiver when the health monitor must learn that this machine will be shut down.
    #[must_use]
    pub(crate) fn shutdowns(&self) -> watch::Receiver<u64> {
        self.state.shutdowns.subscribe()
    }

    fn announce_shutdown(&self) {
        self.state
            .shutdowns
            .send_modify(|shutdowns| *shutdowns += 1);
    }

    /// Cancels all tasks, which also ends their scripts, and removes temporary files. Returns
    /// whether all tasks ended within `limit`.
    pub async fn stop(&self, limit: Duration) -> bool {
        let ended = self.state.tasks.stop(limit).await;
        if ended {
            self.state.compiler.close().await;
        }
        ended
    }

    fn vcap(&self) -> &Vcap {
        &self.state.vcap
    }

    /// The data directory. Its methods block.
    fn data(&self) -> DataDirectory {
        self.state.data.clone()
    }

    /// The programs of the system.
    fn programs(&self) -> Programs {
        Programs {
            root: self.state.root.clone(),
            environment: self.state.environment.clone(),
        }
    }

    pub(crate) fn platform(&self) -> Platform {
        self.state.platform
    }

    fn tasks(&self) -> &Tasks {
        &self.state.tasks
    }

    fn compiler(&self) -> &PackageCompiler {
        &self.state.compiler
    }

    fn blobs(&self) -> Arc<Blobs> {
        Arc::clone(&self.state.blobs.borrow())
    }

    /// The blobstore client for transfers that continue with the new client after a change of the settings.
    fn changing_blobs(&self) -> watch::Receiver<Arc<Blobs>> {
        self.state.blobs.subscribe()
    }

    /// A blobstore client for these settings.
    fn blobs_of(&self, live: &Live) -> Result<Blobs, BlobsError> {
        blobs(live, &self.state.vcap, &self.state.environment)
    }

    /// Puts new settings into use. `blobs` is the client for a changed blobstore.
    fn adopt(&self, live: Live, blobs: Option<Blobs>, bus_changed: bool) {
        if let Some(blobs) = blobs {
            self.state.blobs.send_replace(Arc::new(blobs));
        }
        let slot = self.state.live.write();
        *slot.unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
        if bus_changed {
            self.state.bus.send_modify(|changes| *changes += 1);
        }
    }
}

fn blobs(live: &Live, vcap: &Vcap, environment: &Environment) -> Result<Blobs, BlobsError> {
    let settings = live
        .settings
        .blobstore(&live.update)
        .map(|blobstore| BlobstoreSettings {
            provider: blobstore.provider.clone(),
            options: blobstore.options.expose().clone().into(),
        });
    Blobs::new(settings.as_ref(), vcap, environment)
}
