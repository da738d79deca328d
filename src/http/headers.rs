//! Headers that somebody else decided on.

use std::fmt;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::config::Secret;

/// Headers to be sent with a request. Their values (an encryption key, a token) are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(HeaderMap);

/// What cannot be sent as headers. No value is part of the error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaders {
    /// The headers are no JSON object.
    #[error("the headers are not a JSON object")]
    NotAnObject,
    /// A name that no header can have.
    #[error("{0:?} cannot be the name of a header")]
    Name(String),
    /// A value that is no text, or text that no header can hold.
    #[error("the value of the header {0:?} cannot be sent")]
    Value(String),
}

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a JSON object of texts. `null`, for the whole or for a value, stands for nothing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_json(value: &Value) -> Result<Self, InvalidHeaders> {
        let mut headers = Self::new();
        match value {
            Value::Null => {}
            Value::Object(object) => {
                for (name, value) in object {
                    match value {
                        Value::Null => {}
                        Value::String(value) => {
                            headers = headers.with(name, &Secret::new(value.as_str()))?;
                        }
                        _ => return Err(InvalidHeaders::Value(name.clone())),
                    }
                }
            }
            _ => return Err(InvalidHeaders::NotAnObject),
        }
        Ok(headers)
    }

    /// These headers and one more, which replaces another of its name.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn with(mut self, name: &str, value: &Secret) -> Result<Self, InvalidHeaders> {
        let key = HeaderName::try_from(name).map_err(|_| InvalidHeaders::Name(name.to_owned()))?;
        let mut value = HeaderValue::try_from(value.expose())
            .map_err(|_| InvalidHeaders::Value(name.to_owned()))?;
        value.set_sensitive(true);
        self.0.insert(key, value);
        Ok(self)
    }

    /// These headers and a name and a password.
    #[must_use]
    pub fn with_basic_authorization(mut self, user: &str, password: &Secret) -> Self {
        if let Some(value) = super::url::basic_authorization(user, password.expose()) {
            self.0.insert(hyper::header::AUTHORIZATION, value);
        }
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Headers")
            .field(&self.0.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_json_object_of_texts_becomes_headers_whose_values_do_not_print() {
        let json = json!({"x-goog-encryption-key": "hunter2", "X-Empty": null});
        let headers = Headers::from_json(&json).unwrap();
        assert_eq!(headers.0["x-goog-encryption-key"], "hunter2");
        assert_eq!(headers.0.len(), 1);
        assert_eq!(
            format!("{headers:?}"),
            r#"Headers(["x-goog-encryption-key"])"#
        );
        assert_eq!(Headers::from_json(&Value::Null).unwrap(), Headers::new());
    }

    #[test]
    fn what_cannot_be_sent_is_named_without_its_value() {
        for (json, message) in [
            (json!([]), "the headers are not a JSON object"),
            (
                json!({"a b": "hunter2"}),
                r#""a b" cannot be the name of a header"#,
            ),
            (
                json!({"a": "hunter2\r\nb: c"}),
                r#"the value of the header "a" cannot be sent"#,
            ),
            (
                json!({"a": 2}),
                r#"the value of the header "a" cannot be sent"#,
            ),
        ] {
            assert_eq!(Headers::from_json(&json).unwrap_err().to_string(), message);
        }
    }
}
