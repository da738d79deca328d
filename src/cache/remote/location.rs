//! The locations of shared caches, and how they are parsed. No I/O.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::http::{InvalidUrl, Url};

/// The location of a shared cache. It can be printed without revealing secrets: it contains no user
/// name and no password, and a URL is printed without its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// An HTTP server that accepts GET, HEAD and PUT.
    Http(Url),
    /// A server of the Remote Execution API. The URL's scheme is `http` instead of `grpc`, and
    /// `https` instead of `grpcs`.
    Grpc(Url),
}

/// Why a text is not a location. The errors do not contain the text, which may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    /// The text is empty.
    #[error("the location of a shared cache is empty")]
    Empty,
    /// The URL contains a user name or a password.
    #[error("the URL of a shared cache contains a user name or a password")]
    UserInfo,
    /// The URL has an unsupported scheme.
    #[error("the scheme `{0}` of the URL is not supported")]
    Scheme(String),
    /// The text is neither a path nor a URL.
    #[error("the URL of a shared cache does not begin with a scheme")]
    NoScheme,
    /// The text is not a valid URL.
    #[error("the URL of a shared cache cannot be used: {0}")]
    Malformed(InvalidUrl),
}

impl Location {
    /// Parses a URL or the path of a directory.
    ///
    /// # Errors
    /// If the text is empty, is an unusable URL, or contains a user name or a password.
    pub fn parse(text: &str) -> Result<Self, InvalidLocation> {
        if text.trim().is_empty() {
            return Err(InvalidLocation::Empty);
        }
        let Some((scheme, _)) = text.split_once("://") else {
            return match lacks_scheme(text) {
                true => Err(InvalidLocation::NoScheme),
                false => Ok(Self::Directory(PathBuf::from(text))),
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => checked(text).map(Self::Http),
            "grpc" | "grpcs" => {
                let text = text.trim_start();
                let rest = text.get("grpc".len()..).unwrap_or_default();
                checked(&format!("http{rest}")).map(Self::Grpc)
            }
            other if is_scheme(other) => Err(InvalidLocation::Scheme(other.to_owned())),
            _ => Err(InvalidLocation::NoScheme),
        }
    }

    /// The directory, if the location is a directory.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(directory) => Some(directory),
            Self::Http(_) | Self::Grpc(_) => None,
        }
    }
}

fn is_scheme(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_part)
}

/// Whether a path is probably a URL without its scheme: `USER@HOST` or `HOST:PORT`.
fn lacks_scheme(text: &str) -> bool {
    if text.starts_with(['/', '.']) {
        return false;
    }
    let first = text.split('/').next().unwrap_or_default();
    let has_port = first.rsplit_once(':').is_some_and(|(host, port)| {
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        !host.is_empty() && is_number
    });
    text.contains('@') || has_port
}

fn shown(url: &Url) -> String {
    url.to_string().trim_end_matches('/').to_owned()
}

fn checked(text: &str) -> Result<Url, InvalidLocation> {
    let url = Url::parse(text).map_err(InvalidLocation::Malformed)?;
    match url.has_user_info() {
        true => Err(InvalidLocation::UserInfo),
        false => Ok(url),
    }
}

impl InvalidLocation {
    /// What the user can do about the error.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty | Self::Scheme(_) | Self::Malformed(_) => {
                "pass a directory or a URL that begins with http://, https://, grpc:// or grpcs://"
            }
            Self::NoScheme => {
                "pass a URL that begins with http://, https://, grpc:// or grpcs://; a relative path of a directory begins with ./"
            }
            Self::UserInfo => {
                "other users of this machine can read the command line: set BOSH_AGENT_CACHE_USER and \
                 BOSH_AGENT_CACHE_PASSWORD, or BOSH_AGENT_CACHE_TOKEN, or write a netrc file"
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Http(url) => write!(f, "{}", shown(url)),
            Self::Grpc(url) => write!(f, "{}", shown(url).replacen("http", "grpc", 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn location_is_a_directory_or_a_url() {
        for (text, shown) in [
            ("/mnt/cache", "/mnt/cache"),
            ("cache", "cache"),
            ("./a@b", "./a@b"),
            ("a:b/c", "a:b/c"),
            ("http://host:8080/a/", "http://host:8080/a"),
            ("grpc://host:9092/team/", "grpc://host:9092/team"),
            ("grpcs://host", "grpcs://host"),
            ("HTTPS://Host?sig=hunter2", "https://host"),
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), shown);
        }
        assert!(Location::parse("cache").unwrap().directory().is_some());
    }

    #[test]
    fn unusable_location_is_reported_without_its_text() {
        for (text, expected) in [
            (" ", InvalidLocation::Empty),
            ("https://u:hunter2@host/", InvalidLocation::UserInfo),
            ("grpcs://u:hunter2@host/", InvalidLocation::UserInfo),
            ("https://hunter2@host/", InvalidLocation::UserInfo),
            ("s3://hunter2/x", InvalidLocation::Scheme("s3".to_owned())),
            ("me:hunter2@host://x", InvalidLocation::NoScheme),
            ("me:hunter2@host/x", InvalidLocation::NoScheme),
            ("hunter2:8080/x", InvalidLocation::NoScheme),
            ("hunter2:8080", InvalidLocation::NoScheme),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error, expected);
            assert!(!format!("{error} {error:?}").contains("hunter2"));
            assert!(!error.hint().is_empty());
        }
        assert!(Location::parse("http://:80:90/").is_err());
    }
}
