//! JSON as Go programs read it: names in any case, unknown names ignored, `null` equal to absent.
//!
//! The programs that write settings were tested against Go's decoder and may rely on all three.
//! Errors name the place of a value, never the value, which may be a secret.

use std::fmt;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Why JSON is not usable. The texts have places and types, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not valid JSON, or incomplete.
    #[error("invalid JSON: {kind} in line {line}, column {column}")]
    Syntax {
        /// What is wrong there.
        kind: &'static str,
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 at the start of a line.
        column: usize,
    },
    /// A value has the wrong type.
    #[error("`{place}` is {found}; expected {expected}")]
    Kind {
        /// The names that lead to it, joined by dots.
        place: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
}

/// Reads one JSON value.
///
/// # Errors
/// The text is not valid JSON, or something follows the value.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    serde_json::from_slice(text).map_err(|error| JsonError::Syntax {
        kind: if error.is_eof() {
            "an early end"
        } else {
            "an error"
        },
        line: error.line(),
        column: error.column(),
    })
}

/// A JSON object with Go's lookup of members.
///
/// A name matches in any (ASCII) case. Where several match, the one that is written exactly so
/// counts, else the last in the order of the bytes; Go takes the last in the text, an order which
/// is gone once JSON is read. A `null` counts as absent, so it also hides nothing.
#[derive(Clone)]
pub struct Object<'a> {
    members: &'a Map<String, Value>,
    place: String,
}

/// Prints no values, which may be secret.
impl fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl<'a> Object<'a> {
    /// The object that a document is; `what` names it in errors.
    ///
    /// # Errors
    /// When the document is something else.
    pub fn document(value: &'a Value, what: &str) -> Result<Self, JsonError> {
        value
            .as_object()
            .map(|members| Self {
                members,
                place: what.to_owned(),
            })
            .ok_or_else(|| wrong(what.to_owned(), "an object", value))
    }

    /// An object within a document that was checked before: its errors do not name the document.
    #[must_use]
    pub fn of(members: &'a Map<String, Value>) -> Self {
        Self {
            members,
            place: String::new(),
        }
    }

    /// A member, whatever it is.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        let there = |value: &&'a Value| !value.is_null();
        self.members.get(name).filter(there).or_else(|| {
            self.members
                .iter()
                .filter(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
                .rfind(there)
        })
    }

    /// Every member with its name as it is written, but for those that are `null`.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.as_str(), value))
    }

    /// The members as they are.
    #[must_use]
    pub fn members(&self) -> &'a Map<String, Value> {
        self.members
    }

    /// A text.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, JsonError> {
        self.typed(name, "a text", Value::as_str)
    }

    /// A text, empty where there is none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text_or_empty(&self, name: &str) -> Result<String, JsonError> {
        Ok(self.text(name)?.unwrap_or_default().to_owned())
    }

    /// A truth value, false where there is none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, name: &str) -> Result<bool, JsonError> {
        Ok(self
            .typed(name, "true or false", Value::as_bool)?
            .unwrap_or(false))
    }

    /// An object.
    ///
    /// # Errors
    /// When it is something else.
    pub fn object(&self, name: &str) -> Result<Option<Self>, JsonError> {
        let members = self.typed(name, "an object", Value::as_object)?;
        Ok(members.map(|members| Self {
            members,
            place: self.place_of(name),
        }))
    }

    /// An object, empty where there is none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn object_or_empty(&self, name: &str) -> Result<Self, JsonError> {
        static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        Ok(self.object(name)?.unwrap_or_else(|| Self {
            members: &EMPTY,
            place: self.place_of(name),
        }))
    }

    /// A list of texts, without what is `null` in it.
    ///
    /// # Errors
    /// When it is something else.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, JsonError> {
        let Some(list) = self.typed(name, "a list", Value::as_array)? else {
            return Ok(None);
        };
        list.iter()
            .enumerate()
            .filter(|(_, value)| !value.is_null())
            .map(|(index, value)| {
                value
                    .as_str()
                    .ok_or_else(|| wrong(self.place_in(name, index), "a text", value))
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A list of objects, without what is `null` in it.
    ///
    /// # Errors
    /// When it is something else.
    pub fn objects(&self, name: &str) -> Result<Option<Vec<Self>>, JsonError> {
        let Some(list) = self.typed(name, "a list", Value::as_array)? else {
            return Ok(None);
        };
        list.iter()
            .enumerate()
            .filter(|(_, value)| !value.is_null())
            .map(|(index, value)| Self::document(value, &self.place_in(name, index)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// The names that lead to a member, as errors name it.
    #[must_use]
    pub fn place_of(&self, name: &str) -> String {
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
            .map(|value| read(value).ok_or_else(|| wrong(self.place_of(name), expected, value)))
            .transpose()
    }
}

fn wrong(place: String, expected: &'static str, found: &Value) -> JsonError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    JsonError::Kind {
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
    fn names_match_in_any_case_and_the_exact_one_first() {
        let value = json!({"Mbus": "a", "MBUS": "b", "AGENT_ID": "x", "Vm": {"NAME": "n"}});
        let object = Object::document(&value, "settings").unwrap();
        assert_eq!(object.text("agent_id").unwrap(), Some("x"));
        assert_eq!(object.text("mbus").unwrap(), Some("a"));
        assert_eq!(object.text("MBUS").unwrap(), Some("b"));
        let vm = object.object("vm").unwrap().unwrap();
        assert_eq!(vm.text("name").unwrap(), Some("n"));
    }

    #[test]
    fn null_is_absent_and_hides_nothing() {
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
            "`settings.env.bosh.blobstores[1]` is a text; expected an object"
        );
        assert_eq!(
            bosh.text("password").unwrap_err().to_string(),
            "`settings.env.bosh.password` is a number; expected a text"
        );
        assert_eq!(
            bosh.texts("keys").unwrap_err().to_string(),
            "`settings.env.bosh.keys[1]` is a number; expected a text"
        );
        assert!(!format!("{bosh:?}").contains("hunter2"));
    }

    #[test]
    fn syntax_error_has_line_and_column() {
        assert_eq!(
            parse(b"{\"password\":\n \"hunter").unwrap_err().to_string(),
            "invalid JSON: an early end in line 2, column 8"
        );
        assert_eq!(
            parse(b"{} x").unwrap_err().to_string(),
            "invalid JSON: an error in line 1, column 4"
        );
        assert!(parse(b"").is_err());
    }
}
