//! The settings that a CPI writes for the agent.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::{self, JsonError, Object};
use super::{Secret, UpdateSettings};

mod agent_id;
mod hidden;
mod parts;
#[cfg(test)]
mod tests;

pub use agent_id::{AgentId, AgentIdError};
pub use hidden::Hidden;
pub(super) use parts::owned;
pub use parts::{Blobstore, Bus, BusCertificate, Network};

/// The settings that this agent uses, and the document that contains them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `agent_id`.
    pub agent_id: AgentId,
    /// `vm.name`: the CPI's name of the machine.
    pub(crate) vm_name: String,
    /// `mbus`, which may contain a password.
    pub mbus: Secret,
    /// `blobstore`, which current CPIs omit.
    pub blobstore: Option<Blobstore>,
    /// `networks` by name.
    pub networks: BTreeMap<String, Network>,
    /// `env.bosh`.
    pub bosh: BoshEnv,
    raw: Hidden<Value>,
}

/// `env.bosh`: the Director's part.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BoshEnv {
    /// `mbus`.
    pub mbus: Bus,
    /// `blobstores`; only the first is used.
    pub blobstores: Vec<Blobstore>,
    /// `password`: the crypt(3) hash of the password of `root` and `vcap`.
    pub password: Secret,
    /// `keep_root_password`.
    pub(crate) keep_root_password: bool,
    /// `group`.
    pub group: String,
    /// `groups`: names that describe the machine, for example of its deployment and its instance group.
    pub groups: Vec<String>,
    /// `agent.settings.tmpfs`: settings must stay in memory.
    pub(crate) settings_in_memory: bool,
}

/// Why settings are invalid.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text is not valid JSON, or a value has the wrong type.
    #[error("the settings are invalid")]
    Json(#[from] JsonError),
    /// The agent's ID is missing or invalid.
    #[error("the settings have no valid agent_id")]
    AgentId(#[from] AgentIdError),
}

impl Settings {
    /// Parses the contents of `settings.json`.
    ///
    /// # Errors
    /// The text is not valid JSON, a value in use has the wrong type, or `agent_id` is missing or invalid.
    pub fn parse(text: &[u8]) -> Result<Self, SettingsError> {
        Self::from_json(json::parse(text)?)
    }

    /// Parses settings.
    ///
    /// # Errors
    /// A value in use has the wrong type, or `agent_id` is missing or invalid.
    pub fn from_json(document: Value) -> Result<Self, SettingsError> {
        let settings = Object::document(&document, "settings")?;
        let vm = settings.object_or_empty("vm")?;
        let blobstore = settings.object("blobstore")?;
        Ok(Self {
            agent_id: AgentId::parse(settings.text("agent_id")?.unwrap_or_default())?,
            vm_name: vm.text_or_empty("name")?,
            mbus: Secret::new(settings.text_or_empty("mbus")?),
            blobstore: blobstore.as_ref().map(Blobstore::read).transpose()?,
            networks: networks(&settings)?,
            bosh: BoshEnv::read(&settings.object_or_empty("env")?.object_or_empty("bosh")?)?,
            raw: Hidden::new(document),
        })
    }

    /// The original document, with members that this agent does not use. It contains keys and passwords.
    #[must_use]
    pub fn document(&self) -> &Hidden<Value> {
        &self.raw
    }

    /// The URLs of the message bus: those of the update, or else of `env.bosh.mbus`, or else `mbus`. Empty if there are none.
    #[must_use]
    pub(crate) fn bus_urls<'a>(&'a self, update: &'a UpdateSettings) -> Vec<&'a Secret> {
        let lists = [&update.mbus.urls[..], &self.bosh.mbus.urls];
        match lists.into_iter().find(|urls| !urls.is_empty()) {
            Some(urls) => urls.iter().collect(),
            None => [&self.mbus]
                .into_iter()
                .filter(|url| !url.is_empty())
                .collect(),
        }
    }

    /// The certificates for the message bus: those of the update if it contains a CA certificate, otherwise those of `env.bosh.mbus`.
    #[must_use]
    pub(crate) fn bus_certificate<'a>(&'a self, update: &'a UpdateSettings) -> &'a BusCertificate {
        if update.mbus.certificate.ca.is_empty() {
            &self.bosh.mbus.certificate
        } else {
            &update.mbus.certificate
        }
    }

    /// The blobstore in use: the first one of the update, or else of `env.bosh.blobstores`, or else `blobstore`.
    #[must_use]
    pub(crate) fn blobstore<'a>(&'a self, update: &'a UpdateSettings) -> Option<&'a Blobstore> {
        update
            .blobstores
            .iter()
            .flatten()
            .chain(&self.bosh.blobstores)
            .chain(&self.blobstore)
            .next()
    }

    /// Whether a Director created this machine to compile packages. Such a machine has a group `compilation-UUID`, the name of its
    /// instance group.
    #[must_use]
    pub(crate) fn is_for_compilation(&self) -> bool {
        self.bosh
            .groups
            .iter()
            .any(|group| group.starts_with("compilation-"))
    }
}

impl BoshEnv {
    fn read(bosh: &Object<'_>) -> Result<Self, JsonError> {
        let agent = bosh.object_or_empty("agent")?;
        Ok(Self {
            mbus: Bus::read(&bosh.object_or_empty("mbus")?)?,
            blobstores: Blobstore::read_list(bosh)?.unwrap_or_default(),
            password: Secret::new(bosh.text_or_empty("password")?),
            keep_root_password: bosh.flag("keep_root_password")?,
            group: bosh.text_or_empty("group")?,
            groups: owned(bosh.texts("groups")?),
            settings_in_memory: agent.object_or_empty("settings")?.flag("tmpfs")?,
        })
    }
}

/// Reads the networks. Their names are data, so their case is kept.
fn networks(settings: &Object<'_>) -> Result<BTreeMap<String, Network>, JsonError> {
    let networks = settings.object_or_empty("networks")?;
    networks
        .iter()
        .map(|(name, network)| {
            let object = Object::document(network, &networks.place_of(name))?;
            Ok((name.to_owned(), Network::read(&object)?))
        })
        .collect()
}
