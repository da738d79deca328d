//! Names and versions: the texts of a manifest that become parts of paths.
//!
//! The rule is the Director's (`[-0-9A-Za-z_+.]+` over the whole text), made safe for paths: the Director lets `..`
//! pass, and a package of that name would reach out of every directory that is built from it.

use std::fmt;
use std::str::FromStr;

/// The longest name or version, in bytes. A file name holds at most 255, and `.tgz` and a temporary suffix are added.
pub const MAX_LEN: usize = 200;

/// How much of a refused text an error shows, in characters.
const SHOWN: usize = 60;

/// What a refused name or version breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameRule {
    /// Nothing is there.
    #[error("is empty")]
    Empty,
    /// There is more than [`MAX_LEN`] bytes of it.
    #[error("is {len} bytes long, {MAX_LEN} are allowed")]
    TooLong {
        /// How long it is, in bytes.
        len: usize,
    },
    /// It is `.` or `..`, which a path takes for a directory.
    #[error("would be taken for a directory")]
    Dots,
    /// It starts with `-`, which commands take for an option.
    #[error("starts with `-`")]
    LeadingDash,
    /// A character that is not allowed, the first of them.
    #[error("has {found:?}, only letters, digits and `-_+.` are allowed")]
    Character {
        /// The character.
        found: char,
    },
}

/// A text that cannot be a name or a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {rule}")]
pub struct InvalidName {
    /// The text, escaped and shortened so that it can be printed.
    pub text: String,
    /// The rule that it breaks, the first of them.
    pub rule: NameRule,
}

/// A text as an error shows it: on one line, and no longer than a line.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown.escape_debug().to_string()
}

fn check(text: &str) -> Result<(), InvalidName> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_+.".contains(c);
    let rule = if text.is_empty() {
        NameRule::Empty
    } else if text.len() > MAX_LEN {
        NameRule::TooLong { len: text.len() }
    } else if let Some(found) = text.chars().find(|&c| !allowed(c)) {
        NameRule::Character { found }
    } else if text == "." || text == ".." {
        NameRule::Dots
    } else if text.starts_with('-') {
        NameRule::LeadingDash
    } else {
        return Ok(());
    };
    Err(InvalidName {
        text: shown(text),
        rule,
    })
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Takes a text that obeys the rule of this module.
            ///
            /// # Errors
            /// The text and the rule that it breaks.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }

            /// The text, as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `pad` and not `write_str`, so that `{:<20}` lines names up in a table.
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

checked_text! {
    /// The name of a release, a package or a job: safe as one component of a path. Ordered by bytes.
    Name
}

checked_text! {
    /// The version of a release, a package, a job or a stemcell: safe as one component of a path. Ordered by bytes,
    /// which is not the order of versions.
    Version
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_versions_of_real_releases_are_fine() {
        let long = "x".repeat(MAX_LEN);
        for text in [
            "a",
            "log-cache",
            "golang-1.20-linux",
            "a.b+c",
            "1.0+dev.12",
            "_x",
            ".hidden",
            "...",
            "+1",
            "1.10",
            &long,
        ] {
            assert_eq!(Name::parse(text).unwrap().as_str(), text);
            assert_eq!(text.parse::<Version>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_refused_name_tells_the_text_and_the_rule() {
        for (text, message) in [
            ("", "`` is empty"),
            (".", "`.` would be taken for a directory"),
            ("..", "`..` would be taken for a directory"),
            ("-rf", "`-rf` starts with `-`"),
            (
                "a/b",
                "`a/b` has '/', only letters, digits and `-_+.` are allowed",
            ),
            (
                "a\n",
                r"`a\n` has '\n', only letters, digits and `-_+.` are allowed",
            ),
            (
                "é",
                "`é` has 'é', only letters, digits and `-_+.` are allowed",
            ),
        ] {
            assert_eq!(Name::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_refused_long_name_is_shortened() {
        let error = Name::parse(&"x".repeat(201)).unwrap_err();
        assert_eq!(error.rule, NameRule::TooLong { len: 201 });
        assert_eq!(error.text.chars().count(), SHOWN + 1);
        assert!(error.text.ends_with('…'));
    }

    #[test]
    fn names_are_ordered_by_bytes() {
        let mut names = ["a", "_x", "B"].map(|text| Name::parse(text).unwrap());
        names.sort();
        assert_eq!(names.map(|name| name.to_string()), ["B", "_x", "a"]);
    }

    proptest! {
        #[test]
        fn a_name_is_one_component_of_a_path(text in r"[-0-9A-Za-z_+./]{0,8}|\PC*") {
            if let Ok(name) = Name::parse(&text) {
                let mut parts = std::path::Path::new(name.as_str()).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }
    }
}
