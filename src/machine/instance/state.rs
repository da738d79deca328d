//! Builds the reply to `get_state`.

use serde::Serialize;
use serde_json::{Map, Value};

use super::ApplySpec;
use crate::config::Settings;
use crate::config::json::Object;
use crate::machine::vitals::Vitals;

/// The state of a machine without jobs. The fields have the same names and order as in the Go
/// agent. `networks` is copied from the spec, because a Director compares the two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct MachineState {
    properties: Properties,
    job: JobState,
    packages: Map<String, Value>,
    configuration_hash: String,
    networks: Map<String, Value>,
    resource_pool: Value,
    deployment: String,
    name: String,
    index: Value,
    id: String,
    az: String,
    persistent_disk: Value,
    rendered_templates_archive: Value,
    agent_id: String,
    job_state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vitals: Option<Vitals>,
    vm: Vm,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Properties {
    logging: Logging,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Logging {
    max_log_file_size: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct JobState {
    name: Option<String>,
    release: String,
    template: String,
    version: String,
    templates: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Vm {
    name: String,
}

impl MachineState {
    /// Builds the state. `spec` is the applied spec, if there is one. `vitals` are included if the
    /// argument of `get_state` is `full`.
    #[must_use]
    pub(crate) fn new(
        spec: Option<&ApplySpec>,
        settings: &Settings,
        job_state: &str,
        vitals: Option<Vitals>,
    ) -> Self {
        let empty = ApplySpec::parse(Value::Object(Map::new())).ok();
        let spec = spec.or(empty.as_ref());
        let text = |read: fn(&ApplySpec) -> &String| spec.map(read).cloned().unwrap_or_default();
        let object = |name| spec.map(|spec| spec.object(name)).unwrap_or_default();
        let member = |name| spec.and_then(|spec| spec.member(name)).cloned();
        let job = object("job");
        let properties = object("properties");
        Self {
            properties: Properties {
                logging: Logging {
                    max_log_file_size: inner(&properties, "logging")
                        .and_then(Value::as_object)
                        .map(|logging| inner_text(logging, "max_log_file_size"))
                        .unwrap_or_default(),
                },
            },
            job: JobState {
                name: spec.and_then(|spec| spec.job_name.clone()),
                release: inner_text(&job, "release"),
                template: inner_text(&job, "template"),
                version: inner_text(&job, "version"),
                templates: inner(&job, "templates").cloned().unwrap_or_default(),
            },
            packages: object("packages"),
            configuration_hash: text(|spec| &spec.configuration_hash),
            networks: object("networks"),
            resource_pool: member("resource_pool").unwrap_or_else(|| Value::Object(Map::new())),
            deployment: text(|spec| &spec.deployment),
            name: text(|spec| &spec.name),
            index: spec.map(ApplySpec::index).unwrap_or_default(),
            id: text(|spec| &spec.id),
            az: text(|spec| &spec.az),
            persistent_disk: member("persistent_disk")
                .filter(Value::is_number)
                .unwrap_or_else(|| Value::from(0)),
            rendered_templates_archive: member("rendered_templates_archive").unwrap_or_default(),
            agent_id: settings.agent_id.to_string(),
            job_state: job_state.to_owned(),
            vitals,
            vm: Vm {
                name: settings.vm_name.clone(),
            },
        }
    }
}

fn inner<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    Object::of(members).get(name)
}

fn inner_text(members: &Map<String, Value>, name: &str) -> String {
    let text = inner(members, name).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(spec: Option<Value>, vitals: Option<Vitals>) -> String {
        let settings = json!({"agent_id": "a-1", "vm": {"name": "c-1", "id": "c-1"}});
        let settings = Settings::from_json(settings).unwrap();
        let spec = spec.map(|spec| ApplySpec::parse(spec).unwrap());
        let state = MachineState::new(spec.as_ref(), &settings, "running", vitals);
        serde_json::to_string(&state).unwrap()
    }

    #[test]
    fn state_after_an_apply_equals_the_go_agents() {
        let spec = json!({
            "deployment": "dep", "job": {"name": "compilation-1"}, "index": 0, "id": "i-1",
            "networks": {"default": {"type": "manual", "ip": "10.0.0.9", "unknown": {"b": 1, "a": null}}},
        });
        assert_eq!(
            state(Some(spec), None),
            concat!(
                r#"{"properties":{"logging":{"max_log_file_size":""}},"#,
                r#""job":{"name":"compilation-1","release":"","template":"","version":"","templates":null},"#,
                r#""packages":{},"configuration_hash":"","#,
                r#""networks":{"default":{"ip":"10.0.0.9","type":"manual","unknown":{"a":null,"b":1}}},"#,
                r#""resource_pool":{},"deployment":"dep","name":"","index":0,"id":"i-1","az":"","persistent_disk":0,"#,
                r#""rendered_templates_archive":null,"agent_id":"a-1","job_state":"running","vm":{"name":"c-1"}}"#,
            )
        );
    }

    #[test]
    fn networks_before_an_apply_are_an_empty_object() {
        let state = state(None, Some(Vitals::default()));
        assert!(state.contains(r#""networks":{},"#) && state.contains(r#""index":null"#));
        assert!(state.contains(r#""job":{"name":null,"#));
        assert!(
            state.contains(r#""job_state":"running","vitals":{"cpu":"#),
            "{state}"
        );
    }
}
