//! What can be wrong with a manifest.

use std::fmt;

use super::MAX_BYTES;
use crate::release::digest::InvalidDigest;
use crate::release::name::InvalidName;
use crate::release::yaml;

/// One thing that is wrong with a manifest. All of them are reported at once; each is a line of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestProblem {
    /// It is too long to be a manifest.
    #[error("the manifest has {bytes} bytes, at most {MAX_BYTES} are read")]
    TooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It is not text.
    #[error("the manifest is not UTF-8: byte {offset} does not belong there")]
    NotUtf8 {
        /// Where the first wrong byte is, from 0.
        offset: usize,
    },
    /// It is not YAML, or not YAML that is read here.
    #[error(transparent)]
    Yaml(#[from] yaml::Error),
    /// It is YAML, but not what a manifest says.
    #[error("line {line}: {owner}{problem}")]
    Content {
        /// The line, from 1.
        line: usize,
        /// What it is wrong with.
        owner: Owner,
        /// What is wrong.
        problem: Problem,
    },
}

/// The part of a manifest that a problem is about. It prints with a colon and a blank behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The release itself; prints as nothing.
    Release,
    /// An entry of one of the lists.
    Entry {
        /// What it is: `package`, `compiled package` or `job`.
        kind: &'static str,
        /// Its name, escaped and shortened; `None` when it has none.
        name: Option<String>,
        /// Its place in the list, from 1.
        number: usize,
    },
    /// The license.
    License,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release => Ok(()),
            Self::Entry {
                kind,
                name: Some(name),
                ..
            } => write!(f, "{kind} `{name}`: "),
            Self::Entry {
                kind,
                name: None,
                number,
            } => write!(f, "{kind} number {number}: "),
            Self::License => f.write_str("license: "),
        }
    }
}

/// What is wrong with the content of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The document as a whole is something else.
    #[error("the manifest is {found}, not a mapping")]
    NotAMapping {
        /// What it is.
        found: &'static str,
    },
    /// A key that must be there.
    #[error("`{key}` is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value of the wrong kind.
    #[error("`{key}` must be {expected}, it is {found}")]
    Kind {
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value that must be true or false.
    #[error("`{key}` must be true or false, it is `{text}`")]
    NotABool {
        /// The key.
        key: &'static str,
        /// The text, escaped and shortened.
        text: String,
    },
    /// A name or version that is none.
    #[error("`{key}`: {error}")]
    Name {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        error: InvalidName,
    },
    /// A digest that nothing can be checked with.
    #[error("`{key}` `{text}` {error}")]
    Digest {
        /// The key.
        key: &'static str,
        /// The text, escaped and shortened.
        text: String,
        /// What is wrong with it.
        error: InvalidDigest,
    },
    /// A stemcell that is not `OS/VERSION`.
    #[error("`{key}`: `{text}` is not a stemcell of the form OS/VERSION")]
    Stemcell {
        /// The key.
        key: &'static str,
        /// The text, escaped and shortened.
        text: String,
    },
    /// A name that another entry has.
    #[error("the name is already on line {first}")]
    Duplicate {
        /// The line of the first, from 1.
        first: usize,
    },
}
