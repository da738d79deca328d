//! URLs that can be printed without revealing secrets.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::Uri;
use hyper::header::HeaderValue;
use percent_encoding::percent_decode_str;

/// A URL with the scheme `http` or `https`.
///
/// `Display` and `Debug` omit the query, which authorizes the request in signed URLs, and the user
/// name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(::url::Url);

/// Why a text is not an HTTP URL. The errors do not contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// The text is not a URL.
    #[error("not a URL: {0}")]
    Malformed(::url::ParseError),
    /// The scheme is neither `http` nor `https`.
    #[error("not an http or https URL")]
    Scheme,
}

impl Url {
    /// Parses an absolute URL.
    ///
    /// # Errors
    /// If the text is not a URL, or its scheme is neither `http` nor `https`.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        Self::checked(::url::Url::parse(text.trim()))
    }

    /// Resolves the `Location` header of a response to a request for this URL.
    pub(super) fn join(&self, location: &str) -> Result<Self, InvalidUrl> {
        Self::checked(self.0.join(location))
    }

    fn checked(url: Result<::url::Url, ::url::ParseError>) -> Result<Self, InvalidUrl> {
        let url = url.map_err(InvalidUrl::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidUrl::Scheme);
        }
        Ok(Self(url))
    }

    /// Appends escaped segments to the path.
    #[must_use]
    pub fn with_segments(&self, segments: &[&str]) -> Self {
        let mut url = self.0.clone();
        // This fails only for URLs without a host. HTTP URLs always have one.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        Self(url)
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The last segment of the path.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.path().rsplit('/').next().unwrap_or_default()
    }

    /// Whether the URL contains a user name or a password.
    pub(crate) fn has_user_info(&self) -> bool {
        !self.0.username().is_empty() || self.0.password().is_some()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The host name or address. An IPv6 address is in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The port; by default, the port of the scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or_default()
    }

    /// Whether the host is this machine, by the rules of Go's proxy settings. Requests to such
    /// hosts never use a proxy.
    pub(super) fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(::url::Host::Domain(name)) => name == "localhost",
            Some(::url::Host::Ipv4(address)) => address.is_loopback(),
            Some(::url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// Whether scheme, host and port are the same.
    pub(super) fn same_server(&self, other: &Self) -> bool {
        self.0.origin() == other.0.origin()
    }

    /// Scheme, host and port, as a connector needs them.
    pub(crate) fn server(&self) -> Result<Uri, hyper::http::Error> {
        Uri::builder()
            .scheme(self.0.scheme())
            .authority(format!("{}:{}", self.host(), self.port()))
            .path_and_query("/")
            .build()
    }

    /// The target in the request line. For a server, path and query; for a proxy, everything except
    /// fragment and userinfo.
    pub(super) fn target(&self, for_proxy: bool) -> Result<Uri, hyper::http::Error> {
        let mut path = self.0.path().to_owned();
        if let Some(query) = self.0.query() {
            path.push('?');
            path.push_str(query);
        }
        let builder = Uri::builder().path_and_query(path);
        if !for_proxy {
            return builder.build();
        }
        let authority = self.authority();
        builder.scheme(self.0.scheme()).authority(authority).build()
    }

    /// Host and port for the `Host` header. The default port of the scheme is omitted.
    pub(super) fn authority(&self) -> String {
        match self.0.port() {
            Some(port) => format!("{}:{port}", self.host()),
            None => self.host().to_owned(),
        }
    }

    /// The `Authorization` header for the user name and password in the URL.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        if self.0.username().is_empty() && self.0.password().is_none() {
            return None;
        }
        let user = percent_decode_str(self.0.username()).decode_utf8_lossy();
        let password =
            percent_decode_str(self.0.password().unwrap_or_default()).decode_utf8_lossy();
        basic_authorization(&user, &password)
    }
}

/// An `Authorization` header with user name and password.
pub(super) fn basic_authorization(user: &str, password: &str) -> Option<HeaderValue> {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Scheme, host, port and path.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}{}",
            self.0.scheme(),
            self.authority(),
            self.0.path()
        )
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn userinfo_and_query_are_not_printed() {
        let signed =
            url("https://user:hunter2@s3.example:8443/bucket/key?X-Signature=hunter2#hunter2");
        assert_eq!(signed.to_string(), "https://s3.example:8443/bucket/key");
        assert_eq!(
            format!("{signed:?}"),
            "Url(https://s3.example:8443/bucket/key)"
        );
        let error = Url::parse("https://user:hunter2@:x/?hunter2").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert_eq!(Url::parse("ftp://host/").unwrap_err(), InvalidUrl::Scheme);
    }

    #[test]
    fn path_and_query_are_sent_as_they_were_signed() {
        let signed = url("https://u@host/a%2Fb/c%20d?sig=a%2Bb%3D&t=x+y#part");
        assert_eq!(
            signed.target(false).unwrap().to_string(),
            "/a%2Fb/c%20d?sig=a%2Bb%3D&t=x+y"
        );
        assert_eq!(
            signed.target(true).unwrap().to_string(),
            "https://host/a%2Fb/c%20d?sig=a%2Bb%3D&t=x+y"
        );
        assert_eq!(signed.server().unwrap().to_string(), "https://host:443/");
        assert_eq!(url("http://[::1]:8080").authority(), "[::1]:8080");
    }

    #[test]
    fn segments_are_appended_after_one_slash() {
        for endpoint in ["http://host/a/b", "http://host/a/b/"] {
            assert_eq!(
                url(endpoint).with_segments(&["5e", "a b?"]).to_string(),
                "http://host/a/b/5e/a%20b%3F"
            );
        }
        assert_eq!(
            url("http://host").with_segments(&["x"]).to_string(),
            "http://host/x"
        );
    }

    #[test]
    fn user_name_and_password_become_a_header() {
        let value = url("http://a%40b:p%3Aw@host/").authorization().unwrap();
        assert_eq!(
            value.to_str().unwrap(),
            format!("Basic {}", BASE64_STANDARD.encode("a@b:p:w"))
        );
        assert!(value.is_sensitive());
        assert_eq!(url("http://host/").authorization(), None);
    }
}
