//! The settings of a blobstore. The case of keys does not matter, as in the Go agent. In addition, numbers are accepted as strings, and
//! strings as numbers.

use std::fmt;

use serde_json::{Map, Value};

use crate::config::json::Object;

/// The blobstore in the settings: `{"provider": …, "options": {…}}`.
#[derive(Clone, PartialEq)]
pub struct BlobstoreSettings {
    /// The kind of blobstore: `dav`, `local`, `s3`, …
    pub provider: String,
    /// The provider's options, which may contain passwords.
    pub options: Value,
}

impl BlobstoreSettings {
    pub(super) fn options(&self) -> StoreOptions<'_> {
        StoreOptions(self.options.as_object())
    }
}

/// Does not print the options, which may contain passwords.
impl fmt::Debug for BlobstoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobstoreSettings")
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

/// A JSON object with case-insensitive keys. An exact match is preferred. `null` means absent.
#[derive(Clone, Copy)]
pub(super) struct StoreOptions<'a>(Option<&'a Map<String, Value>>);

/// The error for an option that is neither a string nor a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the option `{0}` is not a string")]
pub struct NotString(&'static str);

impl<'a> StoreOptions<'a> {
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn get(self, name: &str) -> Option<&'a Value> {
        Object::of(self.0?).get(name)
    }

    /// The object at a key; empty if the key is absent or its value is not an object.
    pub(super) fn section(self, name: &str) -> Self {
        Self(self.get(name).and_then(Value::as_object))
    }

    pub(super) fn text(self, name: &'static str) -> Result<Option<String>, NotString> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            // A password of digits that was written without quotes in YAML.
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(NotString(name)),
        }
    }

    /// A whole number from 0 to 2³² − 1, which may also be written as a string. Other values are ignored.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        match self.get(name)? {
            Value::String(text) => text.trim().parse().ok(),
            other => u32::try_from(other.as_u64()?).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(options: Value) -> BlobstoreSettings {
        BlobstoreSettings {
            provider: "dav".to_owned(),
            options,
        }
    }

    #[test]
    fn keys_are_case_insensitive_and_null_is_absent() {
        let settings = settings(json!({
            "Endpoint": "x", "user": null, "password": 12, "TLS": {"cert": null}, "list": [], "extra": {},
        }));
        let options = settings.options();
        assert_eq!(options.text("endpoint"), Ok(Some("x".to_owned())));
        assert_eq!(options.text("user"), Ok(None));
        assert_eq!(options.text("password"), Ok(Some("12".to_owned())));
        assert_eq!(options.text("list"), Err(NotString("list")));
        assert_eq!(options.section("tls").section("cert").text("ca"), Ok(None));
        assert_eq!(options.section("list").text("ca"), Ok(None));
    }

    #[test]
    fn exact_key_is_preferred() {
        let settings = settings(json!({"USER": "a", "user": "b"}));
        assert_eq!(settings.options().text("user"), Ok(Some("b".to_owned())));
    }

    #[test]
    fn number_may_be_a_text() {
        for (value, number) in [
            (json!(5), Some(5)),
            (json!("7"), Some(7)),
            (json!(null), None),
            (json!("many"), None),
            (json!(-1), None),
            (json!([3]), None),
        ] {
            let settings = settings(json!({"retryattempts": value}));
            assert_eq!(settings.options().number("RetryAttempts"), number);
        }
    }

    #[test]
    fn options_that_are_not_an_object_are_empty() {
        let settings = settings(json!("hunter2"));
        assert_eq!(settings.options().text("user"), Ok(None));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
