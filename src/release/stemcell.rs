//! The stemcell that packages are compiled for: `ubuntu-jammy/1.406`.
//!
//! A Director uses a compiled package only if this text matches the `operating_system` and version of a stemcell that the Director has. It
//! silently ignores packages for other stemcells.
//!
//! On a stemcell, the version is in `/var/vcap/bosh/etc/stemcell_version`. The operating system is derived from `/etc/os-release`, because
//! `/var/vcap/bosh/etc/operating_system` contains only `ubuntu`.

use std::fmt;

use super::name::{InvalidName, Name, Version, excerpt};
use crate::diag::Chain;

mod os_release;

pub(crate) use os_release::OsRelease;

/// Why the stemcell is unknown or invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StemcellError {
    /// The text has no `/`.
    #[error("invalid stemcell `{text}`; expected OS/VERSION")]
    NotASlug {
        /// An excerpt of the text.
        text: String,
    },
    /// The operating system cannot be part of a file name.
    #[error("invalid operating system of the stemcell")]
    OperatingSystem {
        /// The reason.
        source: InvalidName,
    },
    /// The version is missing or cannot be part of a file name.
    #[error("invalid stemcell version")]
    Version {
        /// The reason.
        source: InvalidName,
    },
    /// `os-release` does not name the operating system.
    #[error("os-release has no ID")]
    NoId,
    /// `os-release` has neither a codename nor a version.
    #[error("os-release has neither VERSION_CODENAME nor VERSION_ID")]
    NoVersion,
    /// `os-release` of an Ubuntu has no codename. Directors identify Ubuntu stemcells by the codename.
    #[error("os-release of ubuntu has no VERSION_CODENAME")]
    NoCodename,
}

impl StemcellError {
    /// Advice for the user.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::NotASlug { .. } => Some("for example ubuntu-jammy/1.406"),
            Self::NoCodename => Some(
                "images before Ubuntu 16.04 have none; specify the stemcell with --stemcell, for example ubuntu-trusty/3586.100",
            ),
            Self::NoId | Self::NoVersion => {
                Some("specify the stemcell with --stemcell, for example ubuntu-jammy/1.406")
            }
            Self::OperatingSystem { .. } | Self::Version { .. } => None,
        }
    }
}

/// Operating system and version of a stemcell, in the notation of manifests and Directors: `ubuntu-jammy/1.406`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug {
    /// The `operating_system` of the stemcell in the Director: `ubuntu-jammy`.
    pub os: Name,
    /// The version of the stemcell: `1.406`.
    pub version: Version,
}

impl Slug {
    /// Parses `OS/VERSION`.
    ///
    /// # Errors
    /// The text has no `/`, or a part is not a valid [`Name`]. A second `/` is not valid.
    pub fn parse(text: &str) -> Result<Self, StemcellError> {
        let (os, version) = text
            .split_once('/')
            .ok_or_else(|| StemcellError::NotASlug {
                text: excerpt(text),
            })?;
        Self::new(os, version)
    }

    /// Combines an operating system and a version.
    ///
    /// # Errors
    /// The operating system is not a valid [`Name`], or the version is not a valid [`Version`].
    pub fn new(os: &str, version: &str) -> Result<Self, StemcellError> {
        Ok(Self {
            os: Name::parse(os).map_err(|source| StemcellError::OperatingSystem { source })?,
            version: Version::parse(version).map_err(|source| StemcellError::Version { source })?,
        })
    }

    /// The notation in file names: `ubuntu-jammy-1.406`.
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

impl serde::Serialize for Slug {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Slug {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| serde::de::Error::custom(Chain(&error)))
    }
}

/// Parses the contents of `/var/vcap/bosh/etc/stemcell_version`. White space around the version is ignored.
///
/// # Errors
/// The version is missing or not a valid [`Version`].
pub(crate) fn parse_stemcell_version(text: &str) -> Result<Version, StemcellError> {
    Version::parse(text.trim()).map_err(|source| StemcellError::Version { source })
}

/// The file name of a compiled release: `NAME-VERSION-OS-STEMCELLVERSION.tgz`.
///
/// Pipelines rely on this name. The suffix is `.tgz` even if the tarball is not compressed.
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
    fn slug_has_operating_system_and_version() {
        let slug = Slug::parse("ubuntu-jammy/1.406").unwrap();
        assert_eq!(slug.os.as_str(), "ubuntu-jammy");
        assert_eq!(slug.version.as_str(), "1.406");
        assert_eq!(slug.to_string(), "ubuntu-jammy/1.406");
        assert_eq!(slug.file_part(), "ubuntu-jammy-1.406");
    }

    #[test]
    fn error_names_the_invalid_part_of_a_slug() {
        for (text, message) in [
            ("", "invalid stemcell ``; expected OS/VERSION"),
            ("jammy-1", "invalid stemcell `jammy-1`; expected OS/VERSION"),
            (
                "/1.406",
                "invalid operating system of the stemcell: `` is empty",
            ),
            ("ubuntu-jammy/", "invalid stemcell version: `` is empty"),
            (
                "\"ubuntu\"/1",
                r#"invalid operating system of the stemcell: `\"ubuntu\"` contains '"'; only letters, digits and `-_+.` are allowed"#,
            ),
            (
                "a/1/2",
                "invalid stemcell version: `1/2` contains '/'; only letters, digits and `-_+.` are allowed",
            ),
        ] {
            assert_eq!(messages(&Slug::parse(text).unwrap_err()), message);
        }
    }

    #[test]
    fn version_file_may_have_white_space_around_the_version() {
        for text in ["1.406", "1.406\n", " 1.406\r\n\n"] {
            assert_eq!(parse_stemcell_version(text).unwrap().as_str(), "1.406");
        }
        for text in ["", " \n", "1/2", "1 2", "..", "1.406\n1.407"] {
            let error = parse_stemcell_version(text).unwrap_err();
            assert_eq!(error.to_string(), "invalid stemcell version");
        }
    }

    #[test]
    fn output_name_has_release_and_stemcell() {
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
        fn slug_survives_a_round_trip(text in r"[a-z./]{0,9}|\PC*") {
            if let Ok(slug) = Slug::parse(&text) {
                prop_assert_eq!(slug.to_string(), text);
            }
        }
    }
}
