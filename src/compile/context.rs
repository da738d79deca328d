//! What all packages of a run share: the sandbox that isolates their scripts, the store of installed packages, and settings.

use std::sync::Arc;
use std::time::Duration;

use super::event::Event;
use super::kept::Keep;
use super::second_run::SecondRun;
use super::shell::Shells;
use super::source_date::SourceDates;
use super::store::Store;
use crate::config::{Environment, Vcap};
use crate::process::{ForkServer, Jobserver, LineSink, TimeLimits};
use crate::release::Name;
use crate::sandbox::{Sandbox, SandboxError};

/// Creates the receiver of the lines that a package's script prints. A receiver that blocks delays the script.
pub type ScriptLines = Arc<dyn Fn(&Name) -> LineSink + Send + Sync>;

/// Everything that the packages of a run share.
pub struct Context {
    /// The base directory as scripts see it.
    pub vcap: Vcap,
    /// Isolates packages.
    pub sandbox: Sandbox,
    /// The installed packages, for their dependents.
    pub store: Store,
    /// The environment that scripts inherit.
    pub environment: Environment,
    /// The source dates of packages.
    pub source_dates: SourceDates,
    /// The fork server (`sandbox-server`), which starts the parent process of each script.
    pub fork_server: ForkServer,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// By how much the niceness of scripts is raised, from 0 to 19.
    pub nice: i32,
    /// The time limits of a script.
    pub limits: TimeLimits,
    /// When a script that failed under Landlock rules is run again without them.
    pub second_run: SecondRun,
    /// Where to keep the directories of failed packages. `None` if they are not kept.
    pub keep: Option<Keep>,
    /// Opens interactive shells. `None` if the user did not request shells.
    pub shells: Option<Shells>,
    /// How many of the last lines of a failed script are reported.
    pub log_lines: usize,
    /// The gzip level of compiled blobs.
    pub compression_level: u32,
    /// The make job server that all scripts share, if there is one.
    pub jobserver: Option<Jobserver>,
    /// Receives every line that scripts print. `None` if the caller does not show output.
    pub script_lines: Option<ScriptLines>,
    /// Receives all events.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

impl Context {
    /// Removes everything that the sandbox made. Call this when all packages have ended.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn close(self: Arc<Self>) -> Result<(), SandboxError> {
        // If another reference exists, remove nothing: a package could not be stopped and still uses the sandbox.
        Arc::try_unwrap(self).map_or(Ok(()), |context| context.sandbox.close())
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("vcap", &self.vcap)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}
