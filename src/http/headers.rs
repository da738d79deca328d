//! Headers that the caller adds to a request.

use std::fmt;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::config::Secret;

/// Headers of a request. Their values, such as tokens or encryption keys, are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(HeaderMap);

/// Why headers are invalid. The errors contain no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaders {
    /// The JSON value is not an object.
    #[error("the headers are not a JSON object")]
    NotAnObject,
    /// The name is not a valid header name.
    #[error("`{}` is not a valid header name", .0.escape_debug())]
    Name(String),
    /// The value is not a string, or contains a character that is not allowed in headers.
    #[error("the header `{}` has an invalid value", .0.escape_debug())]
    Value(String),
}

impl Headers {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Converts a JSON object of strings. Members that are `null` are ignored, and `null` instead
    /// of the object means no headers.
    ///
    /// # Errors
    /// If the value is not an object, or a member is not a valid header.
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

    /// Adds a header, which replaces one with the same name.
    ///
    /// # Errors
    /// If the name or the value is invalid.
    pub fn with(mut self, name: &str, value: &Secret) -> Result<Self, InvalidHeaders> {
        let key = HeaderName::try_from(name).map_err(|_| InvalidHeaders::Name(name.to_owned()))?;
        let mut value = HeaderValue::try_from(value.expose())
            .map_err(|_| InvalidHeaders::Value(name.to_owned()))?;
        value.set_sensitive(true);
        self.0.insert(key, value);
        Ok(self)
    }

    /// Adds an `Authorization` header with a user name and a password.
    #[must_use]
    pub fn with_basic_authorization(mut self, user: &str, password: &Secret) -> Self {
        if let Some(value) = super::url::basic_authorization(user, password.expose()) {
            self.0.insert(hyper::header::AUTHORIZATION, value);
        }
        self
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
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
    fn json_object_becomes_headers_and_values_are_not_printed() {
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
    fn invalid_headers_are_reported_without_their_values() {
        for (json, message) in [
            (json!([]), "the headers are not a JSON object"),
            (
                json!({"a b": "hunter2"}),
                "`a b` is not a valid header name",
            ),
            (
                json!({"a": "hunter2\r\nb: c"}),
                "the header `a` has an invalid value",
            ),
            (json!({"a": 2}), "the header `a` has an invalid value"),
        ] {
            assert_eq!(Headers::from_json(&json).unwrap_err().to_string(), message);
        }
    }
}
