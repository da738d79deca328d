//! The ID of an agent.

use std::fmt;

/// The ID of an agent: a UUID, `bm-` and a UUID, or a name that the user of a CPI chose.
///
/// The ID becomes part of NATS subjects and of files. So it must not contain characters that have a
/// special meaning there (wildcards, white space, slashes, control characters) or empty parts
/// between dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AgentId(String);

/// Why a text is not a valid agent ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgentIdError {
    /// The ID is missing.
    #[error("the agent_id is missing")]
    Missing,
    /// The ID is too long.
    #[error("the agent_id has {length} bytes; the limit is {}", AgentId::MAX_LEN)]
    TooLong {
        /// The length in bytes.
        length: usize,
    },
    /// The ID contains a character that is not allowed.
    #[error(
        "the agent_id contains {character:?}; only letters, digits, `.`, `_` and `-` are allowed"
    )]
    Character {
        /// The first character that is not allowed.
        character: char,
    },
    /// The ID starts or ends with a dot, or contains two consecutive dots.
    #[error("the agent_id starts or ends with a dot, or has two dots in a row")]
    Dots,
}

impl AgentId {
    /// The maximum length in bytes.
    pub(crate) const MAX_LEN: usize = 255;

    /// Checks an ID.
    ///
    /// # Errors
    /// If the text is empty or too long, or contains something that is not allowed.
    pub fn parse(text: &str) -> Result<Self, AgentIdError> {
        if text.is_empty() {
            return Err(AgentIdError::Missing);
        }
        if text.len() > Self::MAX_LEN {
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
    fn ids_of_directors_and_command_lines_are_valid() {
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
    fn special_characters_of_subjects_and_paths_are_invalid() {
        for name in [
            "a b", "a*", ">", "a/b", "a\n", "é", "a:b", "..", ".a", "a.", "a..b", "",
        ] {
            assert!(AgentId::parse(name).is_err(), "{name:?}");
        }
        assert!(AgentId::parse(&"a".repeat(256)).is_err());
    }
}
