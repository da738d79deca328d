//! The options for compiling packages in the daemon.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{CompilationConfig, Environment, Vcap};
use crate::machine::data::DataDirectory;
use crate::process::ForkServer;
use crate::sandbox::{Isolation, UserNamespace};

/// The options for compiling packages.
#[derive(Debug, Clone)]
pub struct CompilerOptions {
    /// The base directory.
    pub vcap: Vcap,
    /// The environment of scripts.
    pub environment: Environment,
    /// The fork server, a helper process that starts scripts.
    pub fork_server: ForkServer,
    /// The name of this agent in the lock file of the base directory. Other agents report it when they
    /// find the directory in use.
    pub who: String,
    /// Whether packages of another agent in the base directory may be removed. This is allowed on a
    /// compilation VM.
    pub removes_foreign: bool,
    /// The time between SIGTERM and SIGKILL when a script is stopped.
    pub grace: Duration,
    /// The absolute paths of files and directories with secrets. Scripts cannot read them if the
    /// isolation tier supports that.
    pub secrets: Vec<PathBuf>,
    /// How packages are isolated from each other and from the host.
    pub isolation: Isolation,
    /// The user namespace that this process has entered for isolation, if any.
    pub user_namespace: UserNamespace,
    /// What is uploaded and kept in addition to compiled packages.
    pub config: CompilationConfig,
    /// The data directory. If it was not usable at the start, it is prepared for the first compilation after that has been repaired.
    pub data: DataDirectory,
    /// The path of this program, which opens a shell in the kept directories of a failed package.
    pub program: PathBuf,
}
