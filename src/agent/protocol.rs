//! The envelopes of requests and replies, as the Director and `bosh create-env` write and read them. Pure.

mod fit;

use std::fmt;

use serde_json::{Map, Value};

/// A request. Its arguments may hold keys.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// The version of the protocol that the sender speaks; 0 where it does not say.
    pub protocol: i64,
    /// What is asked for.
    pub method: String,
    /// With what.
    pub arguments: Vec<Value>,
    /// Where the reply goes. Over HTTPS it has no meaning.
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

/// Bytes that are no request. Nothing of them is told: they may hold keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// No JSON.
    #[error("it is no JSON (line {line}, column {column})")]
    Json {
        /// In which line the JSON ends, from 1.
        line: usize,
        /// In which column.
        column: usize,
    },
    /// JSON, but no object.
    #[error("it is {found} and no object")]
    NoObject {
        /// What it is.
        found: &'static str,
    },
    /// It came before.
    #[error("it is a copy of an earlier one")]
    Copy,
    /// A key with a value of another type.
    #[error("its `{key}` is {found}")]
    Type {
        /// The key.
        key: &'static str,
        /// What the value is.
        found: &'static str,
    },
}

impl Request {
    /// Reads a request. Keys are found in whatever case, unknown ones are ignored, and `null` is as good as nothing, as
    /// Go's decoder has it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidRequest> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| InvalidRequest::Json {
            line: error.line(),
            column: error.column(),
        })?;
        let object = match value {
            Value::Object(object) => object,
            Value::Null => Map::new(),
            other => {
                return Err(InvalidRequest::NoObject {
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

/// What a JSON value is, without showing it.
#[must_use]
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// What was asked for.
    Value(Value),
    /// Why there is none.
    Exception(String),
}

impl Reply {
    /// The reply's bytes, at most `limit` of them. A value that is too large is replaced by an exception; of an exception
    /// that is too large head and tail remain.
    #[must_use]
    pub fn to_bytes(&self, limit: Option<usize>) -> Vec<u8> {
        let whole = self.whole();
        match limit {
            Some(limit) if whole.len() > limit => match self {
                Self::Value(_) => Self::Exception(fit::TOO_LARGE.to_owned()).whole(),
                Self::Exception(message) => Self::Exception(fit::shortened(message, |message| {
                    Self::Exception(message.to_owned()).whole().len() <= limit
                }))
                .whole(),
            },
            _ => whole,
        }
    }

    fn whole(&self) -> Vec<u8> {
        let envelope = match self {
            Self::Value(value) => serde_json::json!({ "value": value }),
            Self::Exception(message) => {
                serde_json::json!({ "exception": { "message": message } })
            }
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
    fn requests_of_directors_and_of_the_cli_are_understood() {
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
    fn what_is_no_request_is_refused_without_showing_it() {
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
    fn replies_are_what_a_director_reads() {
        let bytes = |reply: Reply| String::from_utf8(reply.to_bytes(Some(1 << 20))).unwrap();
        assert_eq!(bytes(Reply::Value(json!("pong"))), r#"{"value":"pong"}"#);
        assert_eq!(bytes(Reply::Value(Value::Null)), r#"{"value":null}"#);
        assert_eq!(
            bytes(Reply::Exception("unknown message x".to_owned())),
            r#"{"exception":{"message":"unknown message x"}}"#
        );
    }

    #[test]
    fn a_value_that_is_too_large_becomes_an_exception() {
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
        fn an_exception_fits_whatever_is_in_it(
            message in "(\\PC|[\\x00-\\x1f\"\\\\]){0,400}",
            limit in 100..600_usize,
        ) {
            let bytes = Reply::Exception(message.clone()).to_bytes(Some(limit));
            prop_assert!(bytes.len() <= limit);
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            let shown = value["exception"]["message"].as_str().unwrap();
            if shown != message && shown != fit::TOO_LARGE {
                let (head, tail) = shown.split_once(fit::CUT).unwrap();
                prop_assert!(message.starts_with(head) && message.ends_with(tail));
            }
        }

        #[test]
        fn no_bytes_break_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
        }
    }
}
