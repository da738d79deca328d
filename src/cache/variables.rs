//! Decides which variables scripts inherit when a cache is used, and which of these are part of the
//! cache key. No I/O.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::remote::CREDENTIALS;
use crate::config::Environment;
use crate::release::digest::BlobDigests;

/// The inherited variables that are part of the key. `LC_*` variables are, too.
const KEYED: &[&str] = &[
    "HOME",
    "LANG",
    "LANGUAGE",
    "PATH",
    "SOURCE_DATE_EPOCH",
    "TZ",
];

/// The inherited variables that are not part of the key, because they do not affect results: how to
/// reach a server, where temporary files are, and what a terminal can do. Names are compared
/// case-insensitively.
const IGNORED: &[&str] = &[
    "ALL_PROXY",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TMPDIR",
];

fn is_ignored(name: &OsStr) -> bool {
    IGNORED.iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn is_keyed(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"LC_") || KEYED.iter().any(|known| name == *known)
}

/// All variables except the credentials for shared caches, which no script needs.
#[must_use]
pub fn without_credentials(environment: &Environment) -> Environment {
    let kept = environment.iter();
    kept.filter(|(name, _)| !CREDENTIALS.iter().any(|known| *name == *known))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The variables that scripts inherit when a cache is used.
#[must_use]
pub fn inherited(environment: &Environment) -> Environment {
    let kept = environment.iter();
    kept.filter(|(name, _)| is_keyed(name) || is_ignored(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The digests of the variables in the key. Digests are used because a value may be confidential.
#[must_use]
pub fn variable_digests(environment: &Environment) -> BTreeMap<String, String> {
    let keyed = environment.iter().filter(|(name, _)| !is_ignored(name));
    keyed
        .map(|(name, value)| {
            let digests = BlobDigests::of(value.as_bytes());
            (
                String::from_utf8_lossy(name.as_bytes()).into_owned(),
                digests.sha256().to_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(names: &[&str]) -> Environment {
        let variables = names.iter().map(|name| ((*name).into(), "value".into()));
        variables.collect()
    }

    #[test]
    fn only_documented_variables_are_inherited() {
        let all = environment(&[
            "PATH",
            "HOME",
            "LC_ALL",
            "LC_TIME",
            "http_proxy",
            "HTTPS_PROXY",
            "TERM",
            "CFLAGS",
            "AWS_SECRET_ACCESS_KEY",
            "PATHS",
            "lc_all",
        ]);
        let kept = inherited(&all);
        let names: Vec<&str> = kept.iter().filter_map(|(name, _)| name.to_str()).collect();
        assert_eq!(
            names,
            [
                "PATH",
                "HOME",
                "LC_ALL",
                "LC_TIME",
                "http_proxy",
                "HTTPS_PROXY",
                "TERM"
            ]
        );
    }

    #[test]
    fn credentials_are_never_inherited() {
        let all = environment(&[
            "CFLAGS",
            "BOSH_AGENT_CACHE_TOKEN",
            "BOSH_AGENT_CACHE_USER",
            "BOSH_AGENT_CACHE_PASSWORD",
            "BOSH_AGENT_CACHE_HEADER",
            "BOSH_AGENT_CACHE_HEADER_FILE",
        ]);
        let kept = without_credentials(&all);
        let names: Vec<&OsStr> = kept.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["CFLAGS"]);
    }

    #[test]
    fn key_has_digests_of_all_but_ignored_variables() {
        let digests = variable_digests(&environment(&["PATH", "CFLAGS", "https_proxy", "TMPDIR"]));
        let names: Vec<&String> = digests.keys().collect();
        assert_eq!(names, ["CFLAGS", "PATH"]);
        assert!(digests.values().all(|digest| digest.len() == 64));
    }
}
