//! The apply spec: a JSON document with the state that a Director wants a machine to have.

use serde_json::{Map, Value};

use crate::config::json::{JsonError, Object};
use crate::config::{Hidden, Settings};
use crate::machine::network::DefaultNetwork;

/// An apply spec: the whole document, and the values in it that an agent without jobs uses.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplySpec {
    /// The document's `deployment`.
    pub deployment: String,
    /// The document's `name`: the name of the instance group. The spec of a compilation VM has no name.
    pub name: String,
    /// The document's `id`: the ID of the instance.
    pub id: String,
    /// The document's `az`. The spec of a compilation VM has no `az`.
    pub(crate) az: String,
    /// The document's `job.name`.
    pub(crate) job_name: Option<String>,
    /// The document's `configuration_hash`. It is set if there are jobs to configure.
    pub configuration_hash: String,
    raw: Hidden<Value>,
}

/// A network of the spec is missing in the settings. The text is that of the Go agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Network '{name}' is not found in settings")]
pub(crate) struct NetworkNotFound {
    /// The network's name.
    pub name: String,
}

/// A spec needs more than an agent without jobs can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}, but this agent only compiles packages: use a stemcell with the Go agent")]
pub struct UnsupportedWork(&'static str);

impl ApplySpec {
    /// Parses a spec.
    ///
    /// # Errors
    /// If a value that the agent uses has the wrong type.
    pub fn parse(document: Value) -> Result<Self, JsonError> {
        let spec = Object::document(&document, "apply spec")?;
        let job = spec.object_or_empty("job")?;
        for (name, network) in spec.object_or_empty("networks")?.iter() {
            Object::document(network, &format!("apply spec.networks.{name}"))?;
        }
        Ok(Self {
            deployment: spec.text_or_empty("deployment")?,
            name: spec.text_or_empty("name")?,
            id: spec.text_or_empty("id")?,
            az: spec.text_or_empty("az")?,
            job_name: job.text("name")?.map(str::to_owned),
            configuration_hash: spec.text_or_empty("configuration_hash")?,
            raw: Hidden::new(document),
        })
    }

    /// The whole document, including unknown members.
    #[must_use]
    pub fn document(&self) -> &Hidden<Value> {
        &self.raw
    }

    /// The part of the spec that an agent without jobs cannot apply; `None` if the agent can apply the
    /// whole spec, for example that of a compilation VM.
    #[must_use]
    pub fn unsupported_work(&self) -> Option<UnsupportedWork> {
        let is_there = |value: Option<&Value>| match value {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(members)) => !members.is_empty(),
            Some(_) => true,
        };
        let job = self.member("job");
        let in_job = |name| Object::of(job?.as_object()?).get(name);
        let work = if is_there(self.member("packages")) {
            "the spec has packages to install"
        } else if is_there(in_job("templates")) {
            "the spec has jobs to configure"
        } else if is_there(self.member("rendered_templates_archive")) {
            "the spec has templates of jobs to install"
        } else {
            return None;
        };
        Some(UnsupportedWork(work))
    }

    /// The document's `index`: an integer or null.
    #[must_use]
    pub fn index(&self) -> Value {
        self.member("index")
            .filter(|index| index.is_i64() || index.is_u64())
            .cloned()
            .unwrap_or_default()
    }

    /// The document's networks, unchanged.
    #[must_use]
    pub fn networks(&self) -> Map<String, Value> {
        self.object("networks")
    }

    /// Checks that the settings contain every network of the spec, and sets `ip`, `netmask` and
    /// `gateway` of networks with DHCP. The values come from `machine` if the network's prefix in
    /// the settings is missing or covers a single address, and from the settings otherwise. All other
    /// values stay unchanged, because a Director compares them.
    ///
    /// # Errors
    /// If the settings lack a network.
    pub(crate) fn resolve_networks(
        mut self,
        settings: &Settings,
        machine: Option<DefaultNetwork>,
    ) -> Result<Self, NetworkNotFound> {
        let mut networks = self.networks();
        for (name, network) in &mut networks {
            // Old versions of the CLI add this network, which is not in the settings of any CPI.
            let is_local = name == "local" && network.get("ip").is_some_and(|ip| ip == "127.0.0.1");
            if is_local || network.is_null() {
                continue;
            }
            let Some(known) = settings.networks.get(name) else {
                return Err(NetworkNotFound { name: name.clone() });
            };
            if !known.is_dhcp() {
                continue;
            }
            let [ip, netmask, gateway] = match machine.filter(|_| known.is_single_address()) {
                Some(machine) => [machine.ip, machine.netmask, machine.gateway]
                    .map(|address| address.to_string()),
                None => [&known.ip, &known.netmask, &known.gateway].map(Clone::clone),
            };
            if let Some(members) = network.as_object_mut() {
                members.insert("ip".to_owned(), ip.into());
                members.insert("netmask".to_owned(), netmask.into());
                members.insert("gateway".to_owned(), gateway.into());
            }
        }
        let mut document = self.raw.expose().clone();
        if let Some(members) = document.as_object_mut() {
            let name = members
                .keys()
                .find(|name| name.eq_ignore_ascii_case("networks"))
                .cloned();
            if let Some(name) = name {
                members.insert(name, Value::Object(networks));
            }
        }
        self.raw = Hidden::new(document);
        Ok(self)
    }

    /// The value of a member; `None` if it is null.
    pub(super) fn member(&self, name: &str) -> Option<&Value> {
        Object::of(self.raw.expose().as_object()?).get(name)
    }

    /// The value of a member that is an object; empty for other values.
    pub(super) fn object(&self, name: &str) -> Map<String, Value> {
        let object = self.member(name).and_then(Value::as_object);
        object.cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    fn settings(networks: &Value) -> Settings {
        Settings::from_json(json!({"agent_id": "a", "networks": networks})).unwrap()
    }

    fn machine() -> Option<DefaultNetwork> {
        Some(DefaultNetwork {
            ip: Ipv4Addr::new(192, 0, 2, 7),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            gateway: Ipv4Addr::new(192, 0, 2, 1),
        })
    }

    fn resolved(spec: Value, known: &Value) -> Result<Value, NetworkNotFound> {
        let spec = ApplySpec::parse(json!({ "networks": spec })).unwrap();
        let resolved = spec.resolve_networks(&settings(known), machine())?;
        Ok(Value::Object(resolved.networks()))
    }

    #[test]
    fn spec_of_a_compilation_vm_is_supported() {
        let sent = json!({
            "deployment": "dep", "job": {"name": "compilation-1"}, "index": 0, "id": "i-1", "networks": {},
        });
        let spec = ApplySpec::parse(sent.clone()).unwrap();
        assert_eq!(spec.unsupported_work(), None);
        assert_eq!(spec.index(), json!(0));
        for (name, value) in [
            ("packages", json!({"redis": {}})),
            ("job", json!({"templates": [{"name": "redis"}]})),
            ("rendered_templates_archive", json!({"sha1": "x"})),
        ] {
            let mut sent = sent.clone();
            sent[name] = value;
            assert!(
                ApplySpec::parse(sent).unwrap().unsupported_work().is_some(),
                "{name}"
            );
        }
        let empty =
            json!({"packages": {}, "job": {"templates": []}, "rendered_templates_archive": null});
        assert_eq!(ApplySpec::parse(empty).unwrap().unsupported_work(), None);
        assert!(ApplySpec::parse(json!([])).is_err());
        assert!(ApplySpec::parse(json!({"networks": {"n": 1}})).is_err());
    }

    #[test]
    fn missing_network_has_the_go_agents_error() {
        let error = resolved(json!({"x": {}}), &json!({"default": {}})).unwrap_err();
        assert_eq!(error.to_string(), "Network 'x' is not found in settings");
        let local = json!({"local": {"ip": "127.0.0.1"}});
        assert_eq!(resolved(local.clone(), &json!({})).unwrap(), local);
    }

    #[test]
    fn dynamic_networks_get_the_machines_address() {
        let known = json!({
            "manual": {"type": "manual", "ip": "10.0.0.9", "netmask": "255.0.0.0"},
            "dynamic": {"type": "dynamic"},
            "wide": {"type": "dynamic", "prefix": "24", "ip": "10.0.0.5", "netmask": "n", "gateway": "g"},
            "vip": {"type": "vip"},
        });
        let sent = json!({
            "manual": {"ip": "10.0.0.9", "unknown": {"a": 1}, "prefix": "32"},
            "dynamic": {"type": "dynamic", "cloud_properties": {}, "ip": null},
            "wide": {},
            "vip": {"ip": "1.2.3.4"},
        });
        let mut expected = sent.clone();
        expected["dynamic"]["ip"] = json!("192.0.2.7");
        expected["dynamic"]["netmask"] = json!("255.255.255.0");
        expected["dynamic"]["gateway"] = json!("192.0.2.1");
        expected["wide"] = json!({"ip": "10.0.0.5", "netmask": "n", "gateway": "g"});
        assert_eq!(resolved(sent, &known).unwrap(), expected);
    }
}
