//! The arguments of a request, as Go's decoder would take them: keys in whatever case, unknown ones ignored, `null` as good
//! as nothing.

use serde_json::{Map, Value};

use super::protocol::kind;

/// Why the arguments of a request cannot be used. Begins as the Go agent's text does; nothing of a value is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// There are too few.
    #[error(
        "Extracting method arguments from payload: Not enough arguments, expected {expected}, got {got}"
    )]
    Missing {
        /// How many the method takes.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// One is of another type.
    #[error(
        "Extracting method arguments from payload: Unmarshalling action argument: `{what}` is {found}"
    )]
    Type {
        /// Which.
        what: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// One cannot be what it is given for.
    #[error(
        "Extracting method arguments from payload: Unmarshalling action argument: `{what}`: {reason}"
    )]
    Invalid {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// The first `N` arguments; further ones are ignored.
///
/// # Errors
/// When there are fewer.
pub fn take<const N: usize>(arguments: &[Value]) -> Result<&[Value; N], ArgumentError> {
    arguments.first_chunk().ok_or(ArgumentError::Missing {
        expected: N,
        got: arguments.len(),
    })
}

/// A text; nothing is an empty one.
///
/// # Errors
/// When it is something else.
pub fn text<'a>(value: &'a Value, what: &'static str) -> Result<&'a str, ArgumentError> {
    match value {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text),
        other => Err(wrong(other, what)),
    }
}

/// An object; nothing is an empty one.
///
/// # Errors
/// When it is something else.
pub fn object<'a>(
    value: &'a Value,
    what: &'static str,
) -> Result<Option<&'a Map<String, Value>>, ArgumentError> {
    match value {
        Value::Null => Ok(None),
        Value::Object(object) => Ok(Some(object)),
        other => Err(wrong(other, what)),
    }
}

/// A list of texts; nothing is an empty one.
///
/// # Errors
/// When it is something else.
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

/// The value of a key, in whatever case; where several fit, the exact one.
#[must_use]
pub fn get<'a>(object: &'a Map<String, Value>, key: &str) -> &'a Value {
    static NOTHING: Value = Value::Null;
    object
        .get(key)
        .or_else(|| {
            object
                .iter()
                .find(|(found, _)| found.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        })
        .unwrap_or(&NOTHING)
}

fn wrong(value: &Value, what: &'static str) -> ArgumentError {
    ArgumentError::Type {
        what,
        found: kind(value),
    }
}
