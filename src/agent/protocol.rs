//! Parses requests and writes replies in the JSON format of Directors and `bosh create-env`. No
//! I/O.

mod fit;

use std::fmt;

use serde_json::{Map, Value};

/// A request. Its arguments may contain secrets.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// The sender's protocol version; 0 if the request contains none.
    pub protocol: i64,
    /// The method's name.
    pub method: String,
    /// The method's arguments.
    pub arguments: Vec<Value>,
    /// The NATS subject of the reply. Ignored over HTTPS.
    pub reply_to: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("protocol", &self.protocol)
            .field("method", &self.method)
            .field("reply_to", &self.reply_to)
            .finish_non_exhaustive()
    }
}

/// Why a request gets no reply. The text contains no part of the request, which may contain
/// secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// The bytes are not JSON.
    #[error("invalid JSON at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The JSON is not an object.
    #[error("invalid request: expected an object, got {found}")]
    NotObject {
        /// The kind of value.
        found: &'static str,
    },
    /// A member of the object has a value of the wrong type.
    #[error("invalid request: `{key}` is {found}")]
    Type {
        /// The name of the member.
        key: &'static str,
        /// The kind of value.
        found: &'static str,
    },
    /// An earlier request has the same `reply_to`.
    #[error("duplicate request")]
    Duplicate,
}

impl Request {
    /// Parses a request as Go's JSON decoder does: member names are case-insensitive, unknown
    /// members are ignored, and `null` means absent.
    ///
    /// # Errors
    /// If the bytes are not a valid request.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidRequest> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| InvalidRequest::Json {
            line: error.line(),
            column: error.column(),
        })?;
        let object = match value {
            Value::Object(object) => object,
            Value::Null => Map::new(),
            other => {
                return Err(InvalidRequest::NotObject {
                    found: kind(&other),
                });
            }
        };
        let mut request = Self {
            protocol: 0,
            method: String::new(),
            arguments: Vec::new(),
            reply_to: String::new(),
        };
        for (key, value) in object {
            let wrong = |key, value: &Value| InvalidRequest::Type {
                key,
                found: kind(value),
            };
            match (key.to_ascii_lowercase().as_str(), value) {
                (_, Value::Null) => {}
                ("protocol", value) => {
                    request.protocol = value.as_i64().ok_or_else(|| wrong("protocol", &value))?;
                }
                ("method", Value::String(method)) => request.method = method,
                ("method", other) => return Err(wrong("method", &other)),
                ("reply_to", Value::String(reply_to)) => request.reply_to = reply_to,
                ("reply_to", other) => return Err(wrong("reply_to", &other)),
                ("arguments", Value::Array(arguments)) => request.arguments = arguments,
                ("arguments", other) => return Err(wrong("arguments", &other)),
                _ => {}
            }
        }
        Ok(request)
    }
}

/// The kind of a JSON value, for messages that must not contain the value.
#[must_use]
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Shortens a text to a number of bytes, by leaving out its middle.
#[must_use]
pub(crate) fn shortened(text: String, limit: usize) -> String {
    match text.len() <= limit {
        true => text,
        false => fit::shortened(&text, |text| text.len() <= limit),
    }
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The result of the action.
    Value(Value),
    /// The action's error.
    Exception(Exception),
}

/// The error of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// The text of the error.
    pub message: String,
    /// The ID of a blob whose contents a Director appends to the text. The Director then deletes the blob.
    pub blobstore_id: Option<String>,
}

impl From<String> for Exception {
    /// An exception without a blob.
    fn from(message: String) -> Self {
        Self {
            message,
            blobstore_id: None,
        }
    }
}

impl Reply {
    /// Encodes the reply as JSON with at most `limit` bytes. A value that is too large is replaced
    /// by an exception. An exception that is too large loses the middle of its text.
    #[must_use]
    pub fn to_bytes(&self, limit: Option<usize>) -> Vec<u8> {
        let whole = self.whole();
        match limit {
            Some(limit) if whole.len() > limit => match self {
                Self::Value(_) => Self::Exception(fit::TOO_LARGE.to_owned().into()).whole(),
                Self::Exception(exception) => {
                    let with = |message| {
                        let blobstore_id = exception.blobstore_id.clone();
                        Self::Exception(Exception {
                            message,
                            blobstore_id,
                        })
                        .whole()
                    };
                    let fits = |message: &str| with(message.to_owned()).len() <= limit;
                    with(fit::shortened(&exception.message, fits))
                }
            },
            _ => whole,
        }
    }

