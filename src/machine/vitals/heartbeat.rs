//! The heartbeat message for the health monitor, which is the part of BOSH that monitors VMs.

use serde::Serialize;
use serde_json::Value;

use super::Vitals;
use crate::machine::instance::ApplySpec;

/// One heartbeat. The fields have the same names and order as in the Go agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Heartbeat {
    deployment: String,
    job: Option<String>,
    index: Value,
    job_state: String,
    vitals: Vitals,
    node_id: String,
    number_of_processes: u32,
}

impl Heartbeat {
    /// The heartbeat of a machine without processes of jobs. `spec` is the applied spec, if there
    /// is one.
    #[must_use]
    pub(crate) fn new(spec: Option<&ApplySpec>, vitals: Vitals, job_state: &str) -> Self {
        Self {
            deployment: spec.map(|spec| spec.deployment.clone()).unwrap_or_default(),
            job: spec.and_then(|spec| spec.job_name.clone()),
            index: spec.map(ApplySpec::index).unwrap_or_default(),
            job_state: job_state.to_owned(),
            vitals,
            node_id: spec.map(|spec| spec.id.clone()).unwrap_or_default(),
            number_of_processes: 0,
        }
    }

    /// The heartbeat as JSON.
    #[must_use]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Serializing strings and numbers cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sent(spec: Option<&ApplySpec>) -> String {
        let heartbeat = Heartbeat::new(spec, Vitals::default(), "running");
        String::from_utf8(heartbeat.to_bytes()).unwrap()
    }

    #[test]
    fn heartbeat_before_an_apply_has_empty_names() {
        let text = sent(None);
        assert!(
            text.starts_with(
                r#"{"deployment":"","job":null,"index":null,"job_state":"running","vitals":{"cpu":{"sys":"#
            ),
            "{text}"
        );
        assert!(
            text.ends_with(r#""node_id":"","number_of_processes":0}"#),
            "{text}"
        );
    }

    #[test]
    fn heartbeat_names_the_applied_spec() {
        let spec = ApplySpec::parse(json!({
            "deployment": "dep", "job": {"name": "compilation-1"}, "index": 0, "id": "i-1",
        }))
        .unwrap();
        let text = sent(Some(&spec));
        assert!(text.starts_with(r#"{"deployment":"dep","job":"compilation-1","index":0,"#));
        assert!(text.contains(r#""node_id":"i-1""#));
    }
}
