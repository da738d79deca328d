//! What was set: the settings of the agent, every path below the base directory, the environment,
//! and secrets.

mod agent_config;
mod environment;
pub mod json;
mod secret;
mod settings;
mod update_settings;
mod vcap;

pub use agent_config::{AgentConfig, AgentConfigError, HttpSource, LinuxOptions, Source};
pub use environment::Environment;
pub use secret::Secret;
pub use settings::{
    AgentId, AgentIdError, Blobstore, BoshEnv, Bus, BusCertificate, Hidden, Network, Settings,
    SettingsError,
};
pub use update_settings::{DiskAssociation, Merged, UpdateSettings};
pub use vcap::{PackagePaths, Seen, Vcap};

/// How the names of our work directories begin. They are hidden, for they may lie beside results.
pub const WORK_PREFIX: &str = ".bosh-agent-work-";
