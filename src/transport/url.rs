//! Parses the URLs of the message bus: `nats://[user[:password]@]host[:port]` and
//! `https://user:password@host:port`.

use percent_encoding::percent_decode_str;
use url::Url;

use super::TransportError;
use crate::config::Secret;

/// The default port of NATS.
const NATS_PORT: u16 = 4222;

/// The kinds of message bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The agent is a client of a NATS server.
    Nats,
    /// The agent is an HTTPS server.
    Https,
}

/// The parts of a URL. User and password are secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BusUrl {
    pub(super) scheme: Scheme,
    pub(super) user: Option<Secret>,
    pub(super) password: Option<Secret>,
    /// A host name or an address; an IPv6 address is in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl BusUrl {
    /// Parses the first URL. Its scheme determines the kind of message bus.
    pub(super) fn first(urls: &[Secret]) -> Result<Self, TransportError> {
        let first = urls.first().map_or("", Secret::expose);
        // Without `://`, the text before the colon may be a password, so it is not shown.
        let scheme = first.split_once("://").map_or("", |(scheme, _)| scheme);
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "nats" => Scheme::Nats,
            "https" => Scheme::Https,
            other => {
                let is_scheme = other
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
                return Err(TransportError::Scheme {
                    scheme: if is_scheme { other } else { "" }.to_owned(),
                });
            }
        };
        Self::parse(scheme, first, 1)
    }

    /// Parses all URLs of a NATS bus. Only the first one needs a scheme, as in the Go client.
    pub(super) fn nats(urls: &[Secret]) -> Result<Vec<Self>, TransportError> {
        let mut all = vec![Self::first(urls)?];
        for (index, url) in urls.iter().enumerate().skip(1) {
            all.push(Self::parse(Scheme::Nats, url.expose(), index + 1)?);
        }
        Ok(all)
    }

    fn parse(scheme: Scheme, url: &str, position: usize) -> Result<Self, TransportError> {
        let wrong = |problem| TransportError::Url { position, problem };
        let rest = match url.split_once("://") {
            None => url,
            Some((found, rest)) => {
                let expected = match scheme {
                    Scheme::Nats => "nats",
                    Scheme::Https => "https",
                };
                if !found.eq_ignore_ascii_case(expected) {
                    return Err(wrong("the scheme differs from that of the first URL"));
                }
                rest
            }
        };
        // Parse with an unknown scheme, because the library drops the default port of schemes that
        // it knows.
        let parsed = Url::parse(&format!("bus://{rest}")).map_err(|_| wrong("not a URL"))?;
        let decode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded
                .map(Secret::new)
                .map_err(|_| wrong("user or password is not UTF-8"))
        };
        let user = Some(parsed.username()).filter(|user| !user.is_empty());
        let host = parsed.host_str().filter(|host| !host.is_empty());
        let port = match scheme {
            Scheme::Nats => parsed.port().unwrap_or(NATS_PORT),
            Scheme::Https => parsed.port().ok_or(wrong("no port"))?,
        };
        Ok(Self {
            scheme,
            user: user.map(decode).transpose()?,
            password: parsed.password().map(decode).transpose()?,
            host: host.ok_or(wrong("no host"))?.to_owned(),
            port,
        })
    }

    /// Host and port.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn urls(urls: &[&str]) -> Vec<Secret> {
        urls.iter().map(|url| Secret::new(*url)).collect()
    }

    fn nats(url: &str) -> BusUrl {
        BusUrl::nats(&urls(&[url])).unwrap().remove(0)
    }

    #[test]
    fn scheme_of_the_first_url_selects_the_bus() {
        let scheme = |list: &[&str]| BusUrl::first(&urls(list)).map(|url| url.scheme);
        assert_eq!(scheme(&["nats://10.0.0.1:4222"]).unwrap(), Scheme::Nats);
        assert_eq!(scheme(&["NATS://10.0.0.1"]).unwrap(), Scheme::Nats);
        assert_eq!(
            scheme(&["https://u:p@0.0.0.0:6868", "nats://a"]).unwrap(),
            Scheme::Https
        );
        for (list, named) in [
            (vec!["tls://10.0.0.1:4222"], "tls"),
            (vec!["http://h:1", "nats://h"], "http"),
            (vec!["user:password@host"], ""),
            (vec!["10.0.0.1:4222"], ""),
            (vec!["se cret://x"], ""),
            (vec![""], ""),
            (vec![], ""),
        ] {
            assert_eq!(
                scheme(&list).unwrap_err().to_string(),
                format!("Message Bus Handler with scheme {named} could not be found"),
                "{list:?}"
            );
        }
    }

    #[test]
    fn default_nats_port_is_4222() {
        for (url, address) in [
            ("nats://10.0.0.1:4223", "10.0.0.1:4223"),
            ("nats://10.0.0.1", "10.0.0.1:4222"),
            ("nats://director.example/", "director.example:4222"),
            ("nats://[fd00::1]", "[fd00::1]:4222"),
            ("nats://[fd00::1]:80", "[fd00::1]:80"),
            ("nats://token@h", "h:4222"),
        ] {
            assert_eq!(nats(url).address(), address, "{url}");
        }
    }

    #[test]
    fn user_and_password_are_parsed_and_not_printed() {
        let url = nats("nats://us%40er:pass%3Aword@h:1");
        assert_eq!(url.user.as_ref().unwrap().expose(), "us@er");
        assert_eq!(url.password.as_ref().unwrap().expose(), "pass:word");
        let shown = format!("{url:?}");
        assert!(
            !shown.contains("us@") && !shown.contains("word\""),
            "{shown}"
        );
        let url = nats("nats://token@h");
        assert_eq!((url.user.unwrap().expose(), url.password), ("token", None));
    }

    #[test]
    fn https_url_needs_a_port_and_keeps_the_default_one() {
        let https = |url| BusUrl::first(&urls(&[url]));
        assert_eq!(https("https://u:p@h:443/x").unwrap().address(), "h:443");
        assert_eq!(
            https("https://u:secret@h").unwrap_err().to_string(),
            "URL 1 of the message bus is invalid: no port"
        );
    }

    #[test]
    fn further_urls_have_no_scheme_or_the_same() {
        let both = BusUrl::nats(&urls(&["nats://a", "b:5"])).unwrap();
        assert_eq!(both[1].address(), "b:5");
        for second in [
            "https://b",
            "tls://b",
            "nats://",
            "nats://b:99999",
            "nats://u:p@",
        ] {
            let error = BusUrl::nats(&urls(&["nats://a", second])).unwrap_err();
            assert!(
                error.to_string().starts_with("URL 2 of the message bus"),
                "{second}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_or_prints_a_password(text in "\\PC{0,40}", password in "[a-z]{12}") {
            let _ = BusUrl::nats(&urls(&[&text]));
            for scheme in ["nats", "https", "tls", "x"] {
                let url = format!("{scheme}://user:{password}@{text}");
                let said = match BusUrl::nats(&urls(&[&url])) {
                    Ok(url) => format!("{url:?}"),
                    Err(error) => format!("{error} {error:?}"),
                };
                prop_assert!(!said.contains(&password), "{}", said);
            }
        }

        #[test]
        fn user_and_password_are_decoded(user in "\\PC{1,12}", password in "\\PC{1,12}", port in 1u16..) {
            let encode = |text: &str| {
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let url = nats(&format!("nats://{}:{}@host.example:{port}", encode(&user), encode(&password)));
            prop_assert_eq!(url.user, Some(Secret::new(user)));
            prop_assert_eq!(url.password, Some(Secret::new(password)));
            prop_assert_eq!((url.host.as_str(), url.port), ("host.example", port));
        }
    }
}
