//! Configuration of the agent: settings from the cloud and the Director, paths below the base
//! directory, environment variables, and types that hide secrets.

mod agent_config;
mod environment;
pub mod json;
mod secret;
mod settings;
mod update_settings;
mod vcap;

pub use agent_config::{
    AgentConfig, AgentConfigError, CompilationConfig, DiskSource, HttpSource, LinuxOptions, Source,
};
pub use environment::Environment;
pub(crate) use environment::mount_limit;
pub use secret::Secret;
pub use settings::{
    AgentId, AgentIdError, Blobstore, BoshEnv, Bus, BusCertificate, Hidden, MissingSetting,
    Network, Settings, SettingsError,
};
pub use update_settings::{DiskAssociation, Merged, UpdateSettings};
pub use vcap::{PackagePaths, Vcap, Visibility};

/// The prefix of the agent's work directories. It starts with a dot to hide them, because they may
/// be in a directory of results.
pub(crate) const WORK_PREFIX: &str = ".bosh-agent-work-";
