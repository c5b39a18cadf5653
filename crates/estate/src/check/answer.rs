//! What a check answers, and what it is told when it is asked: plain data.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::secrets::Secrets;
use crate::served::Served;

/// What came of asking a check once.
///
/// Only [`Answer::Holds`] proves anything. The texts are for people, hold no secret that the context knows, and
/// are bounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The world is as expected.
    Holds {
        /// What was seen.
        detail: String,
    },
    /// The question was answered, and not as expected; asking again later may go otherwise.
    Fails {
        /// What is wrong, as a fragment.
        why: String,
        /// What should have been seen.
        expected: String,
        /// What was seen instead.
        found: String,
    },
    /// The question could not be answered: nothing is known, neither good nor bad. Never passed.
    Unknown {
        /// What kept the question from being answered.
        why: String,
    },
    /// The check fails and waiting cannot mend it: a query that is no SQL, a program that is not there.
    Fatal {
        /// What is wrong.
        why: String,
    },
}

impl Answer {
    /// Tells whether the world is as expected.
    pub fn holds(&self) -> bool {
        matches!(self, Answer::Holds { .. })
    }

    pub(crate) fn fails(
        why: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Answer {
        Answer::Fails { why: why.into(), expected: expected.into(), found: found.into() }
    }

    pub(crate) fn unknown(why: impl Into<String>) -> Answer {
        Answer::Unknown { why: why.into() }
    }

    pub(crate) fn fatal(why: impl Into<String>) -> Answer {
        Answer::Fatal { why: why.into() }
    }

    /// Rewrites every text, which is how secrets and lengths are taken care of in one place.
    pub(crate) fn map_texts(self, text: impl Fn(&str) -> String) -> Answer {
        match self {
            Answer::Holds { detail } => Answer::Holds { detail: text(&detail) },
            Answer::Fails { why, expected, found } => {
                Answer::Fails { why: text(&why), expected: text(&expected), found: text(&found) }
            }
            Answer::Unknown { why } => Answer::Unknown { why: text(&why) },
            Answer::Fatal { why } => Answer::Fatal { why: text(&why) },
        }
    }
}

/// What a check is told each time it is asked.
#[derive(Debug, Clone, Copy)]
pub struct AskContext<'a> {
    /// How long one asking may take in all.
    pub timeout: Duration,
    /// Set by whoever wants the asking to end early; the answer is then unknown.
    pub cancel: &'a AtomicBool,
    /// What must not be seen in any answer.
    pub secrets: &'a Secrets,
    /// The service that has to be the one that answers: [`crate::service::Service::served`] measures it.
    ///
    /// With it, a check over the network holds only if every process that listens at its port belongs to the
    /// service. A port that a live service of the host or a leftover of yesterday answers does not count.
    pub served_by: Option<&'a Served>,
}

/// The moment at which an asking has to be over, and the flag that ends it before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline<'a> {
    end: Instant,
    cancel: &'a AtomicBool,
}

/// Why an asking ended before it had an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Over {
    #[error("its time was over")]
    Late,
    #[error("interrupted")]
    Cancelled,
}

impl<'a> Deadline<'a> {
    pub(crate) fn of(context: &AskContext<'a>) -> Deadline<'a> {
        Deadline { end: Instant::now() + context.timeout, cancel: context.cancel }
    }

    /// The time that is left, or why there is none.
    pub(crate) fn left(&self) -> Result<Duration, Over> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Over::Cancelled);
        }
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Over::Late) } else { Ok(left) }
    }
}
