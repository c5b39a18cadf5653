//! Between the client library and the network: what an answer of the server means to us.
//!
//! The library tells error statuses apart only roughly: a missing bucket is the same to it as a missing
//! object, a conflict that asks for a repetition the same as an object that exists. So a refusal is turned
//! into an error of our own here, before the library sees it, and found again in the chain of causes by
//! [`classify`].

use std::fmt;

use async_trait::async_trait;
use futures_util::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

use crate::ErrorKind;

/// No error message of an S3 server is longer than this; the rest is not read.
const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// Makes clients that hand refusals on as [`Refusal`].
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service { client }))
    }
}

#[derive(Debug)]
struct Service {
    client: HttpClient,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.client.execute(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut body = Vec::new();
        let mut chunks = response.into_body().bytes_stream();
        // A text that breaks off or goes on for ever explains less; the status is there already.
        while let Some(Ok(chunk)) = chunks.next().await {
            body.extend_from_slice(&chunk);
            if body.len() > ERROR_BODY_BYTES_MAX {
                break;
            }
        }
        let refusal = Refusal::new(status.as_u16(), &body);
        Err(HttpError::new(HttpErrorKind::Unknown, refusal))
    }
}

/// The server answered, and not with what was asked for.
#[derive(Debug)]
struct Refusal {
    status: u16,
    /// Such as `NoSuchBucket`; empty when the answer has none.
    code: String,
    message: String,
}

impl Refusal {
    fn new(status: u16, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        Self { status, code: element(&body, "Code"), message: element(&body, "Message") }
    }

    fn kind(&self) -> ErrorKind {
        match (self.status, self.code.as_str()) {
            (_, "NoSuchBucket") => ErrorKind::Other,
            (_, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
                ErrorKind::Denied
            }
            (_, "RequestTimeout" | "SlowDown" | "InternalError" | "ConditionalRequestConflict") => {
                ErrorKind::Unavailable
            }
            (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity") => ErrorKind::Full,
            (404, _) => ErrorKind::NotFound,
            (304 | 412, _) => ErrorKind::AlreadyExists,
            (401 | 403, _) => ErrorKind::Denied,
            (416, _) => ErrorKind::Truncated,
            (501, _) => ErrorKind::Other,
            (408 | 409 | 425 | 429 | 500.., _) => ErrorKind::Unavailable,
            _ => ErrorKind::Other,
        }
    }

    /// What the user can do about it, where that is known.
    fn advice(&self) -> &'static str {
        match (self.status, self.code.as_str()) {
            (_, "NoSuchBucket") => "; create the bucket first, or correct its name",
            (_, "RequestTimeTooSkewed") => "; set this machine's clock",
            (_, "AuthorizationHeaderMalformed") | (301 | 307 | 308, _) => {
                "; the region or the endpoint may be wrong"
            }
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken") => {
                "; check the credentials"
            }
            (403, _) => "; check the credentials and what they may do",
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message.trim_end_matches('.'))?;
        }
        f.write_str(self.advice())
    }
}

impl std::error::Error for Refusal {}

/// The text of the first `<name>` in an error document; empty when there is none.
///
/// Five lines instead of an XML parser: the documents are flat, and nothing but a message depends on the
/// rest.
fn element(body: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let text =
        body.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(text, _)| text);
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Tells the kind of an error of the client library, and its reason in words.
pub(super) fn classify(error: object_store::Error) -> (ErrorKind, Box<dyn std::error::Error + Send + Sync>) {
    let mut transport = None;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(refusal) = current.downcast_ref::<Refusal>() {
            return (refusal.kind(), refusal.to_string().into());
        }
        transport = transport.or(current.downcast_ref::<HttpError>());
        cause = current.source();
    }
    if let Some(why) = distrust(&error) {
        // No repetition makes a certificate better.
        let text = format!(
            "the server's certificate is not trusted: {why}; name its authority's certificate, or another server is at \
             that address"
        );
        return (ErrorKind::Other, text.into());
    }
    if let Some(transport) = transport {
        // Whatever breaks below HTTP may be whole again on the next attempt.
        return (ErrorKind::Unavailable, describe(transport).into());
    }
    let kind = match error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            ErrorKind::AlreadyExists
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            ErrorKind::Denied
        }
        _ => ErrorKind::Other,
    };
    (kind, Box::new(error))
}

/// What is wrong with the server's certificate, if that is at the bottom of the error.
fn distrust<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls).filter(|tls| matches!(tls, rustls::Error::InvalidCertificate(_)));
    }
    // What an I/O error wraps is not in its chain of causes.
    match error.downcast_ref::<std::io::Error>() {
        Some(wrapping) => wrapping.get_ref().and_then(|inner| distrust(inner)),
        None => error.source().and_then(distrust),
    }
}

/// The chain of causes in one line, each told once.
fn describe(error: &HttpError) -> String {
    let mut text = match error.kind() {
        HttpErrorKind::Connect => "cannot connect",
        HttpErrorKind::Timeout => "no answer in time",
        _ => "the connection broke",
    }
    .to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(current) = cause {
        let next = current.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = current.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, code: &str) -> ErrorKind {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
        Refusal::new(status, body.as_bytes()).kind()
    }

    #[test]
    fn only_a_missing_object_is_not_found() {
        assert_eq!(kind(404, "NoSuchKey"), ErrorKind::NotFound);
        assert_eq!(Refusal::new(404, b"").kind(), ErrorKind::NotFound);
        assert_eq!(kind(404, "NoSuchBucket"), ErrorKind::Other);
        assert_eq!(kind(403, "AccessDenied"), ErrorKind::Denied);
        assert_eq!(kind(503, "SlowDown"), ErrorKind::Unavailable);
    }

    #[test]
    fn a_conflict_asks_for_a_repetition_and_is_no_existing_object() {
        assert_eq!(kind(409, "ConditionalRequestConflict"), ErrorKind::Unavailable);
        assert_eq!(kind(412, "PreconditionFailed"), ErrorKind::AlreadyExists);
    }

    #[test]
    fn messages_come_from_the_answer_and_end_in_advice() {
        let body = b"<Error><Code>NoSuchBucket</Code><Message>Bucket not found: x.</Message></Error>";
        let text = Refusal::new(404, body).to_string();
        assert_eq!(
            text,
            "the server answered 404 NoSuchBucket: Bucket not found: x; create the bucket first, or correct its name"
        );
        assert_eq!(Refusal::new(502, b"\xff<html>").to_string(), "the server answered 502");
    }
}
