//! The problems that a manifest (`release.MF`) can have.

use std::fmt;

use super::MAX_BYTES;
use crate::release::digest::InvalidDigest;
use crate::release::name::InvalidName;
use crate::release::yaml;

/// A problem of a manifest. All problems are reported together, one per line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestProblem {
    /// The manifest is too large.
    #[error("the manifest has {bytes} bytes; the limit is {MAX_BYTES}")]
    TooLarge {
        /// The size in bytes.
        bytes: usize,
    },
    /// The manifest is not text.
    #[error("the manifest is not UTF-8: invalid byte at offset {offset}")]
    NotUtf8 {
        /// The offset of the first invalid byte, from 0.
        offset: usize,
    },
    /// The manifest is not valid YAML.
    #[error(transparent)]
    Yaml(#[from] yaml::Error),
    /// The content is invalid.
    #[error("line {line}: {part}{problem}")]
    Content {
        /// The line, from 1.
        line: usize,
        /// The part of the manifest with the problem.
        part: ManifestPart,
        /// The problem.
        problem: FieldProblem,
    },
}

/// The part of a manifest that has a problem. Its text ends with a colon and a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestPart {
    /// The release itself. Its text is empty.
    Release,
    /// An item of a list.
    Item {
        /// The kind: `package`, `compiled package` or `job`.
        kind: &'static str,
        /// An excerpt of the name, if the item has one.
        name: Option<String>,
        /// The position in the list, from 1.
        number: usize,
    },
    /// The license.
    License,
}

impl fmt::Display for ManifestPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release => Ok(()),
            Self::Item {
                kind,
                name: Some(name),
                ..
            } => write!(f, "{kind} `{name}`: "),
            Self::Item {
                kind,
                name: None,
                number,
            } => write!(f, "{kind} number {number}: "),
            Self::License => f.write_str("license: "),
        }
    }
}

/// A problem of a manifest's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// The document is not a mapping.
    #[error("the manifest is {found}; expected a mapping")]
    NotAMapping {
        /// The actual kind.
        found: &'static str,
    },
    /// A required key is missing.
    #[error("`{key}` is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value has the wrong kind.
    #[error("`{key}` is {found}; expected {expected}")]
    WrongKind {
        /// The key.
        key: &'static str,
        /// The expected kind.
        expected: &'static str,
        /// The actual kind.
        found: &'static str,
    },
    /// A value is not a boolean.
    #[error("`{key}` is `{text}`; expected true or false")]
    NotBoolean {
        /// The key.
        key: &'static str,
        /// An excerpt of the text.
        text: String,
    },
    /// A name or version is invalid.
    #[error("`{key}`: {error}")]
    Name {
        /// The key.
        key: &'static str,
        /// The reason.
        error: InvalidName,
    },
    /// A digest is invalid or cannot be verified.
    #[error("`{key}` `{text}` {error}")]
    Digest {
        /// The key.
        key: &'static str,
        /// An excerpt of the text.
        text: String,
        /// The reason.
        error: InvalidDigest,
    },
    /// A stemcell is not of the form `OS/VERSION`.
    #[error("`{key}` is `{text}`; expected OS/VERSION")]
    Stemcell {
        /// The key.
        key: &'static str,
        /// An excerpt of the text.
        text: String,
    },
    /// Two items have the same name.
    #[error("duplicate name; the first is on line {first}")]
    DuplicateName {
        /// The line of the first item, from 1.
        first: usize,
    },
}
