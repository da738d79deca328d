//! Reads the credentials for shared caches and for the server that compiles packages. Credentials
//! are an identity and additional headers, such as one with an API key. An identity is a token, a
//! user name and password, or an entry of a netrc file.

use std::path::PathBuf;

use crate::config::{Environment, Secret};
use crate::diag::Chain;
use crate::fs;
use crate::http::{Headers, Url};

/// The names of the variables with credentials for one kind of server.
#[derive(Debug, Clone, Copy)]
struct Variables {
    token: &'static str,
    user: &'static str,
    password: &'static str,
    /// The name of the variable with additional headers, one `NAME: VALUE` per line.
    header: &'static str,
    /// The name of the variable with the path of a file that contains such lines.
    header_file: &'static str,
}

/// The variables for shared caches.
const OF_CACHES: Variables = Variables {
    token: "BOSH_AGENT_CACHE_TOKEN",
    user: "BOSH_AGENT_CACHE_USER",
    password: "BOSH_AGENT_CACHE_PASSWORD",
    header: "BOSH_AGENT_CACHE_HEADER",
    header_file: "BOSH_AGENT_CACHE_HEADER_FILE",
};

/// The variables for the server that compiles packages. If they contain no identity, the identity
/// for shared caches is used; if they contain no headers, the headers for shared caches. One server
/// may serve both.
const OF_EXECUTION: Variables = Variables {
    token: "BOSH_AGENT_REMOTE_TOKEN",
    user: "BOSH_AGENT_REMOTE_USER",
    password: "BOSH_AGENT_REMOTE_PASSWORD",
    header: "BOSH_AGENT_REMOTE_HEADER",
    header_file: "BOSH_AGENT_REMOTE_HEADER_FILE",
};

/// The variable with the path of a certificate for the server that compiles packages, in PEM.
pub const CERTIFICATE: &str = "BOSH_AGENT_REMOTE_CERTIFICATE";

/// The variable with the path of the private key of [`CERTIFICATE`], in PEM.
pub const CERTIFICATE_KEY: &str = "BOSH_AGENT_REMOTE_KEY";

/// All variables with credentials.
pub(in crate::cache) const VARIABLES: [&str; 12] = [
    OF_CACHES.token,
    OF_CACHES.user,
    OF_CACHES.password,
    OF_CACHES.header,
    OF_CACHES.header_file,
    OF_EXECUTION.token,
    OF_EXECUTION.user,
    OF_EXECUTION.password,
    OF_EXECUTION.header,
    OF_EXECUTION.header_file,
    CERTIFICATE,
    CERTIFICATE_KEY,
];

/// Headers that must not be set, because they belong to the connection or to the protocol.
const RESERVED: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// The variable with the path of a netrc file.
const NETRC: &str = "NETRC";