    fn whole(&self) -> Vec<u8> {
        let envelope = match self {
            Self::Value(value) => serde_json::json!({ "value": value }),
            Self::Exception(Exception {
                message,
                blobstore_id: None,
            }) => serde_json::json!({ "exception": { "message": message } }),
            Self::Exception(Exception {
                message,
                blobstore_id,
            }) => serde_json::json!({
                "exception": { "message": message, "blobstore_id": blobstore_id }
            }),
        };
        envelope.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_of_directors_and_of_the_cli_are_parsed() {
        let request = Request::parse(
            br#"{"protocol":3,"method":"ping","arguments":[],"reply_to":"director.0c1.a.7d2"}"#,
        )
        .unwrap();
        assert_eq!(request.method, "ping");
        assert_eq!(request.protocol, 3);
        assert_eq!(request.reply_to, "director.0c1.a.7d2");
        let request = Request::parse(
            br#"{"Method":"get_task","ARGUMENTS":["x", 12345678901234567890],"extra":{},"reply_to":null}"#,
        )
        .unwrap();
        assert_eq!(request.method, "get_task");
        assert_eq!(request.arguments[1], json!(12_345_678_901_234_567_890_u64));
        let request = Request::parse(br#"{"method":"m","arguments":["hunter2"]}"#).unwrap();
        assert!(!format!("{request:?}").contains("hunter2"));
        let request = Request::parse(br#"{"method":"ping","arguments":null}"#).unwrap();
        assert!(request.arguments.is_empty());
    }

    #[test]
    fn invalid_request_is_refused_and_not_quoted() {
        for bytes in [
            &b""[..],
            b"{",
            b"[]",
            b"\"hunter2\"",
            b"{\"method\":[\"hunter2\"]}",
            b"{\"protocol\":1.5}",
            b"{\"arguments\":\"hunter2\"}",
            b"{\"reply_to\":7}",
            b"\xff\xfe",
        ] {
            let error = Request::parse(bytes).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert!(Request::parse(&deep).is_err());
    }

    #[test]
    fn replies_have_the_format_that_directors_read() {
        let bytes = |reply: Reply| String::from_utf8(reply.to_bytes(Some(1 << 20))).unwrap();
        assert_eq!(bytes(Reply::Value(json!("pong"))), r#"{"value":"pong"}"#);
        assert_eq!(bytes(Reply::Value(Value::Null)), r#"{"value":null}"#);
        assert_eq!(
            bytes(Reply::Exception("unknown message x".to_owned().into())),
            r#"{"exception":{"message":"unknown message x"}}"#
        );
        let failure = Exception {
            message: "it failed".to_owned(),
            blobstore_id: Some("0f3c".to_owned()),
        };
        assert_eq!(
            bytes(Reply::Exception(failure)),
            r#"{"exception":{"blobstore_id":"0f3c","message":"it failed"}}"#
        );
    }

    #[test]
    fn too_large_value_becomes_an_exception() {
        let bytes = Reply::Value(json!("x".repeat(200))).to_bytes(Some(150));
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"exception":{"message":"Response exceeded maximum allowed length"}}"#
        );
        let text = "x".repeat(200);
        let bytes = Reply::Value(json!(text)).to_bytes(None);
        assert!(bytes.len() > 200);
    }

    proptest! {
        #[test]
        fn exception_fits_the_limit(
            message in "(\\PC|[\\x00-\\x1f\"\\\\]){0,400}",
            blobstore_id in prop::option::of("[0-9a-f]{36}"),
            limit in 170..600_usize,
        ) {
            let exception = Exception {
                message: message.clone(),
                blobstore_id,
            };
            let bytes = Reply::Exception(exception).to_bytes(Some(limit));
            prop_assert!(bytes.len() <= limit);
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            let shown = value["exception"]["message"].as_str().unwrap();
            if shown != message && shown != fit::TOO_LARGE {
                let (head, tail) = shown.split_once(fit::CUT).unwrap();
                prop_assert!(message.starts_with(head) && message.ends_with(tail));
            }
        }

        #[test]
        fn parser_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
        }
    }
}
