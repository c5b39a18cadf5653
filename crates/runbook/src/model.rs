//! The runbook as data: steps, what each does, and what to do when it fails. It is resolved before the run, pinned in
//! the journal's first event, and never changed by the run.
//!
//! Everything in here is written to the journal, so nothing in here may hold the value of a secret.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Steps within steps; deeper is a mistake, and the executor recurses.
pub const DEPTH_MAX: usize = 32;

/// The stable path of a step in its runbook, such as `3.1`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(String);

impl StepId {
    /// Names a step.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of this step's child: `3` and `1` give `3.1`.
    pub fn child(&self, name: impl fmt::Display) -> Self {
        Self(format!("{}.{name}", self.0))
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<&str> for StepId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl Borrow<str> for StepId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runbook {
    /// What a person calls it.
    pub title: String,
    /// Run one after the other.
    pub steps: Vec<Step>,
    /// Whatever the caller wants pinned with the steps; never looked into here.
    pub context: Value,
}

/// One step of a runbook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique in the runbook, steps of remedies and attempts included.
    pub id: StepId,
    /// What a person calls it.
    pub name: String,
    /// To which phase its time counts (`restore`, `boot`, …); a step without one has its parent's.
    pub phase: Option<String>,
    /// What it does.
    pub body: Body,
    /// How long one attempt may take. For steps with children, time in which people were waited for does not count.
    #[serde(with = "crate::millis::option")]
    pub timeout: Option<Duration>,
    /// How long it is expected to take, for the live view.
    #[serde(with = "crate::millis::option")]
    pub expected: Option<Duration>,
    /// How often it is tried again after it failed.
    pub retries: u32,
    /// How long to wait before each retry.
    #[serde(with = "crate::millis")]
    pub retry_delay: Duration,
    /// What becomes of the run when all attempts failed.
    pub on_failure: OnFailure,
    /// Tells that the step's effect is already there; asked before each attempt. Only for steps that are an action.
    pub done_when: Option<Action>,
    /// What a rollback does for this step if it succeeded, in this order.
    pub undo: Vec<Action>,
    /// Known symptoms and what mends them; the first that matches is applied, each at most once.
    pub remedies: Vec<Remedy>,
    /// Why this run leaves the step out (`only: disaster` in a drill); it then counts as not proven.
    pub skip_reason: Option<String>,
}

impl Step {
    /// Makes a step that stops the run when it fails and has neither timeout, retries, remedies nor undo.
    pub fn new(id: impl Into<String>, name: impl Into<String>, body: Body) -> Self {
        Self {
            id: StepId::new(id),
            name: name.into(),
            phase: None,
            body,
            timeout: None,
            expected: None,
            retries: 0,
            retry_delay: Duration::ZERO,
            on_failure: OnFailure::Stop,
            done_when: None,
            undo: Vec::new(),
            remedies: Vec::new(),
            skip_reason: None,
        }
    }

    /// The steps that belong to its body, in order; those of remedies are not among them.
    pub fn children(&self) -> &[Step] {
        match &self.body {
            Body::Sequence(steps) | Body::Parallel(steps) => steps,
            Body::Try { attempts, .. } => attempts,
            Body::Action(_) | Body::Gate { .. } | Body::Approve { .. } | Body::Wait { .. } => &[],
        }
    }

    /// The steps of its body and then those of its remedies.
    pub fn all_children(&self) -> impl Iterator<Item = &Step> {
        self.children().iter().chain(self.remedies.iter().flat_map(|remedy| &remedy.steps))
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Body {
    /// One effect.
    Action(Action),
    /// Children one after the other; the first that fails ends it.
    Sequence(Vec<Step>),
    /// Children together. When one fails the others still go on to their ends: a restore that was cut off would
    /// only have to be begun again.
    Parallel(Vec<Step>),
    /// The cheapest remedy first, the next only while the check still fails.
    Try {
        /// The check; when it holds nothing (more) is attempted.
        until: Action,
        /// How long the check may take to hold after an attempt; zero asks once.
        #[serde(with = "crate::millis")]
        within: Duration,
        /// How long to wait between two questions.
        #[serde(with = "crate::millis")]
        every: Duration,
        /// What is attempted, cheapest first.
        attempts: Vec<Step>,
    },
    /// Asks until the check holds, its time is over, or it can never hold.
    Gate {
        /// The check.
        check: Action,
        /// How long it may take to hold; zero asks once.
        #[serde(with = "crate::millis")]
        within: Duration,
        /// How long to wait between two questions.
        #[serde(with = "crate::millis")]
        every: Duration,
    },
    /// Waits until a person says yes.
    Approve {
        /// What the person is asked.
        message: String,
        /// How long to wait for an answer; `None` is as long as the run's options say.
        #[serde(with = "crate::millis::option")]
        within: Option<Duration>,
    },
    /// Lets time pass. After a restart only what is left of it.
    Wait {
        /// How much.
        #[serde(with = "crate::millis")]
        time: Duration,
    },
}

/// One effect or one question, whose meaning only [`Actions`](crate::Actions) knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The name under which `Actions` finds the code; stable, because a journal outlives the process.
    pub kind: String,
    /// What a person would type to do the same.
    pub command: String,
    /// What the code needs to know.
    pub input: Value,
    /// Whether doing it twice does no harm. If not, and a run was killed in the middle of it, and nobody can tell
    /// whether it was done, people are asked instead of doing it again.
    pub repeatable: bool,
}

impl Action {
    /// Makes an action that may be done twice.
    pub fn new(kind: impl Into<String>, command: impl Into<String>, input: Value) -> Self {
        Self { kind: kind.into(), command: command.into(), input, repeatable: true }
    }
}

/// What becomes of the run when a step's last attempt failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The step's parent fails, and so on up.
    Stop,
    /// The run goes on, and is at most not proven; if the step is a gate, it is failed.
    Continue,
    /// A person decides: retry, skip or abort. When nobody does, it is `Stop`.
    Ask,
}

/// A known symptom and what mends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remedy {
    /// What the failure's message looks like.
    pub pattern: Pattern,
    /// What mends it; afterwards the step is attempted again.
    pub steps: Vec<Step>,
    /// What is lost by it; if anything, a person must approve.
    pub loses: Option<String>,
}