/// The credentials for one kind of server. `Debug` prints no secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The identity in a variable, and the name of the variable.
    identity: Option<(Identity, &'static str)>,
    /// The path of the netrc file, which is read if no variable contains an identity.
    netrc: Option<PathBuf>,
    /// The additional headers in a variable, and the name of the variable.
    extra: Option<(ExtraHeaders, &'static str)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ExtraHeaders {
    /// One `NAME: VALUE` per line.
    Text(Secret),
    /// A file with such lines.
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    /// A token for the scheme `Bearer`.
    Token(Secret),
    /// A user name and password for the scheme `Basic`.
    User(String, Secret),
}

impl Credentials {
    /// The credentials for shared caches. Does not read files.
    #[must_use]
    pub fn for_caches(environment: &Environment) -> Self {
        Self::in_variables(environment, &[OF_CACHES])
    }

    /// The credentials for the server that compiles packages. Does not read files.
    #[must_use]
    pub fn for_execution(environment: &Environment) -> Self {
        Self::in_variables(environment, &[OF_EXECUTION, OF_CACHES])
    }

    /// Takes the identity from the first of `sets` that contains one. Takes the additional headers,
    /// independently, from the first of `sets` that contains some.
    fn in_variables(environment: &Environment, sets: &[Variables]) -> Self {
        let text = |name: &str| {
            let value = environment.get(name)?.to_str()?.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let identity = |names: &Variables| {
            if let Some(token) = text(names.token) {
                return Some((Identity::Token(Secret::new(token)), names.token));
            }
            let user = text(names.user)?;
            let password = Secret::new(text(names.password).unwrap_or_default());
            Some((Identity::User(user, password), names.user))
        };
        let extra = |names: &Variables| {
            if let Some(header) = text(names.header) {
                return Some((ExtraHeaders::Text(Secret::new(header)), names.header));
            }
            let file = PathBuf::from(text(names.header_file)?);
            Some((ExtraHeaders::File(file), names.header_file))
        };
        let home = || Some(PathBuf::from(text("HOME")?).join(".netrc"));
        Self {
            identity: sets.iter().find_map(identity),
            netrc: text(NETRC).map(PathBuf::from).or_else(home),
            extra: sets.iter().find_map(extra),
        }
    }

    /// The headers for requests to the server of `url`: the identity and the additional headers.
    /// Reads the files that the variables name.
    pub(crate) fn headers(&self, url: &Url) -> Headers {
        let identity = self.authorization(url);
        match &self.extra {
            None => identity,
            Some((ExtraHeaders::Text(lines), variable)) => {
                with_extra(identity, lines.expose(), variable)
            }
            Some((ExtraHeaders::File(file), variable)) => match fs::read(file) {
                Ok(text) => with_extra(identity, &String::from_utf8_lossy(&text), variable),
                Err(error) => {
                    let error = Chain(&error);
                    tracing::warn!(%error, "no additional headers are sent: the file that {variable} names cannot be read");
                    identity
                }
            },
        }
    }

    /// The `Authorization` header. Reads the netrc file if no variable contains an identity.
    fn authorization(&self, url: &Url) -> Headers {
        let of_netrc = || Some((self.of_netrc(url.host())?, NETRC));
        match self.identity.clone().or_else(of_netrc) {
            None => Headers::new(),
            Some((Identity::User(user, password), _)) => {
                Headers::new().with_basic_authorization(&user, &password)
            }
            Some((Identity::Token(token), variable)) => {
                let value = Secret::new(format!("Bearer {}", token.expose()));
                Headers::new()
                    .with("authorization", &value)
                    .unwrap_or_else(|error| {
                        tracing::warn!(%error, "the token in {variable} is not used");
                        Headers::new()
                    })
            }
        }
    }

    fn of_netrc(&self, host: &str) -> Option<Identity> {
        let file = self.netrc.as_ref()?;
        match fs::read(file) {
            Ok(text) => in_netrc(&String::from_utf8_lossy(&text), host),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "no password for the server");
                None
            }
        }
    }
}

/// Adds the headers in `text` to `headers`. An invalid line is reported by its number only, because
/// it may contain a secret.
fn with_extra(headers: Headers, text: &str, variable: &str) -> Headers {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.fold(headers, |headers, (index, line)| {
        let field = line.split_once(':').and_then(|(name, value)| {
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            let is_reserved = RESERVED.contains(&name.as_str()) || name.starts_with("grpc-");
            let is_usable = !is_reserved && !value.is_empty();
            is_usable.then(|| (name, Secret::new(value)))
        });
        let added = field.and_then(|(name, value)| headers.clone().with(&name, &value).ok());
        added.unwrap_or_else(|| {
            let line = index + 1;
            tracing::warn!("line {line} of the headers in {variable} is not used: it is not `NAME: VALUE`, or the header is reserved");
            headers
        })
    })
}

