//! Parses YAML into a tree of nodes. The parser is `saphyr-parser`; this module builds a tree from its events, enforces the rules of
//! manifests, and limits the memory that a document can use.
//!
//! A scalar (a single value) keeps its text, because a version `1.10` must not become the number 1.1: a Director identifies a release by
//! the text of its version. The code that reads a field interprets the scalar as a boolean or null, with the methods of [`Scalar`].

mod input;
mod plain;
mod tree;

pub(crate) use plain::quoted;
pub(crate) use tree::{Error, parse};

/// A node of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    Sequence(Sequence),
    /// Keys and values.
    Mapping(Mapping),
}

impl Node {
    /// The line of the first character, from 1. An alias has the line of its anchored node.
    #[must_use]
    pub(crate) fn line(&self) -> usize {
        match self {
            Self::Scalar(scalar) => scalar.line,
            Self::Sequence(sequence) => sequence.line,
            Self::Mapping(mapping) => mapping.line,
        }
    }

    /// The kind of the node, for messages: `a list`.
    #[must_use]
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(_) => "a scalar",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }

    /// Whether the node is a [null](Scalar::is_null).
    #[must_use]
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.is_null())
    }
}

/// A single value and its notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalar {
    /// The text, without quotes, with escapes resolved and `!binary` decoded.
    pub text: String,
    /// Whether the notation is plain: neither quoted nor a block.
    pub plain: bool,
    /// The resolved tag: `!!str` is `tag:yaml.org,2002:str`, `!x` is `!x`.
    pub tag: Option<String>,
    /// The line of the first character, from 1.
    pub line: usize,
}

impl Scalar {
    /// Whether the scalar is null: tagged `!!null`, or an untagged plain `null`, `Null`, `NULL`, `~` or empty text.
    #[must_use]
    pub(crate) fn is_null(&self) -> bool {
        match self.tag.as_deref() {
            None => self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL"),
            Some(tag) => tag == "tag:yaml.org,2002:null",
        }
    }

    /// Interprets the scalar as a boolean: a word of YAML 1.1 or 1.2 that is either plain and untagged, or tagged `!!bool`. Returns `None`
    /// for any other scalar.
    #[must_use]
    pub(crate) fn as_bool(&self) -> Option<bool> {
        let is_candidate = match self.tag.as_deref() {
            None => self.plain,
            Some(tag) => tag == "tag:yaml.org,2002:bool",
        };
        if !is_candidate {
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
pub(crate) struct Sequence {
    /// The items.
    pub items: Vec<Node>,
    /// The line of the first character, from 1.
    pub line: usize,
}

/// Keys and values in document order; keys are distinct texts. Keys merged by `<<` are last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Pairs of key and value.
    pub entries: Vec<(Scalar, Node)>,
    /// The line of the first character, from 1.
    pub line: usize,
}

impl Mapping {
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
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
    fn booleans_are_words_without_quotes() {
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
    fn nulls_are_null_words_or_empty_without_quotes() {
        for text in ["", "~", "null", "Null", "NULL", "!!null x"] {
            assert!(scalar(text).is_null(), "{text}");
        }
        for text in ["''", "\"~\"", "'null'", "nULL", "!!str", "!!str ~", "0"] {
            assert!(!scalar(text).is_null(), "{text}");
        }
    }
}
