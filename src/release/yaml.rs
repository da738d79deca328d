//! YAML as a small tree that keeps what a manifest must not lose.
//!
//! A scalar keeps its own text: `1.10` is a version and not a number, and what a Director takes for the same release
//! is decided by such texts. The parser below is `saphyr-parser`; this module makes a tree of its events, with the
//! rules that manifests need and limits against documents made to exhaust memory.
//!
//! It knows no types but text: what is a bool or a null is decided where a field is read, by [`Scalar`].

mod input;
mod plain;
mod tree;

pub use plain::quoted;
pub use tree::{Error, ErrorKind, MAX_DEPTH, MAX_NODES, MAX_TEXT, parse};

/// A node of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A text.
    Scalar(Scalar),
    /// A list.
    Sequence(Sequence),
    /// Keys and values.
    Mapping(Mapping),
}

impl Node {
    /// The line on which it starts, from 1. Behind an alias it is the line of the anchor, where the text is.
    #[must_use]
    pub fn line(&self) -> usize {
        match self {
            Self::Scalar(scalar) => scalar.line,
            Self::Sequence(sequence) => sequence.line,
            Self::Mapping(mapping) => mapping.line,
        }
    }

    /// What it is, with its article, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(_) => "a scalar",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }

    /// Whether it is a [null](Scalar::is_null).
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.is_null())
    }
}

/// A text and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text: without quotes, escapes resolved, `!binary` decoded, and not interpreted any further.
    pub text: String,
    /// Whether it was written without quotes and not as a block.
    pub plain: bool,
    /// Its tag, resolved: `!!str` is `tag:yaml.org,2002:str`, `!x` is `!x`.
    pub tag: Option<String>,
    /// The line on which it starts, from 1.
    pub line: usize,
}

impl Scalar {
    /// Whether YAML takes it for null: `null`, `~` or nothing at all, not quoted and not tagged otherwise.
    #[must_use]
    pub fn is_null(&self) -> bool {
        match self.tag.as_deref() {
            None => self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL"),
            Some(tag) => tag == "tag:yaml.org,2002:null",
        }
    }

    /// The bool that it is in YAML: the words of YAML 1.2 and 1.1, not quoted unless tagged as a bool.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        let may_be = match self.tag.as_deref() {
            None => self.plain,
            Some(tag) => tag == "tag:yaml.org,2002:bool",
        };
        if !may_be {
            return None;
        }
        match self.text.as_str() {
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
                Some(true)
            }
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n"
            | "N" => Some(false),
            _ => None,
        }
    }
}

/// A list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its items.
    pub items: Vec<Node>,
    /// The line on which it starts, from 1.
    pub line: usize,
}

/// Keys and values, in the order of the document; keys are distinct texts. What `<<` merged comes last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The pairs.
    pub entries: Vec<(Scalar, Node)>,
    /// The line on which it starts, from 1.
    pub line: usize,
}

impl Mapping {
    /// The value of a key, by the key's text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries
            .iter()
            .find(|(name, _)| name.text == key)
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(document: &str) -> Scalar {
        let node = parse(document).unwrap();
        let Node::Scalar(scalar) = node else {
            panic!("{node:?}")
        };
        scalar
    }

    #[test]
    fn bools_are_words_without_quotes() {
        for word in [
            "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y",
        ] {
            assert_eq!(scalar(word).as_bool(), Some(true), "{word}");
        }
        for word in [
            "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N",
        ] {
            assert_eq!(scalar(word).as_bool(), Some(false), "{word}");
        }
        for text in [
            "\"true\"",
            "'no'",
            "tRUE",
            "1",
            "~",
            "!!str true",
            "|-\n  true",
        ] {
            assert_eq!(scalar(text).as_bool(), None, "{text}");
        }
        assert_eq!(scalar("!!bool \"true\"").as_bool(), Some(true));
    }

    #[test]
    fn nulls_are_nothing_without_quotes() {
        for text in ["", "~", "null", "Null", "NULL", "!!null x"] {
            assert!(scalar(text).is_null(), "{text}");
        }
        for text in ["''", "\"~\"", "'null'", "nULL", "!!str", "!!str ~", "0"] {
            assert!(!scalar(text).is_null(), "{text}");
        }
    }
}
