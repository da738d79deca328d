//! Changes of the settings that a Director sends while the agent runs.

use serde_json::{Map, Value, json};

use super::json::{self, JsonError, Object};
use super::settings::{Blobstore, Bus, Hidden};

/// The argument of `update_settings`, and the contents of `update_settings.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateSettings {
    /// The blobstores. Only the first one is used. If there is none, the agent uses the blobstore in
    /// the settings.
    pub blobstores: Option<Vec<Blobstore>>,
    /// The names of persistent disks.
    pub disk_associations: Vec<DiskAssociation>,
    /// New certificates or new URLs for the message bus.
    pub mbus: Bus,
    /// CA certificates in PEM that the whole machine must trust.
    pub trusted_certs: String,
    /// Unknown members, which are kept.
    rest: Hidden<Map<String, Value>>,
}

/// The name of a persistent disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskAssociation {
    /// The name of the disk for jobs.
    pub name: String,
    /// The CPI's ID of the disk.
    pub(crate) cid: String,
}

/// The result of an update.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The settings after the update.
    pub settings: UpdateSettings,
    /// Whether the connection to the message bus must be replaced.
    pub bus_changed: bool,
    /// Whether the blobstore or its options have changed.
    pub(crate) blobstores_changed: bool,
    /// Whether the machine must trust other certificates.
    pub(crate) certificates_changed: bool,
}

/// The names of the known members.
const KNOWN: [&str; 4] = ["blobstores", "disk_associations", "mbus", "trusted_certs"];

