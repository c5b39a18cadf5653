//! TLS as a client: whom to believe, who to be, and until when a certificate is valid.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use place::Place;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::check::Trust;

/// A connection in TLS, its handshake done.
pub(crate) type Encrypted<S> = StreamOwned<ClientConnection, S>;

/// Why there is no encrypted connection.
#[derive(Debug)]
pub(crate) enum NoTls {
    /// On our side: whom to believe could not be found out.
    Trust(String),
    /// The connection, or the handshake.
    Broken(io::Error),
}

/// Who the client is: PEM files of a certificate and its key, read within the place, each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Does the handshake and checks the certificate as the trust says.
pub(crate) fn encrypt<S: Read + Write>(
    place: &Place,
    trust: &Trust,
    identity: Option<&Identity>,
    host: &str,
    mut stream: S,
) -> Result<Encrypted<S>, NoTls> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| NoTls::Trust(format!("{host} cannot stand in a certificate: {error}")))?;
    let config = configuration(place, trust, identity).map_err(NoTls::Trust)?;
    let mut connection =
        ClientConnection::new(Arc::new(config), name).map_err(|error| NoTls::Trust(error.to_string()))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(NoTls::Broken)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// For how long from now the server's own certificate is still valid; `None` if that cannot be read from it.
pub(crate) fn validity_left<S: Read + Write>(stream: &Encrypted<S>) -> Option<Duration> {
    let leaf = stream.conn.peer_certificates()?.first()?;
    let certificate = Certificate::from_der(leaf).ok()?;
    let end = certificate.tbs_certificate().validity().not_after.to_system_time();
    Some(end.duration_since(SystemTime::now()).unwrap_or_default())
}

fn configuration(place: &Place, trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig, String> {
    // The provider is named, because a process may have none set, or another.
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anyone => Arc::new(Anyone(Arc::clone(&provider))),
        Trust::System => authorities(system_roots()?, &provider)?,
        Trust::CaFile(path) => authorities(certificates(place, "CA file", path)?, &provider)?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some(Identity { certificate, key }) = identity else { return Ok(builder.with_no_client_auth()) };
    let certificates = certificates(place, "certificate", certificate)?;
    let failed = |why: String| format!("cannot use the key {}: {why}", key.display());
    let bytes = read(place, key).map_err(failed)?;
    let secret = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| failed(error.to_string()))?;
    builder.with_client_auth_cert(certificates, secret).map_err(|error| failed(error.to_string()))
}

fn read(place: &Place, path: &Path) -> Result<Vec<u8>, String> {
    let owned = path.to_owned();
    let read = place.within(move || std::fs::read(owned)).map_err(|error| error.to_string())?;
    read.map_err(|error| error.to_string())
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

/// Reads the certificates of a PEM file; `what` it is, for messages.
fn certificates(place: &Place, what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: String| format!("cannot read the {what} {}: {why}", path.display());
    let bytes = read(place, path).map_err(failed)?;
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