/// Finds the entry for a host, or the default entry. An entry with an unknown word is not used,
/// because the words after it may belong to another host.
fn in_netrc(text: &str, host: &str) -> Option<Identity> {
    let mut words = Words { rest: text };
    let mut entry: Option<(Option<String>, Secret)> = None;
    // Whether the current words belong to the entry that is used.
    let mut is_ours = false;
    while let Some(keyword) = words.keyword() {
        match keyword.as_str() {
            "machine" | "default" if is_ours => break,
            "machine" => is_ours = words.value()?.eq_ignore_ascii_case(host),
            "default" => is_ours = true,
            "login" | "password" | "account" | "port" => {
                let value = words.value()?;
                if is_ours {
                    let (login, password) = entry.get_or_insert_default();
                    match keyword.as_str() {
                        "login" => *login = Some(value),
                        "password" => *password = Secret::new(value),
                        _ => {}
                    }
                }
            }
            _ if is_ours => return None,
            _ => {}
        }
    }
    let (login, password) = entry?;
    Some(Identity::User(login.unwrap_or_default(), password))
}

/// Iterates over the words of a netrc file. A word may be in double quotes.
struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    /// The next keyword. Skips comments and macros.
    fn keyword(&mut self) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with('#') {
                self.skip_line();
                continue;
            }
            let word = self.value()?;
            if word != "macdef" {
                return Some(word);
            }
            // A macro ends with an empty line.
            while !self.skip_line().trim().is_empty() {}
        }
    }

    /// The next word, even if it starts with `#`.
    fn value(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let line = self.rest.lines().next()?;
        let (word, after) = next_word(line);
        self.rest = &self.rest[line.len() - after.len()..];
        Some(word)
    }

    fn skip_line(&mut self) -> &str {
        let end = self.rest.find('\n').map_or(self.rest.len(), |end| end + 1);
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        line
    }
}

