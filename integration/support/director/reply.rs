//! Parses replies of an agent like a Director: `agent_client.rb` and `agent_message_converter.rb` of BOSH.

use serde_json::Value;

/// The content of a reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// The request's value; `null` if there is none.
    Value(Value),
    /// The text of an exception, as in the task's output.
    Exception(String),
}

/// Parses a reply. `None` if a Director continues to wait: it drops messages that are not a JSON object, and an empty object counts as no
/// reply.
pub(crate) fn read(bytes: &[u8]) -> Option<Reply> {
    let Ok(Value::Object(reply)) = serde_json::from_slice(bytes) else {
        return None;
    };
    if reply.is_empty() {
        return None;
    }
    Some(match reply.get("exception") {
        Some(exception) => Reply::Exception(text_of(exception)),
        None => Reply::Value(reply.get("value").cloned().unwrap_or_default()),
    })
}

fn text_of(exception: &Value) -> String {
    let Some(exception) = exception.as_object() else {
        return exception.to_string();
    };
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    };
    let mut told = text(exception.get("message"));
    match exception.get("backtrace") {
        None | Some(Value::Null) => {}
        Some(Value::Array(lines)) => {
            for line in lines {
                told = format!("{told}\n{}", text(Some(line)));
            }
        }
        line => told = format!("{told}\n{}", text(line)),
    }
    told
}

/// The state of a task in the value of a reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) state: Value,
    pub(crate) task: Value,
    pub(crate) value: Value,
}

impl Status {
    /// Parses a value like a Director, which treats everything that does not look like a running task as a result.
    pub(crate) fn of(value: Value) -> Self {
        let Some(object) = value.as_object() else {
            return Self {
                state: "done".into(),
                task: Value::Null,
                value,
            };
        };
        let or_done = |state: Option<&Value>| match state {
            None | Some(Value::Null | Value::Bool(false)) => Value::from("done"),
            Some(state) => state.clone(),
        };
        let task = object.get("agent_task_id").cloned().unwrap_or_default();
        let state = object.get("state");
        match object.get("value") {
            Some(inner) => Self {
                // A `state` counts even if it is null.
                state: state.cloned().unwrap_or_else(|| "done".into()),
                task,
                value: inner.clone(),
            },
            None if state.is_some() && object.contains_key("agent_task_id") => Self {
                state: state.cloned().unwrap_or_default(),
                task,
                value: Value::Null,
            },
            None => Self {
                state: or_done(state),
                task,
                value: value.clone(),
            },
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// The id to poll with, if there is one.
    pub(crate) fn task_id(&self) -> Option<String> {
        match &self.task {
            Value::Null | Value::Bool(false) => None,
            Value::String(id) => Some(id.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// Whether a Director accepts this as the id of a blob.
pub(crate) fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12]
        && text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn replies_are_values_exceptions_or_nothing() {
        let read = |text: &str| read(text.as_bytes());
        assert_eq!(
            read(r#"{"value":"pong"}"#),
            Some(Reply::Value(json!("pong")))
        );
        assert_eq!(read(r#"{"value":null}"#), Some(Reply::Value(Value::Null)));
        assert_eq!(
            read(r#"{"exception":{"message":"no","backtrace":["a","b"]}}"#),
            Some(Reply::Exception("no\na\nb".to_owned()))
        );
        for nothing in ["{}", "", "null", "[1]", "{"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn only_a_marker_without_value_is_a_running_task() {
        let status = |value| Status::of(value);
        let running = status(json!({"agent_task_id": "7", "state": "running", "progress": {}}));
        assert!(running.is_running());
        assert_eq!(running.task_id().as_deref(), Some("7"));
        for (value, result) in [
            (json!("applied"), json!("applied")),
            (json!(null), json!(null)),
            (json!([1]), json!([1])),
            (
                json!({"result": {"sha1": "a"}}),
                json!({"result": {"sha1": "a"}}),
            ),
            (
                json!({"job_state": "running"}),
                json!({"job_state": "running"}),
            ),
        ] {
            let done = status(value);
            assert!(!done.is_running() && done.task_id().is_none());
            assert_eq!(done.value, result);
        }
        // An agent must send neither: the first never ends, and of the second only the inner value remains.
        assert!(status(json!({"state": "running"})).is_running());
        assert_eq!(status(json!({"value": 1, "other": 2})).value, json!(1));
    }

    #[test]
    fn ids_of_blobs_are_uuids() {
        assert!(is_uuid("3a5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3"));
        assert!(is_uuid("3A5E6C5E-8F0B-4F66-A9D4-32C1F3B3B3C3"));
        assert!(!is_uuid("3a5e6c5e8f0b4f66a9d432c1f3b3b3c3"));
        assert!(!is_uuid("ga5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3"));
        assert!(!is_uuid(""));
    }
}
