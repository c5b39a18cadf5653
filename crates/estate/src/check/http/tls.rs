//! TLS for a check: whom to believe, and until when a certificate is valid.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use place::Place;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Trust;
use super::exchange::Broken;

/// A connection in TLS, its handshake done.
pub(super) type Encrypted<S> = StreamOwned<ClientConnection, S>;

/// Why there is no encrypted connection.
#[derive(Debug)]
pub(super) enum NoTls {
    /// On our side: whom to believe could not be found out.
    Trust(String),
    /// The connection, or the handshake.
    Broken(Broken),
}

/// Does the handshake and checks the certificate as the trust says.
pub(super) fn encrypt<S: Read + Write>(
    place: &Place,
    trust: &Trust,
    host: &str,
    mut stream: S,
) -> Result<Encrypted<S>, NoTls> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| NoTls::Trust(format!("{host} cannot stand in a certificate: {error}")))?;
    let config = configuration(place, trust).map_err(NoTls::Trust)?;
    let mut connection =
        ClientConnection::new(Arc::new(config), name).map_err(|error| NoTls::Trust(error.to_string()))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| NoTls::Broken(error.into()))?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// For how long from now the server's own certificate is still valid; `None` if that cannot be read from it.
pub(super) fn validity_left<S: Read + Write>(stream: &Encrypted<S>) -> Option<Duration> {
    let leaf = stream.conn.peer_certificates()?.first()?;
    let certificate = Certificate::from_der(leaf).ok()?;
    let end = certificate.tbs_certificate().validity().not_after.to_system_time();
    Some(end.duration_since(SystemTime::now()).unwrap_or_default())
}

fn configuration(place: &Place, trust: &Trust) -> Result<ClientConfig, String> {
    // The provider is named, because a process may have none set, or another.
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anyone => Arc::new(Anyone(Arc::clone(&provider))),
        Trust::System => authorities(system_roots()?, &provider)?,
        Trust::CaFile(path) => authorities(roots_of(place, path)?, &provider)?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn authorities(
    roots: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut store = RootCertStore::empty();
    // A system's list may hold certificates that rustls cannot read; the others count.
    let (known, _) = store.add_parsable_certificates(roots);
    if known == 0 {
        return Err("no certificate authority is known: install ca-certificates or name a CA file".into());
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| error.to_string())
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    match (found.certs.is_empty(), found.errors.first()) {
        (true, Some(error)) => Err(format!("cannot read the system's certificate authorities: {error}")),
        _ => Ok(found.certs),
    }
}

fn roots_of(place: &Place, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: String| format!("cannot read the CA file {}: {why}", path.display());
    let owned = path.to_owned();
    let bytes = place
        .within(move || std::fs::read(owned))
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(failed("it holds no certificate".into())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Believes every certificate, but still requires that the server has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
