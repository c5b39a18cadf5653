//! What is expected of a response, and whether it is there.

use std::time::Duration;

use jmespath::{Expression, Variable};

use super::Seen;
use crate::check::Invalid;
use crate::check::answer::Answer;
use crate::check::question::{HttpExpect, Status};
use crate::check::text::Matcher;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An [`HttpExpect`] that has been understood.
pub(super) struct Expectation {
    status: Vec<Status>,
    headers: Vec<(String, Matcher)>,
    json: Option<Expression<'static>>,
    body: Option<Matcher>,
    tls_days_min: Option<u32>,
}

impl Expectation {
    pub(super) fn new(expect: &HttpExpect, what: &str, is_tls: bool) -> Result<Expectation, Invalid> {
        let HttpExpect { status, headers, json, body, tls_days_min } = expect;
        if status.is_empty()
            && headers.is_empty()
            && json.is_none()
            && body.is_none()
            && tls_days_min.is_none()
        {
            return Err(Invalid::NoExpectation {
                what: what.into(),
                example: "a status, a header field, a JSON expression or a text of the body",
            });
        }
        if let Some(impossible) = status.iter().find(|status| !possible(**status)) {
            return Err(Invalid::Value {
                what: format!("the status {impossible}"),
                why: "a status is a number from 200 to 599, or 2xx to 5xx",
            });
        }
        if tls_days_min.is_some() && !is_tls {
            return Err(Invalid::Value {
                what: "days for which a certificate is valid".into(),
                why: "there is no certificate without https",
            });
        }
        let header = |(name, expected): &(String, _)| Ok((name.clone(), Matcher::new(expected)?));
        let mut status = status.clone();
        if status.is_empty() {
            status.push(Status::Class(2));
        }
        Ok(Expectation {
            status,
            headers: headers.iter().map(header).collect::<Result<_, Invalid>>()?,
            json: json.as_deref().map(compiled).transpose()?,
            body: body.as_ref().map(Matcher::new).transpose()?,
            tls_days_min: *tls_days_min,
        })
    }

    /// Tells whether the body has to be read.
    pub(super) fn needs_body(&self) -> bool {
        self.json.is_some() || self.body.is_some()
    }

    pub(super) fn describe(&self) -> String {
        std::iter::once(self.statuses()).chain(self.besides_status()).collect::<Vec<_>>().join(", ")
    }

    fn besides_status(&self) -> Vec<String> {
        let mut parts = Vec::new();
        parts.extend(self.headers.iter().map(|(name, expected)| format!("{name} {}", expected.describe())));
        parts.extend(self.json.iter().map(|json| format!("JSON where {} is true", json.as_str())));
        parts.extend(self.body.iter().map(|body| format!("a body that {}", body.describe())));
        parts.extend(self.tls_days_min.map(|days| format!("a certificate valid for {days} days or more")));
        parts
    }

    /// Holds only if everything holds; the first thing that does not is the answer.
    pub(super) fn judge(&self, seen: &Seen) -> Answer {
        let verdicts = [
            self.judge_status(seen),
            self.judge_certificate(seen),
            self.judge_headers(seen),
            self.judge_coding(seen),
            self.judge_json(seen),
            self.judge_body(seen),
        ];
        match verdicts.into_iter().find_map(Result::err) {
            Some(answer) => answer,
            None => {
                let status = std::iter::once(format!("HTTP {}", seen.head.status));
                let detail = status.chain(self.besides_status()).collect::<Vec<_>>().join(", ");
                Answer::Holds { detail: format!("{}: {detail}", seen.url) }
            }
        }
    }

    fn statuses(&self) -> String {
        let words: Vec<String> = self.status.iter().map(ToString::to_string).collect();
        format!("HTTP {}", words.join(" or "))
    }

    fn judge_status(&self, seen: &Seen) -> Result<(), Answer> {
        let status = seen.head.status;
        if self.status.iter().any(|expected| expected.includes(status)) {
            return Ok(());
        }
        let to = seen.head.values("location").next().map(|to| format!(" to {}", without_query(&to)));
        Err(Answer::fails(
            format!("{} answers with the wrong status", seen.url),
            self.statuses(),
            format!("HTTP {status}{}", to.unwrap_or_default()),
        ))
    }

