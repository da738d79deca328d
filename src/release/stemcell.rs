//! The stemcell that packages are compiled for: `ubuntu-jammy/1.406`.
//!
//! A Director uses a compiled package only where this text equals its stemcell's `operating_system` and version, and
//! says nothing when it does not. On a stemcell the version is in `/var/vcap/bosh/etc/stemcell_version`, and the
//! operating system is put together from `/etc/os-release`: `/var/vcap/bosh/etc/operating_system` holds only `ubuntu`.

use std::fmt;
use std::str::FromStr;

use super::name::{InvalidName, Name, Version, shown};

mod os_release;

pub use os_release::OsRelease;

/// Why it is not known which stemcell this is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StemcellError {
    /// A slug without its `/`.
    #[error("the stemcell `{text}` is not of the form OS/VERSION")]
    NotASlug {
        /// The text, escaped and shortened.
        text: String,
    },
    /// An operating system that cannot be part of a file name.
    #[error("the stemcell's operating system is not usable")]
    OperatingSystem {
        /// What is wrong with it.
        source: InvalidName,
    },
    /// A version that cannot be part of a file name, or none at all.
    #[error("the stemcell's version is not usable")]
    Version {
        /// What is wrong with it.
        source: InvalidName,
    },
    /// `os-release` does not say which operating system it is.
    #[error("os-release has no ID")]
    NoId,
    /// `os-release` says neither how its version is called nor which it is.
    #[error("os-release has neither VERSION_CODENAME nor VERSION_ID")]
    NoVersion,
    /// An Ubuntu whose `os-release` has no codename: Directors know Ubuntu stemcells by codename only.
    #[error("os-release of ubuntu has no VERSION_CODENAME")]
    NoCodename,
}

impl StemcellError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::NotASlug { .. } => Some("an example is ubuntu-jammy/1.406"),
            Self::NoCodename => Some(
                "images before Ubuntu 16.04 lack it: name the stemcell with --stemcell, like ubuntu-trusty/3586.100",
            ),
            Self::NoId | Self::NoVersion => {
                Some("name the stemcell with --stemcell, like ubuntu-jammy/1.406")
            }
            Self::OperatingSystem { .. } | Self::Version { .. } => None,
        }
    }
}

/// An operating system and a stemcell version, as manifests and Directors write them: `ubuntu-jammy/1.406`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug {
    /// The Director's `operating_system` of the stemcell, `ubuntu-jammy`.
    pub os: Name,
    /// The stemcell's version, `1.406`.
    pub version: Version,
}

impl Slug {
    /// Reads `OS/VERSION`.
    ///
    /// # Errors
    /// No `/`, or a part that breaks the rule of [`Name`]. A second `/` breaks it.
    pub fn parse(text: &str) -> Result<Self, StemcellError> {
        let (os, version) = text
            .split_once('/')
            .ok_or_else(|| StemcellError::NotASlug { text: shown(text) })?;
        Self::new(os, version)
    }

    /// Puts an operating system and a version together.
    ///
    /// # Errors
    /// A part that breaks the rule of [`Name`].
    pub fn new(os: &str, version: &str) -> Result<Self, StemcellError> {
        Ok(Self {
            os: Name::parse(os).map_err(|source| StemcellError::OperatingSystem { source })?,
            version: Version::parse(version).map_err(|source| StemcellError::Version { source })?,
        })
    }

    /// How it appears in file names: `ubuntu-jammy-1.406`.
    #[must_use]
    pub fn file_part(&self) -> String {
        format!("{}-{}", self.os, self.version)
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.version)
    }
}

impl FromStr for Slug {
    type Err = StemcellError;

    fn from_str(text: &str) -> Result<Self, StemcellError> {
        Self::parse(text)
    }
}

/// Reads the text of `/var/vcap/bosh/etc/stemcell_version`. White space around the version is not part of it.
///
/// # Errors
/// No version, or one that breaks the rule of [`Version`].
pub fn parse_stemcell_version(text: &str) -> Result<Version, StemcellError> {
    Version::parse(text.trim()).map_err(|source| StemcellError::Version { source })
}

/// The file name of a compiled release: `NAME-VERSION-OS-STEMCELLVERSION.tgz`.
///
/// Pipelines rely on this name. It is `.tgz` even where the tarball is not compressed.
#[must_use]
pub fn output_name(name: &Name, version: &Version, stemcell: &Slug) -> String {
    format!("{name}-{version}-{}.tgz", stemcell.file_part())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::error::Error as _;

    fn messages(error: &StemcellError) -> String {
        match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn a_slug_is_an_operating_system_and_a_version() {
        let slug = Slug::parse("ubuntu-jammy/1.406").unwrap();
        assert_eq!(slug.os.as_str(), "ubuntu-jammy");
        assert_eq!(slug.version.as_str(), "1.406");
        assert_eq!(slug.to_string(), "ubuntu-jammy/1.406");
        assert_eq!(slug.file_part(), "ubuntu-jammy-1.406");
    }

    #[test]
    fn a_refused_slug_says_which_part_is_wrong() {
        for (text, message) in [
            ("", "the stemcell `` is not of the form OS/VERSION"),
            (
                "jammy-1",
                "the stemcell `jammy-1` is not of the form OS/VERSION",
            ),
            (
                "/1.406",
                "the stemcell's operating system is not usable: `` is empty",
            ),
            (
                "ubuntu-jammy/",
                "the stemcell's version is not usable: `` is empty",
            ),
            (
                "\"ubuntu\"/1",
                r#"the stemcell's operating system is not usable: `\"ubuntu\"` has '"', only letters, digits and `-_+.` are allowed"#,
            ),
            (
                "a/1/2",
                "the stemcell's version is not usable: `1/2` has '/', only letters, digits and `-_+.` are allowed",
            ),
        ] {
            assert_eq!(messages(&Slug::parse(text).unwrap_err()), message);
        }
    }

    #[test]
    fn the_version_file_may_have_white_space_around_the_version() {
        for text in ["1.406", "1.406\n", " 1.406\r\n\n"] {
            assert_eq!(parse_stemcell_version(text).unwrap().as_str(), "1.406");
        }
        for text in ["", " \n", "1/2", "1 2", "..", "1.406\n1.407"] {
            let error = parse_stemcell_version(text).unwrap_err();
            assert_eq!(error.to_string(), "the stemcell's version is not usable");
        }
    }

    #[test]
    fn the_output_is_named_after_release_and_stemcell() {
        let name = Name::parse("log-cache").unwrap();
        let version = Version::parse("3.0.9+dev.1").unwrap();
        let slug = Slug::parse("ubuntu-jammy/1.406").unwrap();
        assert_eq!(
            output_name(&name, &version, &slug),
            "log-cache-3.0.9+dev.1-ubuntu-jammy-1.406.tgz"
        );
    }

    proptest! {
        #[test]
        fn a_slug_is_printed_as_it_was_read(text in r"[a-z./]{0,9}|\PC*") {
            if let Ok(slug) = Slug::parse(&text) {
                prop_assert_eq!(slug.to_string(), text);
            }
        }
    }
}
