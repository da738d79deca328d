//! Configuration: the agent's settings, the paths below the base directory, the environment, and secrets.

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
pub use vcap::{PackagePaths, Vcap, Visibility};

/// The prefix of the agent's work directories. They are hidden, because they may be next to results.
pub(crate) const WORK_PREFIX: &str = ".bosh-agent-work-";
