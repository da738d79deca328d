//! The agent that a Director speaks to. It takes requests as bytes and gives replies as bytes, and knows neither NATS nor
//! HTTP.
//!
//! ```text
//! protocol     envelopes (pure)
//! dispatch     a request's method → an action: answered at once, or started as a task
//! tasks        what runs, what it came to, tasks.json
//! actions      one file for each kind of request
//! compilation  one order: fetch, compile, upload
//! ```

mod actions;
pub mod arguments;
pub mod compilation;
mod dispatch;
mod heartbeat;
pub mod logs_archive;
pub mod logs_order;
pub mod protocol;
mod recent;
pub mod tasks;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

pub use compilation::CompilerOptions;

use crate::blobs::{Blobs, BlobsError, BlobstoreSettings};
use crate::config::{Environment, Settings, UpdateSettings, Vcap};
use crate::machine::bootstrap::Platform;
use crate::machine::instance::Instance;
use crate::machine::settings::SettingsStore;
use crate::machine::vitals::VitalsCollector;
use compilation::Compiler;
use protocol::Request;
use recent::Recent;
use tasks::Tasks;

/// What is said of jobs, of which there are none: a Director waits for nothing else.
const JOB_STATE: &str = "running";

/// A reply, and what is known of its request.
#[derive(Debug)]
pub struct Answered {
    /// The method that was asked for.
    pub method: String,
    /// Where the reply goes.
    pub reply_to: String,
    /// The reply.
    pub body: Vec<u8>,
}

/// What an agent is made of.
#[derive(Debug)]
pub struct AgentOptions {
    /// How it compiles; its base directory is the agent's, too.
    pub compiler: CompilerOptions,
    /// What the agent itself was started with: proxies, where programs are found.
    pub environment: Environment,
    /// Whose machine it is.
    pub platform: Platform,
    /// Where settings come from.
    pub store: SettingsStore,
    /// The settings.
    pub settings: Settings,
    /// What a Director has changed in them.
    pub update: UpdateSettings,
}

/// The agent. Clones are one agent.
#[derive(Debug, Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    vcap: Vcap,
    instance: Instance,
    vitals: VitalsCollector,
    environment: Environment,
    platform: Platform,
    store: SettingsStore,
    live: RwLock<Arc<Live>>,
    blobs: RwLock<Arc<Blobs>>,
    tasks: Tasks,
    recent: Recent,
    compiler: Compiler,
    /// Held by what changes settings or state.
    changing: tokio::sync::Mutex<()>,
    /// How often the message bus has been changed.
    bus: watch::Sender<u64>,
}

/// The settings that hold.
#[derive(Debug)]
pub struct Live {
    /// What the CPI said.
    pub settings: Settings,
    /// What a Director has changed since.
    pub update: UpdateSettings,
}

impl Agent {
    /// An agent that goes on where the one before it ended: results are known again, and settings that were being changed are
    /// changed now.
    ///
    /// # Errors
    /// When the settings' blobstore has certificates that are none.
    pub fn start(options: AgentOptions) -> Result<Self, BlobsError> {
        let vcap = options.compiler.vcap.clone();
        let live = Live {
            settings: options.settings,
            update: options.update,
        };
        let blobs = blobs(&live, &vcap, &options.environment)?;
        let (tasks, interrupted) = Tasks::load(&vcap.tasks());
        let agent = Self {
            inner: Arc::new(Inner {
                instance: Instance::new(&vcap),
                vitals: VitalsCollector::new(&vcap),
                environment: options.environment,
                platform: options.platform,
                store: options.store,
                live: RwLock::new(Arc::new(live)),
                blobs: RwLock::new(Arc::new(blobs)),
                tasks,
                recent: Recent::default(),
                compiler: Compiler::new(options.compiler),
                changing: tokio::sync::Mutex::new(()),
                bus: watch::Sender::new(0),
                vcap,
            }),
        };
        for task in interrupted {
            let (agent, again) = (agent.clone(), task.again.clone());
            let resumed = agent.clone().tasks().resume(task, move |task| async move {
                match Request::parse(again.expose()) {
                    Ok(request) => {
                        let (method, arguments) = (&request.method, &request.arguments);
                        agent.carry_out(method, arguments, &task).await
                    }
                    Err(error) => Err(error.to_string()),
                }
            });
            if let Err(error) = resumed {
                tracing::warn!(%error, "a task of the last process is not taken up again");
            }
        }
        Ok(agent)
    }

    /// Makes ready to compile; see [`Compiler::prepare`].
    pub async fn prepare(&self) {
        self.inner.compiler.prepare().await;
    }

    /// The settings that hold.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        let live = self.inner.live.read();
        Arc::clone(&live.unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells when the message bus has to be connected to anew.
    #[must_use]
    pub fn bus_changes(&self) -> watch::Receiver<u64> {
        self.inner.bus.subscribe()
    }

    /// Stops all tasks, their scripts with them, and removes everything temporary. Tells whether all have ended in time.
    pub async fn stop(&self, limit: Duration) -> bool {
        let ended = self.inner.tasks.stop(limit).await;
        if ended {
            self.inner.compiler.close().await;
        }
        ended
    }

    fn vcap(&self) -> &Vcap {
        &self.inner.vcap
    }

    fn platform(&self) -> Platform {
        self.inner.platform
    }

    fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    fn compiler(&self) -> &Compiler {
        &self.inner.compiler
    }

    fn blobs(&self) -> Arc<Blobs> {
        let blobs = self.inner.blobs.read();
        Arc::clone(&blobs.unwrap_or_else(PoisonError::into_inner))
    }

    /// What fetches and stores blobs with these settings.
    fn blobs_of(&self, live: &Live) -> Result<Blobs, BlobsError> {
        blobs(live, &self.inner.vcap, &self.inner.environment)
    }

    /// Has new settings hold from now on.
    fn adopt(&self, live: Live, blobs: Blobs, bus_changed: bool) {
        let slot = self.inner.blobs.write();
        *slot.unwrap_or_else(PoisonError::into_inner) = Arc::new(blobs);
        let slot = self.inner.live.write();
        *slot.unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
        if bus_changed {
            self.inner.bus.send_modify(|changes| *changes += 1);
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
