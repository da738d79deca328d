//! Selects the proxy for a request from the environment variables.

use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::Url;
use crate::config::Environment;

/// The proxies in the environment, as in the Go agent. `HTTP_PROXY` or `HTTPS_PROXY` is used
/// according to the server's scheme. `BOSH_ALL_PROXY` (SOCKS5) is used for all TCP connections,
/// including those to the other proxies. `NO_PROXY` lists exceptions. If an upper-case variable is
/// not set, the lower-case one is used.
#[derive(Debug)]
pub(super) struct Proxies {
    http: Matcher,
    socks: Matcher,
}

impl Proxies {
    pub(super) fn of(environment: &Environment) -> Self {
        let variable = |upper: &str, lower: &str| {
            [upper, lower]
                .iter()
                .filter_map(|name| environment.get(name)?.to_str())
                .find(|value| !value.is_empty())
                .unwrap_or_default()
                .to_owned()
        };
        let except = variable("NO_PROXY", "no_proxy");
        let all = variable("BOSH_ALL_PROXY", "bosh_all_proxy");
        let all = if all.is_empty() || all.starts_with("socks5") {
            all
        } else {
            // Do not log the value, because it may contain a password.
            tracing::warn!("BOSH_ALL_PROXY is ignored: expected `socks5://HOST:PORT`");
            String::new()
        };
        Self {
            http: Matcher::builder()
                .http(variable("HTTP_PROXY", "http_proxy"))
                .https(variable("HTTPS_PROXY", "https_proxy"))
                .no(except.as_str())
                .build(),
            socks: Matcher::builder().all(all).no(except).build(),
        }
    }

    /// The proxy for requests to this server. Requests to this machine never use a proxy.
    pub(super) fn for_server(&self, url: &Url) -> Option<Intercept> {
        if url.is_loopback() {
            return None;
        }
        self.http.intercept(&url.server().ok()?)
    }

    /// The SOCKS proxy for connections to this address.
    pub(super) fn socks_for(&self, address: &hyper::Uri) -> Option<Intercept> {
        self.socks.intercept(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(
            &variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        let proxy = proxies.for_server(&Url::parse(url).unwrap())?;
        Some(proxy.uri().authority().unwrap().to_string())
    }

    #[test]
    fn proxy_depends_on_scheme_and_exceptions() {
        let proxies = proxies(&[
            ("HTTP_PROXY", "http://plain:3128"),
            ("https_proxy", "user:pw@secure:3128"),
            ("no_proxy", "10.0.0.0/8, .internal"),
        ]);
        for (url, proxy) in [
            ("http://example.com/", Some("plain:3128")),
            ("https://example.com/", Some("secure:3128")),
            ("https://10.1.2.3/", None),
            ("https://blobstore.internal/", None),
            ("http://127.0.0.1/", None),
            ("http://[::1]/", None),
            ("http://localhost:80/", None),
        ] {
            assert_eq!(through(&proxies, url).as_deref(), proxy, "{url}");
        }
    }

    #[test]
    fn upper_case_name_wins_and_empty_value_is_ignored() {
        let both = [
            ("HTTP_PROXY", "http://upper"),
            ("http_proxy", "http://lower"),
        ];
        assert_eq!(
            through(&proxies(&both), "http://host/").as_deref(),
            Some("upper")
        );
        let empty = [("HTTP_PROXY", ""), ("http_proxy", "http://lower")];
        assert_eq!(
            through(&proxies(&empty), "http://host/").as_deref(),
            Some("lower")
        );
        assert_eq!(through(&proxies(&[]), "http://host/"), None);
    }

    #[test]
    fn proxy_for_all_connections_must_be_socks5() {
        let address = hyper::Uri::from_static("https://127.0.0.1:443/");
        let socks = proxies(&[("BOSH_ALL_PROXY", "socks5://jumpbox:1080")]);
        assert_eq!(
            socks.socks_for(&address).unwrap().uri().host(),
            Some("jumpbox")
        );
        for other in ["ssh+socks5://jumpbox:22", "http://jumpbox:80", ""] {
            assert!(
                proxies(&[("BOSH_ALL_PROXY", other)])
                    .socks_for(&address)
                    .is_none()
            );
        }
    }
}
