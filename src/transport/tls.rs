//! Creates the TLS configurations for the message bus. The NATS client has a certificate, and checks
//! the server's name as the Go agent does. The HTTPS server requests no certificate of its clients.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::BusOptions;
use crate::tls::{self, Profile, TlsError};

/// The Go agent's message for a certificate that does not belong to a BOSH NATS server.
const WRONG_NAME: &str = "server Certificate CommonName does not match *.nats.bosh-internal";

/// The configuration of the NATS client. All safe cipher suites are offered, as in the Go agent.
pub(super) fn client(bus: &BusOptions) -> Result<ClientConfig, TlsError> {
    let provider = tls::provider(Profile::External);
    let roots = Arc::new(tls::roots(Some(&bus.ca))?);
    let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
        .map_err(unusable("the CA certificate"))?;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable("the list of cipher suites"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BusVerifier { chain }))
        .with_client_auth_cert(
            tls::certificates(&bus.certificate, "the agent's certificate")?,
            tls::private_key(&bus.private_key)?,
        )
        .map_err(unusable("the pair of the agent's certificate and key"))
}

/// The configuration of the HTTPS server. It offers HTTP/1.1 only and requests no client
/// certificates.
pub(super) fn server(bus: &BusOptions) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(tls::provider(Profile::Internal))
        .with_safe_default_protocol_versions()
        .map_err(unusable("the list of cipher suites"))?
        .with_no_client_auth()
        .with_single_cert(
            tls::certificates(&bus.certificate, "the agent's certificate")?,
            tls::private_key(&bus.private_key)?,
        )
        .map_err(unusable("the pair of the agent's certificate and key"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn unusable(what: &'static str) -> impl Fn(rustls::Error) -> TlsError {
    move |source| TlsError::Unusable { what, source }
}

/// Verifies the server's certificate chain, the host name, and that the common name is that of a
/// BOSH NATS server.
#[derive(Debug)]
struct BusVerifier {
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for BusVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.chain
                .verify_server_cert(certificate, intermediates, host, ocsp, now)?;
        if common_name(certificate).is_some_and(|name| is_nats(&name)) {
            Ok(verified)
        } else {
            Err(rustls::Error::General(WRONG_NAME.to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The common name in the subject of a certificate. If there are several, the last one is used, as
/// in Go.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().last()?;
    name.as_str().ok().map(str::to_owned)
}

/// Whether a common name is that of a BOSH NATS server. This follows the Go agent's pattern
/// `^[a-zA-Z0-9*\-]*.nats.bosh-internal$`, in which the unescaped dots match any character.
fn is_nats(name: &str) -> bool {
    fn without_last(text: &str) -> Option<&str> {
        let mut characters = text.chars();
        (characters.next_back()? != '\n').then_some(characters.as_str())
    }
    name.strip_suffix("bosh-internal")
        .and_then(without_last)
        .and_then(|rest| rest.strip_suffix("nats"))
        .and_then(without_last)
        .is_some_and(|rest| {
            rest.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'*' || byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_name_must_be_one_of_boshs_nats() {
        for name in [
            "default.nats.bosh-internal",
            "*.nats.bosh-internal",
            ".nats.bosh-internal",
            "a-9.nats.bosh-internal",
            "defaultXnatsYbosh-internal",
            "önatsübosh-internal",
            "nats.nats.bosh-internal",
        ] {
            assert!(is_nats(name), "{name}");
        }
        for name in [
            "",
            "bosh-internal",
            "nats.bosh-internal",
            "evil.example.com",
            "a.b.nats.bosh-internal",
            "a_b.nats.bosh-internal",
            "default.nats.bosh-internal.example.com",
            "default.nats.bosh-internal\n",
            "default\nnats.bosh-internal",
            "default.nats\nbosh-internal",
            "default.NATS.bosh-internal",
            " default.nats.bosh-internal",
            "äönats.bosh-internal",
        ] {
            assert!(!is_nats(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn names_that_match_the_pattern_are_accepted(start in "[a-zA-Z0-9*\\-]{0,9}", one in "[^\n]", two in "[^\n]") {
            let name = format!("{}{}nats{}bosh-internal", start, one, two);
            prop_assert!(is_nats(&name));
        }

        #[test]
        fn other_names_are_rejected(name in "\\PC{0,30}") {
            prop_assume!(!name.ends_with("bosh-internal"));
            prop_assert!(!is_nats(&name));
        }
    }

    #[test]
    fn missing_certificate_is_an_error() {
        let error = server(&BusOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected the agent's certificate in PEM, but the text contains no certificate"
        );
    }
}
