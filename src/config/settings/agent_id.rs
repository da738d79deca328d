//! Who this agent is.

use std::fmt;

/// The name that a Director gave this agent: a UUID, or `bm-` and a UUID, or what a CPI's user
/// chose.
///
/// It becomes a part of NATS subjects and of file contents, so it has none of what means something
/// there: wildcards, spaces, slashes, control characters, and no empty token between dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AgentId(String);

/// A text that is no agent's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgentIdError {
    /// There is none.
    #[error("the agent_id is missing")]
    Missing,
    /// It is longer than any.
    #[error("the agent_id has {length} bytes; the limit is {}", AgentId::LONGEST)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It has a character that a NATS subject or a path may not have.
    #[error(
        "the agent_id contains {character:?}; only letters, digits, `.`, `_` and `-` are allowed"
    )]
    Character {
        /// The first such character.
        character: char,
    },
    /// It begins or ends with a dot, or has two in a row.
    #[error("the agent_id starts or ends with a dot, or has two dots in a row")]
    Dots,
}

impl AgentId {
    /// The most bytes that it may have.
    pub const LONGEST: usize = 255;

    /// Takes a text for a name.
    ///
    /// # Errors
    /// When it cannot be a part of a NATS subject or of a path.
    pub fn parse(text: &str) -> Result<Self, AgentIdError> {
        if text.is_empty() {
            return Err(AgentIdError::Missing);
        }
        if text.len() > Self::LONGEST {
            return Err(AgentIdError::TooLong { length: text.len() });
        }
        let allowed = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
        };
        if let Some(character) = text.chars().find(|character| !allowed(*character)) {
            return Err(AgentIdError::Character { character });
        }
        if text.split('.').any(str::is_empty) {
            return Err(AgentIdError::Dots);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_directors_and_command_lines_give_is_a_name() {
        for name in [
            "0f7c6f2e-2f1c-4b7e-9d0a-0c1d2e3f4a5b",
            "bm-a1b2",
            "agent_1.zone-2",
            "x",
        ] {
            assert_eq!(AgentId::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_means_something_in_a_subject_or_a_path_is_none() {
        for name in [
            "a b", "a*", ">", "a/b", "a\n", "é", "a:b", "..", ".a", "a.", "a..b", "",
        ] {
            assert!(AgentId::parse(name).is_err(), "{name:?}");
        }
        assert!(AgentId::parse(&"a".repeat(256)).is_err());
    }
}
