//! Whom to believe: the settings of TLS for one server.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

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
    let verifier = if trust.unchecked {
        Whom { provider, authorities: None, named: Vec::new() }
    } else {
        // A machine without any needs none where the server's are named.
        let mut roots = match system() {
            Err(_) if !trust.authorities.is_empty() => RootCertStore::empty(),
            system => system?,
        };
        let mut named = Vec::new();
        for path in &trust.authorities {
            let found: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            named.extend(found.map_err(|error| unread(path, error))?);
        }
        roots.add_parsable_certificates(named.iter().cloned());
        let roots = Arc::new(roots);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| HttpError::Tls(error.to_string()))?;
        Whom { provider, authorities: Some(inner), named }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
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

/// Believes whom the authorities vouch for, and a server whose very certificate was named
/// as an authority: people make one that signs itself, and Docker takes it. Every server
/// must have the key to its certificate.
#[derive(Debug)]
struct Whom {
    provider: Arc<CryptoProvider>,
    /// `None`: every name is believed.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Whom {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        match authorities.verify_server_cert(own, others, name, ocsp, now) {
            // That it is an authority's is the last complaint: its time was checked.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.named.iter().any(|named| named == own) =>
            {
                verify_server_name(&ParsedCertificate::try_from(own)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
