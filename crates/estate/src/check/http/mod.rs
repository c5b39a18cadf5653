//! The check over HTTP and HTTPS: ask, follow redirects if told to, judge what came back.
//!
//! `exchange` speaks the protocol, `wire` keeps the time, the crate's `tls` decides whom to believe. The connection is made by
//! the place: in a twin it is in the twin's network namespace and can reach nothing of the host.

mod exchange;
mod judge;
mod wire;

pub use exchange::BODY_BYTES_MAX;
pub(super) use wire::{Wire, over_in};

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use url::{Host, Url};

use super::answer::{Answer, Over};
use super::network::{self, late};
use super::question::Http;
use super::{Asking, Invalid};
use crate::tls;
use exchange::{Broken, Head, Response};
use judge::Expectation;

/// More redirects than this are a loop; browsers give up at 20.
const REDIRECTS_MAX: u32 = 20;

/// An HTTP question that has been understood.
pub(super) struct HttpCheck {
    url: Url,
    http: Http,
    expect: Expectation,
}

impl fmt::Debug for HttpCheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HttpCheck({})", self.describe())
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let url = Url::parse(&self.url).map_or_else(|_| "(no URL)".into(), |url| shown(&url));
        formatter
            .debug_struct("Http")
            .field("url", &url)
            .field("method", &self.method)
            .field("headers", &names)
            .field("expect", &self.expect)
            .field("trust", &self.trust)
            .field("redirects_max", &self.redirects_max)
            .finish_non_exhaustive()
    }
}

impl HttpCheck {
    pub(super) fn new(http: Http) -> Result<HttpCheck, Invalid> {
        let url = understood(&http.url)?;
        let is_tls = url.scheme() == "https";
        let expect = Expectation::new(&http.expect, &format!("http {}", shown(&url)), is_tls)?;
        if http.method.is_empty() || !http.method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Invalid::Value {
                what: format!("the method {:?}", http.method),
                why: "a method is a word in capital letters, such as GET",
            });
        }
        if expect.needs_body() && http.method == "HEAD" {
            return Err(Invalid::Value {
                what: "the method HEAD".into(),
                why: "its answer has no body to look at",
            });
        }
        if http.redirects_max > REDIRECTS_MAX {
            return Err(Invalid::Value {
                what: format!("{} redirects", http.redirects_max),
                why: "more than 20 are a loop",
            });
        }
        http.headers.iter().try_for_each(|(name, value)| sendable(name, value))?;
        Ok(HttpCheck { url, http, expect })
    }

    pub(super) fn describe(&self) -> String {
        format!("{} {} answers {}", self.http.method, shown(&self.url), self.expect.describe())
    }

    /// The method, the URL without secrets, and the names of the header fields.
    pub(super) fn parts(&self) -> (&Http, String) {
        (&self.http, shown(&self.url))
    }

    pub(super) fn ask(&self, asking: &Asking<'_>) -> Answer {
        match self.follow(asking) {
            Ok(seen) => self.expect.judge(&seen),
            Err(answer) => answer,
        }
    }

    /// Asks, and asks where it is sent to, until an answer is no redirect or no more are followed.
    fn follow(&self, asking: &Asking<'_>) -> Result<Seen, Answer> {
        let mut url = self.url.clone();
        let mut method = self.http.method.clone();
        let mut redirects = 0;
        loop {
            let seen = self.once(asking, &url, &method)?;
            let target = redirection(&seen.head, &url);
            let Some(target) = target.filter(|_| self.http.redirects_max > 0) else { return Ok(seen) };
            if redirects == self.http.redirects_max {
                return Err(Answer::fails(
                    format!("{} redirects once more", shown(&url)),
                    format!("an answer after at most {redirects} redirects"),
                    format!("HTTP {} to {}", seen.head.status, shown(&target)),
                ));
            }
            redirects += 1;
            if method != "HEAD" && matches!(seen.head.status, 301..=303) {
                method = "GET".into();
            }
            url = target;
        }
    }

    fn once(&self, asking: &Asking<'_>, url: &Url, method: &str) -> Result<Seen, Answer> {
        let (host, port) = target(url);
        let stream = network::connect(asking, &host, port, &self.expect.describe())?;
        let peer = stream.peer_addr().and_then(|peer| Ok((peer, stream.local_addr()?)));
        let wire = Wire::new(stream, asking.deadline);
        let request = self.request(url, method);
        let seen = if url.scheme() == "https" {
            let tls = tls::encrypt(asking.place, &self.http.trust, None, &host, wire)
                .map_err(|error| self.without_tls(asking, url, error))?;
            let validity_left = tls::validity_left(&tls);
            let response = exchange::exchange(tls, method, &request);
            self.seen(asking, url, response, Some(validity_left))?
        } else {
            self.seen(asking, url, exchange::exchange(wire, method, &request), None)?
        };
        network::served_by_the_right_one(asking, peer)?;
        Ok(seen)
    }

    /// The body is read only if something is expected of it: an endless one does not matter otherwise.
    fn seen<S: std::io::Read>(
        &self,
        asking: &Asking<'_>,
        url: &Url,
        response: Result<Response<S>, Broken>,
        certificate: Option<Option<Duration>>,
    ) -> Result<Seen, Answer> {
        let response = response.map_err(|broken| self.broken(asking, url, broken))?;
        let head_only = !self.expect.needs_body() || redirection(&response.head, url).is_some();
        if head_only {
            return Ok(Seen { url: shown(url), head: response.head, body: Vec::new(), certificate });
        }
        let (head, body) = response.whole().map_err(|broken| self.broken(asking, url, broken))?;
        Ok(Seen { url: shown(url), head, body, certificate })
    }

    fn request(&self, url: &Url, method: &str) -> Vec<u8> {
        let same_origin = url.origin() == self.url.origin();
        let mut fields: Vec<(String, String)> = Vec::new();
        if same_origin {
            fields.extend(self.http.headers.iter().cloned());
            fields.extend(authorization(&self.url));
        }
        for (name, value) in
            [("Host", host_field(url)), ("User-Agent", "lifeboat".into()), ("Accept", "*/*".into())]
        {
            if !fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                fields.push((name.into(), value));
            }
        }
        // One answer a connection, and nothing that would have to be unpacked.
        fields.push(("Connection".into(), "close".into()));
        fields.push(("Accept-Encoding".into(), "identity".into()));
        let body = self.http.body.as_deref().filter(|_| same_origin && method == self.http.method);
        if let Some(body) = body {
            fields.push(("Content-Length".into(), body.len().to_string()));
        }
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in fields {
            request.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());
        request.into_bytes()
    }

    fn without_tls(&self, asking: &Asking<'_>, url: &Url, error: tls::NoTls) -> Answer {
        match error {
            tls::NoTls::Trust(why) => Answer::unknown(why),
            tls::NoTls::Broken(error) if is_of_tls(&error) => Answer::fails(
                format!("cannot speak TLS with {}", shown(url)),
                "a certificate that is trusted and valid",
                error.to_string(),
            ),
            tls::NoTls::Broken(error) => self.broken(asking, url, error.into()),
        }
    }

    fn broken(&self, asking: &Asking<'_>, url: &Url, broken: Broken) -> Answer {
        let url = shown(url);
        let fails = |found: String| {
            Answer::fails(format!("no whole answer from {url}"), self.expect.describe(), found)
        };
        match broken {
            Broken::Over(Over::Cancelled) => Answer::unknown("interrupted"),
            Broken::Over(Over::Late) => fails(late(asking)),
            Broken::Io(error) => fails(match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "the connection was closed too early".into(),
                _ => error.to_string(),
            }),
            Broken::Garbage(what) => fails(format!("not HTTP: {what}")),
            Broken::TooLong => Answer::unknown(format!(
                "the body of {url} is longer than the {BODY_BYTES_MAX} bytes that a check reads; \
                 ask for a smaller one"
            )),
        }
    }
}

