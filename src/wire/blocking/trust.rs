//! Whom to believe: the settings of TLS for one server.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::HttpError;
use super::connect::Trust;

/// The settings for `trust`; `system` finds the authorities of this machine.
pub(super) fn config(
    trust: &Trust,
    system: impl Fn() -> Result<RootCertStore, HttpError>,
) -> Result<ClientConfig, HttpError> {
    let failed = |error: rustls::Error| HttpError::Tls(error.to_string());
    let unread = |path: &Path, error: pem::Error| {
        HttpError::Tls(format!("failed to read the certificates in '{}': {error}", path.display()))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = if trust.unchecked {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        // A machine without any needs none where the server's are named.
        let mut roots = match system() {
            Err(_) if !trust.authorities.is_empty() => RootCertStore::empty(),
            system => system?,
        };
        for path in &trust.authorities {
            add(&mut roots, path).map_err(|error| unread(path, error))?;
        }
        builder.with_root_certificates(roots)
    };
    let Some((certificate, key)) = &trust.client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| unread(certificate, error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unread(key, error))?;
    builder.with_client_auth_cert(chain, secret).map_err(failed)
}

/// Adds the certificates in a file.
pub(super) fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), pem::Error> {
    for certificate in CertificateDer::pem_file_iter(path)? {
        // Bundles hold certificates that are too old to be understood.
        let _ = roots.add(certificate?);
    }
    Ok(())
}

/// Believes every name; only that the server has the key to its certificate is checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