impl UpdateSettings {
    /// Parses the contents of `update_settings.json`.
    ///
    /// # Errors
    /// If the text is not valid JSON, or a value has the wrong type.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        Self::from_json(&json::parse(text)?)
    }

    /// Parses the argument of an `update_settings` request.
    ///
    /// # Errors
    /// If a value has the wrong type.
    pub fn from_json(document: &Value) -> Result<Self, JsonError> {
        let update = Object::document(document, "update_settings")?;
        let disks = update.objects("disk_associations")?.unwrap_or_default();
        let unknown = |name: &String| !KNOWN.iter().any(|known| known.eq_ignore_ascii_case(name));
        Ok(Self {
            blobstores: Blobstore::read_list(&update)?,
            disk_associations: disks
                .iter()
                .map(|disk| {
                    Ok(DiskAssociation {
                        name: disk.text_or_empty("name")?,
                        cid: disk.text_or_empty("cid")?,
                    })
                })
                .collect::<Result<_, JsonError>>()?,
            mbus: Bus::read(&update.object_or_empty("mbus")?)?,
            trusted_certs: update.text_or_empty("trusted_certs")?,
            rest: Hidden::new(
                update
                    .members()
                    .iter()
                    .filter(|(name, _)| unknown(name))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            ),
        })
    }

    /// The contents of `update_settings.json` in the Go agent's format, including keys and
    /// passwords.
    #[must_use]
    pub fn to_json(&self) -> Hidden<Value> {
        let blobstores = self
            .blobstores
            .as_ref()
            .map(|list| list.iter().map(Blobstore::to_json).collect::<Vec<_>>());
        let disks: Vec<Value> = self
            .disk_associations
            .iter()
            .map(|disk| json!({"name": disk.name, "cid": disk.cid}))
            .collect();
        let mut document = self.rest.expose().clone();
        document.insert("blobstores".to_owned(), json!(blobstores));
        document.insert("disk_associations".to_owned(), Value::Array(disks));
        document.insert("mbus".to_owned(), self.mbus.to_json());
        document.insert("trusted_certs".to_owned(), json!(self.trusted_certs));
        Hidden::new(Value::Object(document))
    }

    /// Applies a new update. Trusted certificates and disks are always replaced. The message bus
    /// and the blobstores are replaced only if the update contains them.
    ///
    /// A Director sends new bus certificates without URLs. Then the old URLs are kept.
    #[must_use]
    pub fn merge(&self, new: &Self) -> Merged {
        let mut settings = new.clone();
        let mut rest = self.rest.expose().clone();
        rest.extend(new.rest.expose().clone());
        settings.rest = Hidden::new(rest);
        if new.mbus == Bus::default() {
            settings.mbus = self.mbus.clone();
        } else if new.mbus.urls.is_empty() {
            settings.mbus.urls.clone_from(&self.mbus.urls);
        }
        if new.blobstores.is_none() {
            settings.blobstores.clone_from(&self.blobstores);
        }
        Merged {
            bus_changed: settings.mbus != self.mbus,
            blobstores_changed: settings.blobstores != self.blobstores,
            certificates_changed: settings.trusted_certs != self.trusted_certs,
            settings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(document: &Value) -> UpdateSettings {
        UpdateSettings::from_json(document).unwrap()
    }

    fn bus(name: &str) -> Value {
        json!({"cert": {"ca": name, "certificate": "c", "private_key": "hunter2"}})
    }

    #[test]
    fn first_update_of_a_director_keeps_bus_and_blobstore() {
        let merged = UpdateSettings::default().merge(&update(
            &json!({"trusted_certs": "", "disk_associations": []}),
        ));
        assert!(!merged.bus_changed && !merged.blobstores_changed);
        assert_eq!(
            *merged.settings.to_json().expose(),
            json!({
                "blobstores": null,
                "disk_associations": [],
                "mbus": {"cert": {"ca": "", "certificate": "", "private_key": ""}, "urls": null},
                "trusted_certs": "",
            })
        );
    }

    #[test]
    fn missing_bus_and_blobstores_are_kept_and_the_rest_replaced() {
        let old = update(&json!({
            "trusted_certs": "old", "disk_associations": [{"name": "d", "cid": "1"}],
            "mbus": bus("one"), "blobstores": [{"provider": "dav", "options": {"user": "u"}}],
        }));
        let merged = old.merge(&update(&json!({"trusted_certs": null, "mbus": {}})));
        assert!(!merged.bus_changed && !merged.blobstores_changed);
        assert_eq!(merged.settings.trusted_certs, "");
        assert!(merged.certificates_changed);
        assert!(merged.settings.disk_associations.is_empty());
        assert_eq!(merged.settings.mbus, old.mbus);
        assert_eq!(merged.settings.blobstores, old.blobstores);

        let same = old.merge(&update(
            &json!({"mbus": bus("one"), "trusted_certs": "old"}),
        ));
        assert!(!same.bus_changed && !same.certificates_changed);
        let merged = old.merge(&update(&json!({"mbus": bus("two"), "blobstores": []})));
        assert!(merged.bus_changed && merged.blobstores_changed);
        assert_eq!(merged.settings.mbus.certificate.ca, "two");
    }

    #[test]
    fn new_bus_certificates_without_urls_keep_the_urls() {
        let mut first = bus("one");
        first["urls"] = json!(["nats://10.0.0.6:4222"]);
        let old = update(&json!({"mbus": first}));
        let merged = old.merge(&update(&json!({"mbus": bus("two")})));
        assert!(merged.bus_changed);
        assert_eq!(merged.settings.mbus.urls, old.mbus.urls);
    }

    #[test]
    fn update_survives_a_round_trip_with_unknown_members() {
        let document = json!({
            "Trusted_Certs": "PEM", "future": {"a": [1]}, "mbus": bus("one"),
            "disk_associations": [{"name": "d", "cid": "1", "x": null}],
            "blobstores": [{"provider": "s3", "options": {"Unknown": {"deep": 18446744073709551615u64}}}],
        });
        let first = update(&document);
        let text = serde_json::to_vec(first.to_json().expose()).unwrap();
        assert_eq!(UpdateSettings::parse(&text).unwrap(), first);
        assert_eq!(first.to_json().expose()["future"], json!({"a": [1]}));
        assert_eq!(first.trusted_certs, "PEM");
        assert!(!format!("{first:?}").contains("hunter2"));
    }
}