/// What came back from the last request.
struct Seen {
    /// Whom it came from, fit to be shown.
    url: String,
    head: Head,
    /// Whole, or empty if nothing is expected of it.
    body: Vec<u8>,
    /// `None` without TLS; within, how long the certificate is valid, if that could be read.
    certificate: Option<Option<Duration>>,
}

fn understood(text: &str) -> Result<Url, Invalid> {
    // The text is not shown as it is: what cannot be parsed may hold a password anywhere.
    let refused = |url: String, why: &str| Invalid::Url { url, why: why.into() };
    let url = Url::parse(text)
        .map_err(|error| refused(format!("({} characters)", text.len()), &error.to_string()))?;
    match (url.scheme(), url.host()) {
        ("http" | "https", Some(_)) if url.port_or_known_default() != Some(0) => Ok(url),
        ("http" | "https", _) => Err(refused(shown(&url), "it has no host or no port")),
        _ => Err(refused(shown(&url), "only http and https can be asked")),
    }
}

/// Tells an error of the handshake from one of the connection.
fn is_of_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
}

/// A URL without user, password, query and fragment: each of them is a place for secrets.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{}://{host}{port}{}{query}", url.scheme(), url.path())
}

/// The name or address to connect to, and the port.
fn target(url: &Url) -> (String, u16) {
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
        None => String::new(),
    };
    (host, url.port_or_known_default().unwrap_or_default())
}

fn host_field(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn authorization(url: &Url) -> Option<(String, String)> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let pair = [decoded(url.username()), b":".to_vec(), decoded(url.password().unwrap_or_default())].concat();
    Some(("Authorization".into(), format!("Basic {}", BASE64.encode(pair))))
}

/// Where a response sends us, if it does.
fn redirection(head: &Head, from: &Url) -> Option<Url> {
    if !matches!(head.status, 301..=303 | 307 | 308) {
        return None;
    }
    let location = head.values("location").next()?;
    from.join(&location).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn sendable(name: &str, value: &str) -> Result<(), Invalid> {
    let refused = |why| Err(Invalid::Value { what: format!("the header field {name:?}"), why });
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return refused("a name is made of letters, digits and hyphens");
    }
    if ["content-length", "transfer-encoding", "connection"]
        .iter()
        .any(|ours| name.eq_ignore_ascii_case(ours))
    {
        return refused("it is about the framing, which is not the plan's");
    }
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return refused("its value holds a line break or another control character");
    }
    Ok(())
}
