//! Types that occur both in settings and in updates of settings.

use serde_json::{Map, Value, json};

use super::Hidden;
use crate::config::Secret;
use crate::config::json::{JsonError, Object};

/// A blobstore.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Blobstore {
    /// `local`, `dav`, `s3`, `gcs` or `azure-storage`.
    pub provider: String,
    /// The options of the provider, including unknown ones.
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

/// The certificates for the message bus, in PEM. A missing certificate is an empty string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusCertificate {
    /// The CA certificates that verify the server's certificate.
    pub ca: String,
    /// The agent's certificate.
    pub certificate: String,
    /// The private key of the agent's certificate.
    pub private_key: Secret,
}

/// The message bus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bus {
    /// The certificates.
    pub certificate: BusCertificate,
    /// The URLs, which may contain passwords.
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

/// A network of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// `manual`, `dynamic` or `vip`; empty means manual.
    pub kind: String,
    /// The address; empty if it is not in the settings and must be determined by the machine.
    pub ip: String,
    /// The mask in dotted decimal notation.
    pub netmask: String,
    /// The address of the router.
    pub gateway: String,
    /// The length of the network prefix in bits.
    pub prefix: String,
    /// The purposes for which the network is the default: `dns`, `gateway`.
    pub default: Vec<String>,
    /// Whether the machine gets the address by DHCP.
    pub use_dhcp: bool,
    /// Whether the address was determined by the machine.
    pub(crate) resolved: bool,
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

    /// Whether the machine must determine the address itself. By the Go agent's rule, this is so if
    /// the network is dynamic, uses DHCP, or lacks an address or a mask. It is never so for a
    /// `vip`, because no interface has that address.
    #[must_use]
    pub(crate) fn is_dhcp(&self) -> bool {
        let incomplete = self.ip.is_empty() || self.netmask.is_empty();
        self.kind != "vip"
            && (self.kind == "dynamic" || self.use_dhcp || self.resolved || incomplete)
    }

    /// Whether the prefix is missing or covers only a single address. The machine's own address can
    /// then replace the one in the settings.
    #[must_use]
    pub(crate) fn is_single_address(&self) -> bool {
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
