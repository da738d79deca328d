//! The settings of the agent. The CPI, the part of BOSH that creates machines, writes them as JSON.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

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

/// The settings that this agent uses, and the whole document.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The member `agent_id`.
    pub agent_id: AgentId,
    /// The member `vm.name`: the CPI's name of the machine.
    pub(crate) vm_name: String,
    /// The member `mbus`: the URL of the message bus, which may contain a password.
    pub mbus: Secret,
    /// The member `blobstore`, which current CPIs omit.
    pub blobstore: Option<Blobstore>,
    /// The member `networks`, by name.
    pub networks: BTreeMap<String, Network>,
    /// The member `env.bosh`.
    pub bosh: BoshEnv,
    raw: Hidden<Value>,
}

/// The member `env.bosh`, which comes from the Director.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BoshEnv {
    /// The member `mbus`.
    pub mbus: Bus,
    /// The member `blobstores`. Only the first one is used.
    pub blobstores: Vec<Blobstore>,
    /// The member `password`: the crypt(3) hash of the password of `root` and `vcap`.
    pub password: Secret,
    /// The member `keep_root_password`.
    pub(crate) keep_root_password: bool,
    /// The member `group`.
    pub group: String,
    /// The member `groups`: names that describe the machine, for example its deployment and its
    /// instance group.
    pub groups: Vec<String>,
    /// The member `agent.settings.tmpfs`: whether settings must not be saved on a disk.
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

/// What the settings lack to connect to the message bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MissingSetting {
    /// There is no URL.
    #[error("the settings have no mbus: neither `mbus` nor `env.bosh.mbus.urls`")]
    Bus,
    /// A member of the CPI's settings is missing or empty.
    #[error("`{0}` is empty in the settings")]
    Empty(&'static str),
    /// A member of the Director's settings is missing or empty.
    #[error("`{0}` is empty in the updated settings")]
    EmptyUpdate(&'static str),
}

impl Settings {
    /// Parses the contents of `settings.json`.
    ///
    /// # Errors
    /// If the text is not valid JSON, a value in use has the wrong type, or `agent_id` is missing
    /// or invalid.
    pub fn parse(text: &[u8]) -> Result<Self, SettingsError> {
        Self::from_json(json::parse(text)?)
    }

    /// Parses settings.
    ///
    /// # Errors
    /// If a value in use has the wrong type, or `agent_id` is missing or invalid.
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

    /// The original document, including members that this agent does not use. It contains keys and
    /// passwords.
    #[must_use]
    pub fn document(&self) -> &Hidden<Value> {
        &self.raw
    }

    /// The URLs of the message bus: the URLs in `update`, otherwise those in `env.bosh.mbus`,
    /// otherwise `mbus`. Empty if all of these are missing.
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

    /// The certificates for the message bus: the certificates in `update` if it contains a CA
    /// certificate, otherwise those in `env.bosh.mbus`.
    #[must_use]
    pub(crate) fn bus_certificate<'a>(&'a self, update: &'a UpdateSettings) -> &'a BusCertificate {
        if update.mbus.certificate.ca.is_empty() {
            &self.bosh.mbus.certificate
        } else {
            &update.mbus.certificate
        }
    }

    /// Checks that there are a URL, a certificate and a key for the message bus.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check_bus(&self, update: &UpdateSettings) -> Result<(), MissingSetting> {
        if self.bus_urls(update).is_empty() {
            return Err(MissingSetting::Bus);
        }
        let is_updated = !update.mbus.certificate.ca.is_empty();
        let used = self.bus_certificate(update);
        let missing = match (used.certificate.is_empty(), used.private_key.is_empty()) {
            (true, _) if is_updated => MissingSetting::EmptyUpdate("mbus.cert.certificate"),
            (_, true) if is_updated => MissingSetting::EmptyUpdate("mbus.cert.private_key"),
            (true, _) => MissingSetting::Empty("env.bosh.mbus.cert.certificate"),
            (_, true) => MissingSetting::Empty("env.bosh.mbus.cert.private_key"),
            (false, false) => return Ok(()),
        };
        Err(missing)
    }

    /// The blobstore in use: the first one in `update`, otherwise the first one in
    /// `env.bosh.blobstores`, otherwise `blobstore`.
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

    /// Whether a Director created this machine to compile packages. The instance group of such a
    /// machine is named `compilation-UUID`, and that name is one of the machine's groups. The groups of other machines may also start
    /// with `compilation-`: operators choose the names of deployments and instance groups.
    #[must_use]
    pub(crate) fn is_for_compilation(&self) -> bool {
        self.bosh.groups.iter().any(|group| {
            let id = group.strip_prefix("compilation-");
            id.is_some_and(is_uuid)
        })
    }
}

/// Whether a text is a UUID in its usual form, with hyphens.
fn is_uuid(text: &str) -> bool {
    text.len() == Hyphenated::LENGTH && Uuid::try_parse(text).is_ok()
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

/// Parses the networks. The case of their names is kept.
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
