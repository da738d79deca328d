//! Reads JSON by the rules of Go's decoder: names are case-insensitive, unknown names are ignored,
//! and `null` means absent.
//!
//! The programs that write settings were tested with Go's decoder and may rely on these rules.
//! Errors contain the place of a value, but never the value, because it may be a secret.

use std::fmt;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Why JSON is invalid. The texts contain places and types, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON, or is incomplete.
    #[error("invalid JSON: {kind} at line {line}, column {column}")]
    Syntax {
        /// The kind of error.
        kind: &'static str,
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 at the start of a line.
        column: usize,
    },
    /// A value has the wrong type.
    #[error("`{place}` is {found}; expected {expected}")]
    WrongType {
        /// The path of names, joined by dots.
        place: String,
        /// The expected type.
        expected: &'static str,
        /// The actual type.
        found: &'static str,
    },
}

/// Parses a JSON value.
///
/// # Errors
/// The text is not valid JSON.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    serde_json::from_slice(text).map_err(|error| JsonError::Syntax {
        kind: if error.is_eof() {
            "unexpected end"
        } else {
            "syntax error"
        },
        line: error.line(),
        column: error.column(),
    })
}

/// A JSON object whose members are looked up by Go's rules.
///
/// The ASCII case of a name is ignored. If several members match, the one with the exact name is
/// used, otherwise the last one in byte order. (Go uses the last one in the text, but that order is
/// lost by parsing.) A member that is `null` never hides another match.
#[derive(Clone)]
pub struct Object<'a> {
    members: &'a Map<String, Value>,
    place: String,
}

/// Prints no values, because they may be secrets.
impl fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl<'a> Object<'a> {
    /// Converts a document. `what` is the name of the document in errors.
    ///
    /// # Errors
    /// If the document is not an object.
    pub fn document(value: &'a Value, what: &str) -> Result<Self, JsonError> {
        value
            .as_object()
            .map(|members| Self {
                members,
                place: what.to_owned(),
            })
            .ok_or_else(|| wrong_type(what.to_owned(), "an object", value))
    }

    /// Wraps an object. Errors do not contain the name of the document.
    #[must_use]
    pub fn of(members: &'a Map<String, Value>) -> Self {
        Self {
            members,
            place: String::new(),
        }
    }

    /// The value of a member of any type.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        let is_present = |value: &&'a Value| !value.is_null();
        self.members.get(name).filter(is_present).or_else(|| {
            self.members
                .iter()
                .filter(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
                .rfind(is_present)
        })
    }

