//! The parts that settings and their updates share.

use serde_json::{Map, Value, json};

use super::Hidden;
use crate::config::Secret;
use crate::config::json::{JsonError, Object};

/// A blobstore: who serves it, and what that one wants to know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Blobstore {
    /// `local`, `dav`, `s3`, `gcs`, `azure-storage`.
    pub provider: String,
    /// The options as they came, unknown ones too.
    pub options: Hidden<Map<String, Value>>,
}

impl Blobstore {
    pub(in crate::config) fn read(object: &Object<'_>) -> Result<Self, JsonError> {
        Ok(Self {
            provider: object.text_or_empty("provider")?,
            options: Hidden::new(object.object_or_empty("options")?.members().clone()),
        })
    }

    pub(in crate::config) fn read_list(
        object: &Object<'_>,
    ) -> Result<Option<Vec<Self>>, JsonError> {
        object
            .objects("blobstores")?
            .map(|list| list.iter().map(Self::read).collect())
            .transpose()
    }

    pub(in crate::config) fn to_json(&self) -> Value {
        json!({"provider": self.provider, "options": self.options.expose()})
    }
}

/// What this agent shows the message bus, and what it expects of it. All texts are PEM, empty where
/// there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusCertificate {
    /// The authorities that the server's certificate must come from.
    pub ca: String,
    /// This agent's own certificate.
    pub certificate: String,
    /// Its key.
    pub private_key: Secret,
}

/// How the message bus is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bus {
    /// The certificates.
    pub certificate: BusCertificate,
    /// Its URLs, which may hold passwords.
    pub urls: Vec<Secret>,
}

impl Bus {
    pub(in crate::config) fn read(object: &Object<'_>) -> Result<Self, JsonError> {
        let certificate = object.object_or_empty("cert")?;
        let urls = object.texts("urls")?.unwrap_or_default();
        Ok(Self {
            certificate: BusCertificate {
                ca: certificate.text_or_empty("ca")?,
                certificate: certificate.text_or_empty("certificate")?,
                private_key: Secret::new(certificate.text_or_empty("private_key")?),
            },
            urls: urls
                .into_iter()
                .filter(|url| !url.is_empty())
                .map(Secret::new)
                .collect(),
        })
    }

    pub(in crate::config) fn to_json(&self) -> Value {
        let urls: Vec<&str> = self.urls.iter().map(Secret::expose).collect();
        json!({
            "cert": {
                "ca": self.certificate.ca,
                "certificate": self.certificate.certificate,
                "private_key": self.certificate.private_key.expose(),
            },
            "urls": if urls.is_empty() { Value::Null } else { json!(urls) },
        })
    }
}

/// A network that a CPI has given this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// `manual`, `dynamic` or `vip`; empty means manual.
    pub kind: String,
    /// The address, empty where it is only known to the machine.
    pub ip: String,
    /// The mask, as four numbers.
    pub netmask: String,
    /// The router's address.
    pub gateway: String,
    /// The length of the network's prefix in bits.
    pub prefix: String,
    /// What it is the default for: `dns`, `gateway`.
    pub default: Vec<String>,
    /// The machine gets its address by DHCP.
    pub use_dhcp: bool,
    /// The address above was once filled in from the machine.
    pub resolved: bool,
}

impl Network {
    pub(super) fn read(object: &Object<'_>) -> Result<Self, JsonError> {
        Ok(Self {
            kind: object.text_or_empty("type")?,
            ip: object.text_or_empty("ip")?,
            netmask: object.text_or_empty("netmask")?,
            gateway: object.text_or_empty("gateway")?,
            prefix: object.text_or_empty("prefix")?,
            default: owned(object.texts("default")?),
            use_dhcp: object.flag("use_dhcp")?,
            resolved: object.flag("resolved")?,
        })
    }

    /// Whether its address is known to the machine alone, by the Go agent's rule: dynamic networks,
    /// those that use DHCP, and those that lack an address or a mask; never a `vip`, which no
    /// interface has.
    #[must_use]
    pub fn is_dhcp(&self) -> bool {
        let incomplete = self.ip.is_empty() || self.netmask.is_empty();
        self.kind != "vip"
            && (self.kind == "dynamic" || self.use_dhcp || self.resolved || incomplete)
    }

    /// Whether it says so little of its prefix that the machine's own address may stand in:
    /// nothing, or a single address.
    #[must_use]
    pub fn is_single_address(&self) -> bool {
        matches!(self.prefix.as_str(), "" | "32" | "128")
    }
}

pub(in crate::config) fn owned(texts: Option<Vec<&str>>) -> Vec<String> {
    texts
        .unwrap_or_default()
        .into_iter()
        .map(str::to_owned)
        .collect()
}
