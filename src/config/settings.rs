//! What a CPI tells the agent of a machine.

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

/// The settings of this agent, as far as it uses them, and the document that they came in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who this agent is.
    pub agent_id: AgentId,
    /// `vm.name`: what the CPI calls the machine.
    pub vm_name: String,
    /// `mbus`, which may hold a password.
    pub mbus: Secret,
    /// `blobstore`, which today's CPIs leave out.
    pub blobstore: Option<Blobstore>,
    /// `networks` by name.
    pub networks: BTreeMap<String, Network>,
    /// `ntp`.
    pub ntp: Vec<String>,
    /// `env.bosh`.
    pub bosh: BoshEnv,
    raw: Hidden<Value>,
}

/// `env.bosh`: what a Director adds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BoshEnv {
    /// `mbus`.
    pub mbus: Bus,
    /// `blobstores`; only the first counts.
    pub blobstores: Vec<Blobstore>,
    /// `ntp`, which replaces the other one where it is there, even empty.
    pub ntp: Option<Vec<String>>,
    /// `password`: the crypt(3) hash of the password of `root` and `vcap`.
    pub password: Secret,
    /// `keep_root_password`.
    pub keep_root_password: bool,
    /// `group`.
    pub group: String,
    /// `groups`: what this machine is for, among them the names of the deployment and of the
    /// instance group.
    pub groups: Vec<String>,
    /// `agent.settings.tmpfs`: settings must not be written to a disk.
    pub settings_in_memory: bool,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No JSON, or something of the wrong kind in it.
    #[error("the settings are not valid")]
    Json(#[from] JsonError),
    /// No name, or an impossible one.
    #[error("the settings have no valid agent_id")]
    AgentId(#[from] AgentIdError),
}

impl Settings {
    /// Reads the text of `settings.json`.
    ///
    /// # Errors
    /// When it is no JSON, when a value in use is of the wrong kind, or without a usable
    /// `agent_id`.
    pub fn parse(text: &[u8]) -> Result<Self, SettingsError> {
        Self::from_json(json::parse(text)?)
    }

    /// Reads settings from a document.
    ///
    /// # Errors
    /// When a value in use is of the wrong kind, or without a usable `agent_id`.
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
            ntp: owned(settings.texts("ntp")?),
            bosh: BoshEnv::read(&settings.object_or_empty("env")?.object_or_empty("bosh")?)?,
            raw: Hidden::new(document),
        })
    }

    /// The document as it came, with everything that this agent does not use. It holds keys and
    /// passwords.
    #[must_use]
    pub fn document(&self) -> &Hidden<Value> {
        &self.raw
    }

    /// Where the message bus is: the update's URLs, else those of `env.bosh.mbus`, else `mbus`.
    /// Empty where nothing says it.
    #[must_use]
    pub fn bus_urls<'a>(&'a self, update: &'a UpdateSettings) -> Vec<&'a Secret> {
        let lists = [&update.mbus.urls[..], &self.bosh.mbus.urls];
        match lists.into_iter().find(|urls| !urls.is_empty()) {
            Some(urls) => urls.iter().collect(),
            None => [&self.mbus]
                .into_iter()
                .filter(|url| !url.is_empty())
                .collect(),
        }
    }

    /// The certificates for the message bus: the update's where that has an authority in it, else
    /// those of `env.bosh.mbus`.
    #[must_use]
    pub fn bus_certificate<'a>(&'a self, update: &'a UpdateSettings) -> &'a BusCertificate {
        if update.mbus.certificate.ca.is_empty() {
            &self.bosh.mbus.certificate
        } else {
            &update.mbus.certificate
        }
    }

    /// The blobstore in use: the first of the update's, else the first of `env.bosh.blobstores`,
    /// else `blobstore`.
    #[must_use]
    pub fn blobstore<'a>(&'a self, update: &'a UpdateSettings) -> Option<&'a Blobstore> {
        update
            .blobstores
            .iter()
            .flatten()
            .chain(&self.bosh.blobstores)
            .chain(&self.blobstore)
            .next()
    }

    /// The time servers.
    #[must_use]
    pub fn ntp_servers(&self) -> &[String] {
        self.bosh.ntp.as_ref().unwrap_or(&self.ntp)
    }

    /// Whether a Director made this machine to compile packages: its instance group is then called
    /// `compilation-` and a UUID, and that name is among the groups.
    #[must_use]
    pub fn is_for_compilation(&self) -> bool {
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
            ntp: bosh.texts("ntp")?.map(|servers| owned(Some(servers))),
            password: Secret::new(bosh.text_or_empty("password")?),
            keep_root_password: bosh.flag("keep_root_password")?,
            group: bosh.text_or_empty("group")?,
            groups: owned(bosh.texts("groups")?),
            settings_in_memory: agent.object_or_empty("settings")?.flag("tmpfs")?,
        })
    }
}

/// Names of networks are data, so they are taken as they are written.
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
