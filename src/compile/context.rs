//! What packages are compiled with.

use std::sync::Arc;
use std::time::Duration;

use super::event::Event;
use super::second_run::SecondRun;
use super::store::Store;
use crate::config::{Environment, Vcap};
use crate::process::{ForkServer, Jobserver};
use crate::sandbox::Sandbox;

/// What the core works with. Shared by all packages of a run.
pub struct Context {
    /// The tree as scripts see it.
    pub vcap: Vcap,
    /// What keeps packages apart.
    pub sandbox: Sandbox,
    /// Where installed packages are kept for those compiled against them.
    pub store: Store,
    /// What scripts inherit.
    pub environment: Environment,
    /// Forks the parents of scripts.
    pub agent: ForkServer,
    /// How long processes get between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// How much nicer than this program scripts are, from 0 to 19.
    pub nice: i32,
    /// How long a script may run; `None` for as long as it takes.
    pub limit: Option<Duration>,
    /// When a script that failed under rules is run again without them.
    pub second_run: SecondRun,
    /// The gzip level of compiled blobs.
    pub compression_level: u32,
    /// The jobs that all scripts share, where that is asked for.
    pub jobserver: Option<Jobserver>,
    /// Hears what happens.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("vcap", &self.vcap)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}
