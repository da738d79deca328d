//! TLS 1.2 and 1.3 with rustls and ring, and PEM from the settings.
//!
//! With TLS 1.2, BOSH's own servers accept only two cipher suites (`ECDHE_RSA` with AES-GCM). The agent offers these two to BOSH's servers, and
//! all safe cipher suites to other servers.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ClientConfig, ConfigBuilder, RootCertStore};

use crate::config::{Environment, Secret};

/// Which TLS 1.2 cipher suites are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The two cipher suites that BOSH's own servers accept.
    Internal,
    /// All safe cipher suites.
    External,
}

/// Why a certificate, a key or a configuration is unusable. The errors never contain the PEM text.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not valid PEM.
    #[error("{what} is not valid PEM")]
    Certificates {
        /// The certificate, for messages.
        what: &'static str,
        /// The error of the parser.
        source: rustls::pki_types::pem::Error,
    },
    /// The PEM text contains no certificate.
    #[error("expected {what} in PEM, but the text contains no certificate")]
    NoCertificate {
        /// The certificate, for messages.
        what: &'static str,
    },
    /// The private key is not valid PEM.
    #[error("the private key is not valid PEM")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// A CA certificate is invalid, or a key does not match its certificate.
    #[error("{what} is unusable")]
    Unusable {
        /// The certificate or configuration, for messages.
        what: &'static str,
        /// The reason.
        source: rustls::Error,
    },
    /// The system has no CA certificates.
    #[error("failed to load the system's CA certificates: {0}")]
    SystemRoots(String),
}

/// The location of the system's CA certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemCertificates {
    file: Option<PathBuf>,
    directory: Option<PathBuf>,
}

static SYSTEM: OnceLock<SystemCertificates> = OnceLock::new();

impl SystemCertificates {
    /// The files with all CA certificates of Debian, Ubuntu, Fedora, SUSE and Alpine.
    const FILES: [&'static str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];

    /// Takes the file from `SSL_CERT_FILE` and the directory from `SSL_CERT_DIR`. If `SSL_CERT_DIR` lists several directories, only the
    /// first one is used, while OpenSSL uses all of them. If neither variable is set, the system's file is used.
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

    /// Sets the location for this process. Only the first call has an effect, and it must precede the first use of certificates.
    pub fn use_for_process(self) {
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

/// The cryptography provider of a profile.
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

/// Parses certificates in PEM; `what` names them in errors.
///
/// # Errors
/// The text is not valid PEM or contains no certificate.
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

/// Parses a private key in PEM: PKCS#1, PKCS#8 or SEC1.
///
/// # Errors
/// The text is not valid PEM or contains no private key.
pub fn private_key(pem: &Secret) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(TlsError::Key)
}

/// Checks the agent's certificate and key, and the CA certificates of its peers unless `ca` is empty.
///
/// # Errors
/// One of them is invalid, or the key does not match the certificate.
pub fn check(certificate: &str, key: &Secret, ca: &str) -> Result<(), TlsError> {
    if !ca.trim().is_empty() {
        roots(Some(ca))?;
    }
    let chain = certificates(certificate, "the agent's certificate")?;
    let pair = CertifiedKey::from_der(chain, private_key(key)?, &provider(Profile::External));
    pair.map(drop).map_err(|source| TlsError::Unusable {
        what: "the pair of the agent's certificate and key",
        source,
    })
}

/// The trusted CA certificates: the certificates in `ca`, or the system's if `ca` is absent or empty.
///
/// # Errors
/// `ca` is not valid, or the system has no CA certificates.
pub fn roots(ca: Option<&str>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca.filter(|ca| !ca.trim().is_empty()) {
        for certificate in certificates(ca, "the CA certificate")? {
            roots
                .add(certificate)
                .map_err(|source| TlsError::Unusable {
                    what: "the CA certificate",
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
            "none found".to_owned()
        } else {
            reasons.join(", ")
        }));
    }
    Ok(roots)
}

/// A client configuration that verifies the server's chain and name, and presents no certificate of the client.
///
/// # Errors
/// See [`roots`].
pub fn client(ca: Option<&str>, profile: Profile) -> Result<ClientConfig, TlsError> {
    Ok(builder(ca, profile)?.with_no_client_auth())
}

/// A client configuration that verifies the server's chain and name, and presents this certificate of the client. The certificate and its
/// key are in PEM.
///
/// # Errors
/// See [`roots`]; or the certificate or the key is not valid, or they do not match.
pub fn client_with_certificate(
    (certificate, key): (&str, &Secret),
    profile: Profile,
) -> Result<ClientConfig, TlsError> {
    let chain = certificates(certificate, "the client's certificate")?;
    let configured = builder(None, profile)?.with_client_auth_cert(chain, private_key(key)?);
    configured.map_err(|source| TlsError::Unusable {
        what: "the pair of the client's certificate and key",
        source,
    })
}

/// The common part of the client configurations, which verifies the server's chain and name.
fn builder(
    ca: Option<&str>,
    profile: Profile,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider(profile))
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Unusable {
            what: "the list of cipher suites",
            source,
        })?;
    Ok(builder.with_root_certificates(roots(ca)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bosh_servers_are_offered_two_tls_1_2_cipher_suites() {
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
    fn invalid_pem_is_reported_without_its_text() {
        let text = "-----BEGIN RSA PRIVATE KEY-----\nhunter2!\n-----END RSA PRIVATE KEY-----\n";
        let error = private_key(&Secret::new(text)).unwrap_err();
        assert!(!crate::diag::Chain(&error).to_string().contains("hunter2"));
        let error = roots(Some("nonsense")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected the CA certificate in PEM, but the text contains no certificate"
        );
    }
}
