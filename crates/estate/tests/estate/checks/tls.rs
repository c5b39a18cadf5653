//! TLS: whom to believe, and until when.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use estate::check::{Http, HttpExpect, Question, Status, TextMatch, Trust};
use jiff::{Span, Zoned};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::http::Server;
use super::{ask, fails, holds, refused, unknown};

/// An authority whose certificate lies in a file, and who signs servers.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Serves as `localhost` with a certificate that is valid from ten days before now and for so many days from now.
    fn server(&self, name: &str, days: i64) -> Server {
        let day = |days: i64| {
            let date = Zoned::now().checked_add(Span::new().days(days)).unwrap().date();
            date_time_ymd(date.year().into(), date.month().cast_unsigned(), date.day().cast_unsigned())
        };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = day(days.min(0) - 10);
        params.not_after = day(days);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        serve(certificate.der().clone(), &key)
    }
}

fn serve(certificate: CertificateDer<'static>, key: &KeyPair) -> Server {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    Server::at("127.0.0.1", move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let mut request = [0; 4096];
        // A client that does not believe us goes away here.
        if stream.read(&mut request).is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nover TLS");
            let _ = stream.flush();
        }
    })
}

fn get(server: &Server, trust: Trust, tls_days_min: Option<u32>) -> Question {
    let expect = HttpExpect {
        body: Some(TextMatch::Equals("over TLS".into())),
        tls_days_min,
        ..HttpExpect::default()
    };
    Question::Http(Http { trust, ..Http::get(format!("https://localhost:{}/", server.port), expect) })
}

#[test]
fn a_server_is_believed_if_the_authority_signed_it() {
    let authority = Authority::new();
    let server = authority.server("localhost", 90);
    holds(&ask(get(&server, Trust::CaFile(authority.file()), None)));
    let stranger = Authority::new();
    fails(&ask(get(&server, Trust::CaFile(stranger.file()), None)), "cannot speak TLS");
    fails(&ask(get(&server, Trust::System, None)), "UnknownIssuer");
    holds(&ask(get(&server, Trust::Anyone, None)));
}

#[test]
fn a_certificate_of_its_own_or_of_another_name_is_not_believed() {
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let server = serve(own.der().clone(), &key);
    fails(&ask(get(&server, Trust::System, None)), "invalid peer certificate");
    holds(&ask(get(&server, Trust::Anyone, None)));

    let authority = Authority::new();
    let other = authority.server("example.org", 90);
    fails(&ask(get(&other, Trust::CaFile(authority.file()), None)), "not valid for name");
}

#[test]
fn an_expired_certificate_is_not_believed() {
    let authority = Authority::new();
    let server = authority.server("localhost", -2);
    fails(&ask(get(&server, Trust::CaFile(authority.file()), None)), "expired");
    // Also where anyone is believed, days that are left are asked for in vain.
    fails(&ask(get(&server, Trust::Anyone, Some(1))), "valid for 0 days");
}

#[test]
fn a_certificate_that_ends_soon_is_seen() {
    let authority = Authority::new();
    let server = authority.server("localhost", 20);
    let trust = || Trust::CaFile(authority.file());
    holds(&ask(get(&server, trust(), Some(14))));
    fails(&ask(get(&server, trust(), Some(30))), "ends too soon");
    let expect = HttpExpect { tls_days_min: Some(14), ..HttpExpect::default() };
    assert!(refused(Question::Http(Http::get("http://localhost/", expect))).contains("without https"));
}

#[test]
fn an_authority_that_cannot_be_read_leaves_the_check_unknown() {
    let authority = Authority::new();
    let server = authority.server("localhost", 90);
    let missing = Trust::CaFile("/nowhere/ca.pem".into());
    unknown(&ask(get(&server, missing, None)), "cannot read the CA file /nowhere/ca.pem");
    let empty = authority.folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    unknown(&ask(get(&server, Trust::CaFile(empty), None)), "holds no certificate");
}

#[test]
fn plain_http_where_tls_was_expected_is_seen_and_the_other_way_round() {
    let plain = Server::at("127.0.0.1", |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read(&mut [0; 4096]);
    });
    fails(&ask(get(&plain, Trust::Anyone, None)), "cannot speak TLS");
    let authority = Authority::new();
    let server = authority.server("localhost", 90);
    let expect = HttpExpect { status: vec![Status::Is(200)], ..HttpExpect::default() };
    let http = Http::get(format!("http://localhost:{}/", server.port), expect);
    fails(&ask(Question::Http(http)), "no whole answer");
}

#[test]
fn by_hand_the_same_trust_is_asked_for() {
    let question = |trust| {
        let expect = HttpExpect { status: vec![Status::Is(200)], ..HttpExpect::default() };
        super::check(Question::Http(Http { trust, ..Http::get("https://h/x", expect) }))
    };
    let line = question(Trust::CaFile(Path::new("/etc/my ca.pem").into()))
        .by_hand(&estate::secrets::Secrets::default());
    assert_eq!(line, "curl -sS -i --cacert '/etc/my ca.pem' https://h/x");
    assert!(question(Trust::Anyone).by_hand(&estate::secrets::Secrets::default()).contains(" -k "));
}