    fn judge_certificate(&self, seen: &Seen) -> Result<(), Answer> {
        let Some(days) = self.tls_days_min else { return Ok(()) };
        let expected = format!("valid for {days} days or more");
        match seen.certificate {
            Some(Some(left)) if left >= DAY * days => Ok(()),
            Some(Some(left)) => Err(Answer::fails(
                format!("the certificate of {} ends too soon", seen.url),
                expected,
                format!("valid for {} days", left.as_secs() / DAY.as_secs()),
            )),
            Some(None) => {
                Err(Answer::unknown(format!("cannot read the dates of the certificate of {}", seen.url)))
            }
            None => Err(Answer::fails(
                format!("{} was reached without TLS", seen.url),
                expected,
                "a redirect to plain http",
            )),
        }
    }

    fn judge_headers(&self, seen: &Seen) -> Result<(), Answer> {
        for (name, expected) in &self.headers {
            let values: Vec<String> = seen.head.values(name).collect();
            if !values.iter().any(|value| expected.matches(value)) {
                let found = if values.is_empty() { "no such field".to_owned() } else { values.join(", ") };
                return Err(Answer::fails(
                    format!("{} answers with the wrong {name}", seen.url),
                    format!("{name} {}", expected.describe()),
                    found,
                ));
            }
        }
        Ok(())
    }

    /// A server may compress although it was asked not to; then nothing can be said of the body.
    fn judge_coding(&self, seen: &Seen) -> Result<(), Answer> {
        let coding =
            seen.head.values("content-encoding").find(|coding| !coding.eq_ignore_ascii_case("identity"));
        match coding.filter(|_| self.needs_body()) {
            Some(coding) => Err(Answer::unknown(format!(
                "the body of {} is encoded with {coding}, although it was asked for as it is",
                seen.url
            ))),
            None => Ok(()),
        }
    }

    fn judge_json(&self, seen: &Seen) -> Result<(), Answer> {
        let Some(expression) = &self.json else { return Ok(()) };
        let expected = format!("JSON where {} is true", expression.as_str());
        let fails = |why: String, found: String| Err(Answer::fails(why, expected, found));
        let text = String::from_utf8_lossy(&seen.body);
        let Ok(value) = Variable::from_json(&text) else {
            return fails(format!("{} does not answer with JSON", seen.url), text.into_owned());
        };
        match expression.search(value) {
            Ok(result) if *result == Variable::Bool(true) => Ok(()),
            Ok(result) => {
                fails(format!("{} answers with other JSON", seen.url), format!("{result} from {text}"))
            }
            Err(error) => fails(
                format!("the JSON of {} is not of the shape that {} needs", seen.url, expression.as_str()),
                format!("{} in {text}", error.reason),
            ),
        }
    }

    fn judge_body(&self, seen: &Seen) -> Result<(), Answer> {
        let Some(expected) = &self.body else { return Ok(()) };
        let text = String::from_utf8_lossy(&seen.body);
        if expected.matches(&text) {
            return Ok(());
        }
        Err(Answer::fails(
            format!("{} answers with another body", seen.url),
            format!("a body that {}", expected.describe()),
            text,
        ))
    }
}

impl Status {
    fn includes(self, status: u16) -> bool {
        match self {
            Status::Is(one) => status == one,
            Status::Class(digit) => status / 100 == u16::from(digit),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Status::Is(one) => write!(formatter, "{one}"),
            Status::Class(digit) => write!(formatter, "{digit}xx"),
        }
    }
}

/// Interim responses are never the answer.
fn possible(status: Status) -> bool {
    match status {
        Status::Is(one) => (200..600).contains(&one),
        Status::Class(digit) => (2..=5).contains(&digit),
    }
}

fn compiled(expression: &str) -> Result<Expression<'static>, Invalid> {
    jmespath::compile(expression)
        .map_err(|error| Invalid::Json { expression: expression.into(), why: error.reason.to_string() })
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}