fn next_word(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut word = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return (word, &quoted[position + 1..]),
            '\\' => word.extend(characters.next().map(|(_, escaped)| escaped)),
            other => word.push(other),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = OF_CACHES.token;
    const USER: &str = OF_CACHES.user;
    const PASSWORD: &str = OF_CACHES.password;
    const HEADER: &str = OF_CACHES.header;
    const HEADER_FILE: &str = OF_CACHES.header_file;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter();
        variables
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    fn sent(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let (_, value) = all_sent(variables, url).pop()?;
        Some(value)
    }

    fn all_sent(variables: &[(&str, &str)], url: &str) -> Vec<(String, String)> {
        let credentials = Credentials::for_caches(&environment(variables));
        assert!(!format!("{credentials:?}").contains("hunter2"));
        let headers = credentials.headers(&Url::parse(url).unwrap());
        assert!(!format!("{headers:?}").contains("hunter2"));
        let shown = headers.iter().map(|(name, value)| {
            assert!(value.is_sensitive());
            (name.to_string(), value.to_str().unwrap().to_owned())
        });
        shown.collect()
    }

    #[test]
    fn headers_come_from_a_variable_or_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("headers");
        let text = b"# a comment\n\nX-Key: hunter2\r\nAuthorization: Key hunter2\n";
        fs::write(&file, text).unwrap();
        let file = (HEADER_FILE, file.to_str().unwrap());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let key = pair("x-buildbuddy-api-key", "hunter2:x");
        let header = (HEADER, "x-buildbuddy-api-key:hunter2:x");
        for given in [&[header][..], &[header, file]] {
            assert_eq!(all_sent(given, "https://h"), std::slice::from_ref(&key));
        }
        let mut both = all_sent(&[file, (TOKEN, "t")], "https://h");
        both.sort();
        let authorization = pair("authorization", "Key hunter2");
        assert_eq!(both, [authorization, pair("x-key", "hunter2")]);
        let with_token = all_sent(&[header, (TOKEN, "t")], "https://h");
        assert_eq!(with_token, [pair("authorization", "Bearer t"), key]);
    }

    #[test]
    fn unusable_header_is_not_sent() {
        for text in [
            "hunter2",
            "a b: hunter2",
            ": hunter2",
            "x-key:",
            "Host: hunter2",
            "Content-Length: 7",
            "grpc-timeout: 1S",
            "x: \u{1}hunter2",
        ] {
            assert_eq!(all_sent(&[(HEADER, text)], "https://h"), [], "{text}");
        }
        let missing = (HEADER_FILE, "/no/such/file");
        assert_eq!(all_sent(&[missing], "https://h"), []);
    }

    #[test]
    fn token_precedes_user_and_netrc() {
        let user = (USER, "u");
        let password = (PASSWORD, "hunter2");
        let all = [(TOKEN, "t-hunter2"), user, password];
        assert_eq!(sent(&all, "http://h").unwrap(), "Bearer t-hunter2");
        // printf u:hunter2 | base64
        let basic = sent(&[user, password, (TOKEN, "")], "http://h");
        assert_eq!(basic.unwrap(), "Basic dTpodW50ZXIy");
        assert_eq!(sent(&[], "http://h"), None);
        assert_eq!(sent(&[(TOKEN, "a\nb")], "http://h"), None);
    }

    #[test]
    fn variables_for_execution_precede_those_for_caches() {
        let url = Url::parse("https://h").unwrap();
        let sent = |variables: &[(&str, &str)]| {
            let credentials = Credentials::for_execution(&environment(variables));
            let headers = credentials.headers(&url);
            let values = headers
                .iter()
                .map(|(_, value)| value.to_str().unwrap().to_owned());
            values.collect::<Vec<String>>()
        };
        let of_cache = (TOKEN, "cache");
        assert_eq!(sent(&[of_cache]), ["Bearer cache"]);
        let own = (OF_EXECUTION.token, "remote");
        assert_eq!(sent(&[of_cache, own]), ["Bearer remote"]);
        let of_caches = Credentials::for_caches(&environment(&[own]));
        assert_eq!(of_caches.headers(&url).iter().count(), 0);
    }

    #[test]
    fn netrc_is_searched_by_host() {
        let home = tempfile::tempdir().unwrap();
        let text = "# a comment\nmachine other login o password p\nmacdef init\nmachine h\n\n\
                    machine Cache.example\n  login u password \"hunter2\"\nmachine x password 1\ndefault login d password e\n";
        fs::write(&home.path().join(".netrc"), text.as_bytes()).unwrap();
        let path = home.path().to_str().unwrap();
        let of = |host: &str| sent(&[("HOME", path)], &format!("https://{host}/x"));
        assert_eq!(of("cache.example").unwrap(), "Basic dTpodW50ZXIy");
        // printf o:p, printf d:e
        assert_eq!(of("other").unwrap(), "Basic bzpw");
        assert_eq!(of("h").unwrap(), "Basic ZDpl");
        let missing = home.path().join("missing");
        assert_eq!(
            sent(
                &[("HOME", path), (NETRC, missing.to_str().unwrap())],
                "http://h"
            ),
            None
        );
    }

    #[test]
    fn password_of_another_host_is_never_sent() {
        let of = |text: &str, host: &str| match in_netrc(text, host) {
            Some(Identity::User(user, password)) => Some((user, password.expose().to_owned())),
            _ => None,
        };
        let user = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        let text =
            "machine a login u password #s3cret # a comment\nmachine b login bot password x\n";
        assert_eq!(of(text, "a"), user("u", "#s3cret"));
        assert_eq!(of(text, "b"), user("bot", "x"));
        let text = "machine a login password password machine\nmachine b login bot password x\n";
        assert_eq!(of(text, "a"), user("password", "machine"));
        assert_eq!(of(text, "b"), user("bot", "x"));
        let text = "machine a login u password\nmachine b login bot password x\n";
        assert_eq!(of(text, "a"), None);
        assert_eq!(of("machine a\nmachine b login bot password x", "a"), None);
        assert_eq!(of("machine a login u password", "a"), None);
        assert_eq!(
            of("machine a login u password \"open\nmachine b", "a"),
            user("u", "open")
        );
    }
}
