//! Parses the arguments of a request as Go's JSON decoder does: keys are case-insensitive, unknown
//! keys are ignored, and `null` means absent.

use serde_json::{Map, Value};

use super::protocol::kind;
use crate::config::json::Object;

/// Why arguments are invalid. The texts start like those of the Go agent, and do not contain values
/// from the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// There are too few arguments.
    #[error(
        "Extracting method arguments from payload: Not enough arguments, expected {expected}, got {got}"
    )]
    Missing {
        /// The number of arguments that the method takes.
        expected: usize,
        /// The number of arguments in the request.
        got: usize,
    },
    /// A value has the wrong type.
    #[error(
        "Extracting method arguments from payload: Unmarshalling action argument: `{what}` is {found}"
    )]
    Type {
        /// The name of the value.
        what: &'static str,
        /// The kind of value.
        found: &'static str,
    },
    /// A value is invalid.
    #[error(
        "Extracting method arguments from payload: Unmarshalling action argument: `{what}`: {reason}"
    )]
    Invalid {
        /// The name of the value.
        what: &'static str,
        /// Why the value is invalid.
        reason: String,
    },
}

/// The first `N` arguments. Further ones are ignored.
///
/// # Errors
/// If there are fewer arguments.
pub fn first<const N: usize>(arguments: &[Value]) -> Result<&[Value; N], ArgumentError> {
    arguments.first_chunk().ok_or(ArgumentError::Missing {
        expected: N,
        got: arguments.len(),
    })
}

/// Converts a string; `null` means empty.
///
/// # Errors
/// If the value is not a string.
pub fn text<'a>(value: &'a Value, what: &'static str) -> Result<&'a str, ArgumentError> {
    match value {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text),
        other => Err(wrong(other, what)),
    }
}

/// Parses a text argument with `parse`.
///
/// # Errors
/// If the argument is not a string, or `parse` fails.
pub(crate) fn parsed<T, E: std::fmt::Display>(
    value: &Value,
    what: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, ArgumentError> {
    parse(text(value, what)?).map_err(|error| ArgumentError::Invalid {
        what,
        reason: error.to_string(),
    })
}

/// Converts an object; `None` for `null`.
///
/// # Errors
/// If the value is not an object.
pub(crate) fn object<'a>(
    value: &'a Value,
    what: &'static str,
) -> Result<Option<&'a Map<String, Value>>, ArgumentError> {
    match value {
        Value::Null => Ok(None),
        Value::Object(object) => Ok(Some(object)),
        other => Err(wrong(other, what)),
    }
}

/// Converts an array of strings; `null` means empty.
///
/// # Errors
/// If the value is not an array of strings.
pub fn texts(value: &Value, what: &'static str) -> Result<Vec<String>, ArgumentError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values
            .iter()
            .map(|value| Ok(text(value, what)?.to_owned()))
            .collect(),
        other => Err(wrong(other, what)),
    }
}

/// The value at a case-insensitive key; `null` if the key is absent.
#[must_use]
pub(crate) fn get<'a>(object: &'a Map<String, Value>, key: &str) -> &'a Value {
    static NOTHING: Value = Value::Null;
    Object::of(object).get(key).unwrap_or(&NOTHING)
}

fn wrong(value: &Value, what: &'static str) -> ArgumentError {
    ArgumentError::Type {
        what,
        found: kind(value),
    }
}
