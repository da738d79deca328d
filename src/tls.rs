//! TLS as the agent's peers speak it: rustls with ring, PEM from the settings, TLS 1.2 and 1.3.
//!
//! What BOSH's own servers accept in TLS 1.2 are two cipher suites (protocol: `ECDHE_RSA` with AES-GCM); stores of others get
//! the whole list.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ClientConfig, RootCertStore};

use crate::config::{Environment, Secret};

/// Which TLS 1.2 cipher suites are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The two of BOSH's own parts.
    Internal,
    /// All that are safe.
    External,
}

/// Why a certificate, a key or a configuration cannot be used. The PEM text itself is never part of it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificates that are no PEM, or none at all.
    #[error("{what} cannot be read as PEM certificates")]
    Certificates {
        /// Whose.
        what: &'static str,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// There is no certificate in the PEM text.
    #[error("{what} has no certificate in it")]
    NoCertificate {
        /// Whose.
        what: &'static str,
    },
    /// A private key that is no PEM.
    #[error("the private key cannot be read as PEM")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// An authority's certificate that is unusable, or a key that does not fit its certificate.
    #[error("{what} cannot be used")]
    Unusable {
        /// What.
        what: &'static str,
        /// Why.
        source: rustls::Error,
    },
    /// The system has no certificates of authorities.
    #[error("the system's certificates of authorities cannot be loaded: {0}")]
    SystemRoots(String),
}

/// Where the system keeps the certificates of authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemCertificates {
    file: Option<PathBuf>,
    directory: Option<PathBuf>,
}

static SYSTEM: OnceLock<SystemCertificates> = OnceLock::new();

impl SystemCertificates {
    /// Where Debian, Ubuntu, Fedora, SUSE and Alpine keep them in one file.
    const FILES: [&'static str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];

    /// What `SSL_CERT_FILE` and `SSL_CERT_DIR` say, as for OpenSSL; else where systems keep them.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let file = environment.get("SSL_CERT_FILE").map(PathBuf::from);
        let directories = environment.get("SSL_CERT_DIR").map(std::env::split_paths);
        let directory = directories.into_iter().flatten().next();
        match (file, directory) {
            (None, None) => Self::default(),
            (file, directory) => Self { file, directory },
        }
    }

    /// Has them be the ones for this process. Only the first call counts, and it must come before certificates are used.
    pub fn use_these(self) {
        let _ = SYSTEM.set(self);
    }
}

impl Default for SystemCertificates {
    fn default() -> Self {
        let files = Self::FILES.into_iter().map(PathBuf::from);
        Self {
            file: files.into_iter().find(|file| file.is_file()),
            directory: None,
        }
    }
}

/// The cryptography behind a profile.
#[must_use]
pub fn provider(profile: Profile) -> Arc<CryptoProvider> {
    static INTERNAL: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    static EXTERNAL: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    match profile {
        Profile::External => {
            Arc::clone(EXTERNAL.get_or_init(|| Arc::new(ring::default_provider())))
        }
        Profile::Internal => Arc::clone(INTERNAL.get_or_init(|| {
            let mut provider = ring::default_provider();
            provider.cipher_suites.retain(|suite| {
                suite.tls13().is_some()
                    || matches!(
                        suite.suite(),
                        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
                            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
                    )
            });
            Arc::new(provider)
        })),
    }
}

/// The certificates in a PEM text; `what` names them in errors.
///
/// # Errors
/// When there is no certificate in it, or something that is none.
pub fn certificates(
    pem: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Certificates { what, source })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { what });
    }
    Ok(certificates)
}

/// The private key in a PEM text: PKCS#1, PKCS#8 or SEC1.
///
/// # Errors
/// When there is none.
pub fn private_key(pem: &Secret) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(TlsError::Key)
}

/// Whether a certificate, its key and, where there are any, the authorities of its peers can be used.
///
/// # Errors
/// What is wrong with them.
pub fn check(certificate: &str, key: &Secret, ca: &str) -> Result<(), TlsError> {
    if !ca.trim().is_empty() {
        roots(Some(ca))?;
    }
    let chain = certificates(certificate, "the agent's certificate")?;
    let pair = CertifiedKey::from_der(chain, private_key(key)?, &provider(Profile::External));
    pair.map(drop).map_err(|source| TlsError::Unusable {
        what: "the agent's certificate with its key",
        source,
    })
}

/// The authorities that are trusted: those of `ca` alone where it has any, else the system's.
///
/// # Errors
/// When `ca` is no PEM, or the system has none.
pub fn roots(ca: Option<&str>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca.filter(|ca| !ca.trim().is_empty()) {
        for certificate in certificates(ca, "the certificate authority")? {
            roots
                .add(certificate)
                .map_err(|source| TlsError::Unusable {
                    what: "the certificate authority",
                    source,
                })?;
        }
        return Ok(roots);
    }
    let SystemCertificates { file, directory } = SYSTEM.get_or_init(SystemCertificates::default);
    let loaded = rustls_native_certs::load_certs_from_paths(file.as_deref(), directory.as_deref());
    let (added, _ignored) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let reasons: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::SystemRoots(if reasons.is_empty() {
            "there are none".to_owned()
        } else {
            reasons.join(", ")
        }));
    }
    Ok(roots)
}

/// A client that shows no certificate of its own and checks its peer's chain and name.
///
/// # Errors
/// As [`roots`].
pub fn client(ca: Option<&str>, profile: Profile) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider(profile))
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Unusable {
            what: "the list of cipher suites",
            source,
        })?;
    Ok(builder
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bosh_servers_are_offered_their_two_cipher_suites_and_tls_1_3() {
        let offered = |profile| {
            let suites = &provider(profile).cipher_suites;
            suites
                .iter()
                .filter(|suite| suite.tls13().is_none())
                .count()
        };
        assert_eq!(offered(Profile::Internal), 2);
        assert!(offered(Profile::External) > 2);
    }

    #[test]
    fn what_is_no_certificate_or_key_is_told_without_its_text() {
        let text = "-----BEGIN RSA PRIVATE KEY-----\nhunter2!\n-----END RSA PRIVATE KEY-----\n";
        let error = private_key(&Secret::new(text)).unwrap_err();
        assert!(!crate::diag::Chain(&error).to_string().contains("hunter2"));
        let error = roots(Some("nonsense")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the certificate authority has no certificate in it"
        );
    }
}