    /// All members except `null`, with their names as written.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.as_str(), value))
    }

    /// All members, including `null`.
    #[must_use]
    pub(crate) fn members(&self) -> &'a Map<String, Value> {
        self.members
    }

    /// The value of a string member.
    ///
    /// # Errors
    /// If the member has another type.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, JsonError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// The value of a string member; empty if the member is absent.
    ///
    /// # Errors
    /// If the member has another type.
    pub(crate) fn text_or_empty(&self, name: &str) -> Result<String, JsonError> {
        Ok(self.text(name)?.unwrap_or_default().to_owned())
    }

    /// The value of a boolean member; false if the member is absent.
    ///
    /// # Errors
    /// If the member has another type.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, JsonError> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    /// The value of a boolean member.
    ///
    /// # Errors
    /// If the member has another type.
    pub(crate) fn optional_flag(&self, name: &str) -> Result<Option<bool>, JsonError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// The value of a member that is a whole number and not negative.
    ///
    /// # Errors
    /// If the member has another type.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, JsonError> {
        self.typed(name, "a whole number", Value::as_u64)
    }

    /// The value of an object member.
    ///
    /// # Errors
    /// If the member has another type.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, JsonError> {
        let members = self.typed(name, "an object", Value::as_object)?;
        Ok(members.map(|members| Self {
            members,
            place: self.place_of(name),
        }))
    }

    /// The value of an object member; empty if the member is absent.
    ///
    /// # Errors
    /// If the member has another type.
    pub(crate) fn object_or_empty(&self, name: &str) -> Result<Self, JsonError> {
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        Ok(self.object(name)?.unwrap_or_else(|| Self {
            members: &EMPTY,
            place: self.place_of(name),
        }))
    }

    /// The value of a member that is a list of strings. `null` items are left out.
    ///
    /// # Errors
    /// If the member has another type.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, JsonError> {
        self.items(name, |value, place| {
            let text = value.as_str();
            text.ok_or_else(|| wrong_type(place, "a string", value))
        })
    }

    /// The value of a member that is a list of objects. `null` items are left out.
    ///
    /// # Errors
    /// If the member has another type.
    pub(crate) fn objects(&self, name: &str) -> Result<Option<Vec<Self>>, JsonError> {
        self.items(name, |value, place| Self::document(value, &place))
    }

    /// The items of a list member without `null` items. `read` converts an item; its arguments are
    /// the item and the item's place.
    fn items<T>(
        &self,
        name: &str,
        read: impl Fn(&'a Value, String) -> Result<T, JsonError>,
    ) -> Result<Option<Vec<T>>, JsonError> {
        let Some(list) = self.typed(name, "a list", Value::as_array)? else {
            return Ok(None);
        };
        let items = list.iter().enumerate();
        let items = items.filter(|(_, value)| !value.is_null());
        let items = items.map(|(index, value)| read(value, self.place_in(name, index)));
        items.collect::<Result<_, _>>().map(Some)
    }

    /// The place of a member, for errors.
    #[must_use]
    pub(crate) fn place_of(&self, name: &str) -> String {
        format!("{}.{name}", self.place)
    }

    fn place_in(&self, name: &str, index: usize) -> String {
        format!("{}.{name}[{index}]", self.place)
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, JsonError> {
        self.get(name)
            .map(|value| {
                read(value).ok_or_else(|| wrong_type(self.place_of(name), expected, value))
            })
            .transpose()
    }
}

fn wrong_type(place: String, expected: &'static str, found: &Value) -> JsonError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    JsonError::WrongType {
        place,
        expected,
        found,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn case_of_names_is_ignored_and_exact_match_wins() {
        let value = json!({"Mbus": "a", "MBUS": "b", "AGENT_ID": "x", "Vm": {"NAME": "n"}});
        let object = Object::document(&value, "settings").unwrap();
        assert_eq!(object.text("agent_id").unwrap(), Some("x"));
        assert_eq!(object.text("mbus").unwrap(), Some("a"));
        assert_eq!(object.text("MBUS").unwrap(), Some("b"));
        let vm = object.object("vm").unwrap().unwrap();
        assert_eq!(vm.text("name").unwrap(), Some("n"));
    }

    #[test]
    fn null_means_absent() {
        let value = json!({"a": null, "A": "there", "list": [null, "x"], "objects": [null, {"b": 1}], "o": null});
        let object = Object::document(&value, "it").unwrap();
        assert_eq!(object.text("a").unwrap(), Some("there"));
        assert_eq!(object.texts("list").unwrap(), Some(vec!["x"]));
        assert_eq!(object.objects("objects").unwrap().unwrap().len(), 1);
        assert!(object.object("o").unwrap().is_none());
        assert!(object.object_or_empty("o").unwrap().members().is_empty());
        assert!(!object.flag("none").unwrap());
        assert_eq!(object.iter().count(), 3);
    }

    #[test]
    fn wrong_type_is_reported_without_the_value() {
        let value = json!({"env": {"bosh": {"blobstores": [{}, "hunter2"], "password": 42, "keys": ["a", 7]}}});
        let object = Object::document(&value, "settings").unwrap();
        let env = object.object("env").unwrap().unwrap();
        let bosh = env.object("bosh").unwrap().unwrap();
        assert_eq!(
            bosh.objects("blobstores").unwrap_err().to_string(),
            "`settings.env.bosh.blobstores[1]` is a string; expected an object"
        );
        assert_eq!(
            bosh.text("password").unwrap_err().to_string(),
            "`settings.env.bosh.password` is a number; expected a string"
        );
        assert_eq!(
            bosh.texts("keys").unwrap_err().to_string(),
            "`settings.env.bosh.keys[1]` is a number; expected a string"
        );
        assert!(!format!("{bosh:?}").contains("hunter2"));
    }

    #[test]
    fn syntax_error_has_line_and_column() {
        assert_eq!(
            parse(b"{\"password\":\n \"hunter").unwrap_err().to_string(),
            "invalid JSON: unexpected end at line 2, column 8"
        );
        assert_eq!(
            parse(b"{} x").unwrap_err().to_string(),
            "invalid JSON: syntax error at line 1, column 4"
        );
        assert!(parse(b"").is_err());
    }
}