/// What a message must look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// The message contains this text.
    Contains(String),
    /// This regular expression matches somewhere in the message.
    Regex(String),
}

impl Pattern {
    /// Tells whether the message shows this symptom. An expression that is not valid matches nothing;
    /// [`Runbook::validate`] refuses it before a run begins.
    pub fn matches(&self, message: &str) -> bool {
        match self {
            Pattern::Contains(text) => message.contains(text),
            Pattern::Regex(text) => regex::Regex::new(text).is_ok_and(|regex| regex.is_match(message)),
        }
    }
}

/// Why a runbook cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRunbook {
    /// Two steps have the same id.
    #[error("two steps of the runbook have the id {0}; every step needs an id of its own")]
    SameId(StepId),
    /// An id is empty.
    #[error("the step \"{0}\" has no id")]
    NoId(String),
    /// Steps are nested too deeply.
    #[error("step {0} is nested more than {DEPTH_MAX} levels deep; make the runbook flatter")]
    TooDeep(StepId),
    /// A remedy's pattern is not a regular expression.
    #[error("the pattern \"{pattern}\" of a remedy of step {step} is not a regular expression: {why}")]
    Pattern {
        /// Whose remedy.
        step: StepId,
        /// The text.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// `done_when` stands at a step that is no action.
    #[error("step {0} has a done_when and is not an action; put it at the actions inside")]
    DoneWhen(StepId),
    /// There is nothing to do.
    #[error("the runbook has no steps")]
    Empty,
}

impl Runbook {
    /// Checks what the types cannot: unique ids, depth, patterns.
    pub fn validate(&self) -> Result<(), InvalidRunbook> {
        if self.steps.is_empty() {
            return Err(InvalidRunbook::Empty);
        }
        let mut ids = BTreeSet::new();
        self.steps.iter().try_for_each(|step| validate(step, 1, &mut ids))
    }

    /// Finds a step anywhere in the runbook.
    pub fn find(&self, id: &StepId) -> Option<&Step> {
        find(self.steps.iter(), id)
    }

    /// Calls back for every step, parents before children, children before the steps of remedies.
    pub fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Step, usize)) {
        self.steps.iter().for_each(|step| visit(step, 0, each));
    }
}

fn find<'a>(mut steps: impl Iterator<Item = &'a Step>, id: &StepId) -> Option<&'a Step> {
    steps.find_map(|step| {
        if step.id == *id {
            Some(step)
        } else {
            find(&mut step.all_children() as &mut dyn Iterator<Item = _>, id)
        }
    })
}

fn visit<'a>(step: &'a Step, depth: usize, each: &mut dyn FnMut(&'a Step, usize)) {
    each(step, depth);
    step.all_children().for_each(|child| visit(child, depth + 1, each));
}

fn validate<'a>(step: &'a Step, depth: usize, ids: &mut BTreeSet<&'a StepId>) -> Result<(), InvalidRunbook> {
    if step.id.as_str().is_empty() {
        return Err(InvalidRunbook::NoId(step.name.clone()));
    }
    if depth > DEPTH_MAX {
        return Err(InvalidRunbook::TooDeep(step.id.clone()));
    }
    if !ids.insert(&step.id) {
        return Err(InvalidRunbook::SameId(step.id.clone()));
    }
    if step.done_when.is_some() && !matches!(step.body, Body::Action(_)) {
        return Err(InvalidRunbook::DoneWhen(step.id.clone()));
    }
    for remedy in &step.remedies {
        if let Pattern::Regex(pattern) = &remedy.pattern
            && let Err(error) = regex::Regex::new(pattern)
        {
            let (step, pattern) = (step.id.clone(), pattern.clone());
            return Err(InvalidRunbook::Pattern { step, pattern, why: error.to_string() });
        }
    }
    step.all_children().try_for_each(|child| validate(child, depth + 1, ids))
}
