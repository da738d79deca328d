//! The options of the compiler.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Environment, Vcap};
use crate::process::ForkServer;
use crate::sandbox::{Isolation, UserNamespace};

/// What the compiler needs.
#[derive(Debug, Clone)]
pub struct CompilerOptions {
    /// The base directory.
    pub vcap: Vcap,
    /// The environment of scripts.
    pub environment: Environment,
    /// Forks the parents of scripts.
    pub agent: ForkServer,
    /// The name of this agent in the marker that other agents read.
    pub who: String,
    /// Whether to remove packages of another agent, which is allowed on a compilation VM.
    pub force: bool,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Absolute paths of files and directories with secrets, which scripts cannot read if the isolation tier allows it.
    pub secrets: Vec<PathBuf>,
    /// How packages are isolated from each other and from the host.
    pub isolation: Isolation,
    /// The user namespace that this process has entered for isolation.
    pub user_namespace: UserNamespace,
}
