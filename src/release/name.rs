//! Names and versions of releases, packages and jobs: texts that become components of paths.
//!
//! The rule is the Director's, `[-0-9A-Za-z_+.]+`, with additional restrictions that make a name safe in a path. For example, the Director
//! allows the name `..`, but a package with this name would be written outside the directory of packages.

use std::fmt;

/// The maximum length of a name or version in bytes. A file name, which also has `.tgz` and a temporary suffix, is limited to 255 bytes.
pub(crate) const MAX_LEN: usize = 200;

/// The maximum length of an excerpt, in characters.
const EXCERPT_LEN: usize = 60;

/// The rule that a name or version violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameRule {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is longer than [`MAX_LEN`].
    #[error("has {len} bytes; the limit is {MAX_LEN}")]
    TooLong {
        /// The length in bytes.
        len: usize,
    },
    /// The text is `.` or `..`, which have a special meaning in paths.
    #[error("cannot be a name: it means a directory")]
    Dots,
    /// The text starts with `-`, so a command could read it as an option.
    #[error("starts with `-`")]
    LeadingDash,
    /// The text contains a character that is not allowed.
    #[error("contains {found:?}; only letters, digits and `-_+.` are allowed")]
    Character {
        /// The first such character.
        found: char,
    },
}

/// Why a text is not a valid name or version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {rule}")]
pub struct InvalidName {
    /// An excerpt of the text.
    pub text: String,
    /// The first rule that the text violates.
    pub rule: NameRule,
}

/// Escapes and shortens a text for an error message on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(EXCERPT_LEN).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt.escape_debug().to_string()
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
        text: excerpt(text),
        rule,
    })
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// The text is not valid.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `pad` instead of `write_str` supports widths, for tables.
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

checked_text! {
    /// The name of a release, a package or a job. It is safe as a component of a path: letters, digits and `-_+.`, without a `-` at the
    /// start. Ordered by bytes.
    Name
}

checked_text! {
    /// The version of a release, a package, a job or a stemcell. It is safe as a component of a path. Ordered by bytes, so `1.10` comes
    /// before `1.9`.
    Version
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_versions_of_real_releases_are_valid() {
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
            assert_eq!(Version::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn error_shows_the_text_and_the_rule() {
        for (text, message) in [
            ("", "`` is empty"),
            (".", "`.` cannot be a name: it means a directory"),
            ("..", "`..` cannot be a name: it means a directory"),
            ("-rf", "`-rf` starts with `-`"),
            (
                "a/b",
                "`a/b` contains '/'; only letters, digits and `-_+.` are allowed",
            ),
            (
                "a\n",
                r"`a\n` contains '\n'; only letters, digits and `-_+.` are allowed",
            ),
            (
                "é",
                "`é` contains 'é'; only letters, digits and `-_+.` are allowed",
            ),
        ] {
            assert_eq!(Name::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn long_text_is_shortened_in_the_error() {
        let error = Name::parse(&"x".repeat(201)).unwrap_err();
        assert_eq!(error.rule, NameRule::TooLong { len: 201 });
        assert_eq!(error.text.chars().count(), EXCERPT_LEN + 1);
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
        fn name_is_one_component_of_a_path(text in r"[-0-9A-Za-z_+./]{0,8}|\PC*") {
            if let Ok(name) = Name::parse(&text) {
                let mut parts = std::path::Path::new(name.as_str()).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }
    }
}
