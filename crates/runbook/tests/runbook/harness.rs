//! The made-up world: actions whose effects are counted, checks that look at the effects, a clock that only moves when someone sleeps,
//! a journal in memory that a test can break.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runbook::journal::{Journal, Sink, parse};
use runbook::*;
use serde_json::{Value, json};

pub const RUN: &str = "recover-1";

/// What was done, and how often.
#[derive(Default)]
pub struct World {
    pub facts: Mutex<Facts>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Effects that are there, and how often they were made.
    pub done: BTreeMap<String, u32>,
    /// How often each action was performed, failures included.
    pub tried: BTreeMap<String, u32>,
    pub asked: BTreeMap<String, u32>,
    /// Undone, in order.
    pub undone: Vec<String>,
}

impl World {
    pub fn facts(&self) -> Facts {
        self.facts.lock().unwrap().clone()
    }
}

fn name(action: &Action) -> String {
    action.input["name"].as_str().unwrap().to_owned()
}

impl Actions for World {
    fn perform(&self, action: &Action, at: &StepContext<'_>) -> Result<Performed, Failure> {
        let name = name(action);
        let tried = {
            let mut facts = self.facts.lock().unwrap();
            let tried = facts.tried.entry(name.clone()).or_default();
            *tried += 1;
            *tried
        };
        if action.input["hangs"] == true {
            while !at.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            return Err(Failure::interrupted("it was cut off"));
        }
        if action.input["panics"] == true {
            panic!("the world is upside down");
        }
        let fails = action.input["fails"].as_u64().unwrap_or_default();
        let mended = action.input["mended_by"].as_str().is_some_and(|by| self.facts().done.contains_key(by));
        if u64::from(tried) <= fails && !mended {
            let kind = match action.input["kind"].as_str() {
                Some("could_not_run") => FailureKind::CouldNotRun,
                Some("not_proven") => FailureKind::NotProven,
                _ => FailureKind::Failed,
            };
            return Err(Failure::of(kind, format!("{name} says no")));
        }
        *self.facts.lock().unwrap().done.entry(name.clone()).or_default() += 1;
        let proven = match action.input["proven"].as_bool() {
            Some(true) => Proven::Shown("all rows are there".to_owned()),
            Some(false) => Proven::Not("no facts to compare with".to_owned()),
            None => Proven::NotAsked,
        };
        Ok(Performed::new(format!("did {name}")).with_output(json!({ "of": name })).with_proven(proven))
    }

    fn ask(&self, check: &Action, _: &StepContext<'_>) -> Answer {
        let name = name(check);
        let mut facts = self.facts.lock().unwrap();
        let asked = facts.asked.entry(name.clone()).or_default();
        *asked += 1;
        let asked = u64::from(*asked);
        if let Some(effect) = check.input["when"].as_str() {
            let there = facts.done.get(effect).is_some_and(|count| *count > 0);
            return if there {
                Answer::Holds(format!("{effect} is there"))
            } else {
                Answer::Fails(format!("no {effect}"))
            };
        }
        match check.input["says"].as_str() {
            Some("fails") => Answer::Fails(format!("{name} is down")),
            Some("fatal") => Answer::Fatal(format!("{name} is gone for good")),
            Some("unknown") => Answer::Unknown(format!("nobody can ask {name}")),
            _ if asked < check.input["from"].as_u64().unwrap_or_default() => {
                Answer::Fails(format!("{name} is not up yet"))
            }
            _ => Answer::Holds(format!("{name} is up")),
        }
    }

    fn probe(&self, action: &Action, _: &StepContext<'_>) -> Probe {
        if action.input["probed"] != true {
            return Probe::Unknown;
        }
        match self.facts().done.get(&name(action)) {
            Some(count) if *count > 0 => Probe::Done(Performed::new(format!("found {}", name(action)))),
            _ => Probe::NotDone,
        }
    }

    fn undo(&self, action: &Action, performed: &Performed, _: &StepContext<'_>) -> Result<Undone, Failure> {
        let name = name(action);
        assert!(performed.output.is_null() || performed.output["of"] == name, "{performed:?}");
        let mut facts = self.facts.lock().unwrap();
        if action.input["undo_fails"] == true && !facts.done.contains_key("mended") {
            return Err(Failure::failed(format!("{name} will not go")));
        }
        facts.undone.push(name.clone());
        Ok(Undone::Done(format!("took {name} back")))
    }
}

/// A clock that moves when someone sleeps, and at no other time.
#[derive(Debug, Default)]
pub struct TestClock {
    millis: AtomicU64,
    wall_off_millis: AtomicI64,
    pub boots: AtomicU64,
}

impl TestClock {
    pub fn advance(&self, time: Duration) {
        self.millis.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn move_wall(&self, millis: i64) {
        self.wall_off_millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        let start: Timestamp = "2026-03-01T03:00:00Z".parse().unwrap();
        let off = SignedDuration::from_millis(self.wall_off_millis.load(Ordering::SeqCst));
        start + off + SignedDuration::try_from(self.now()).unwrap()
    }

    fn boot(&self) -> String {
        format!("boot-{}", self.boots.load(Ordering::SeqCst))
    }

    fn sleep(&self, time: Duration) {
        self.advance(time);
        std::thread::yield_now();
    }
}

/// When the journal breaks: at which append (the first line is 0), and whether the bytes are there all the same.
#[derive(Clone, Copy, Debug)]
pub struct Break {
    pub at: usize,
    pub written: bool,
}

/// A journal in memory. After its break it takes nothing, as if the process were dead.
pub struct MemorySink {
    bytes: Arc<Mutex<Vec<u8>>>,
    appends: usize,
    breaks: Option<Break>,
}

impl Sink for MemorySink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let at = self.appends;
        self.appends += 1;
        match self.breaks {
            Some(breaks) if at >= breaks.at => {
                if at == breaks.at && breaks.written {
                    self.bytes.lock().unwrap().extend_from_slice(bytes);
                }
                Err(io::Error::other("killed here"))
            }
            _ => {
                self.bytes.lock().unwrap().extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// What operators do when something happens.
pub type React = fn(&Entry) -> Vec<(&'static str, Verb)>;

pub fn nobody(_: &Entry) -> Vec<(&'static str, Verb)> {
    Vec::new()
}

/// Says yes to everything, and skips what fails.
pub fn willing(entry: &Entry) -> Vec<(&'static str, Verb)> {
    let Event::WaitBegun { step, question, .. } = &entry.event else { return Vec::new() };
    match question.is_approval() {
        true => vec![("ann", Verb::Approve { step: Some(step.clone()) })],
        false => vec![("ann", Verb::Skip { step: step.clone(), reason: "seen to".to_owned() })],
    }
}

/// What happens to the world when something is written down.
pub type OnEntry = Box<dyn FnMut(&Entry) + Send>;

/// A world, a clock, a journal and people.
pub struct Bench {
    pub world: World,
    pub clock: Arc<TestClock>,
    pub queue: Arc<OrderQueue>,
    pub bytes: Arc<Mutex<Vec<u8>>>,
    pub interrupt: AtomicBool,
    pub answer_within: Option<Duration>,
    pub react: React,
    pub on_entry: Mutex<OnEntry>,
}

impl Bench {
    pub fn new(react: React) -> Self {
        Self {
            world: World::default(),
            clock: Arc::default(),
            queue: Arc::default(),
            bytes: Arc::default(),
            interrupt: AtomicBool::new(false),
            answer_within: Some(Duration::from_secs(60)),
            react,
            on_entry: Mutex::new(Box::new(|_| ())),
        }
    }

    pub fn on_entry(self, on_entry: impl FnMut(&Entry) + Send + 'static) -> Self {
        *self.on_entry.lock().unwrap() = Box::new(on_entry);
        self
    }

    pub fn env(&self) -> Environment<'_> {
        Environment {
            actions: &self.world,
            controls: &*self.queue,
            observer: self,
            clock: &*self.clock,
            interrupt: &self.interrupt,
            host: "host",
            version: "0",
            options: Options { answer_within: self.answer_within },
        }
    }

    pub fn sink(&self, breaks: Option<Break>) -> Box<MemorySink> {
        Box::new(MemorySink { bytes: Arc::clone(&self.bytes), appends: 0, breaks })
    }

    pub fn begin(&self, runbook: &Runbook) -> Result<Ended, Error> {
        self.begin_broken(runbook, None)
    }

    pub fn begin_broken(&self, runbook: &Runbook, breaks: Option<Break>) -> Result<Ended, Error> {
        begin(Journal::onto(self.sink(breaks), RUN)?, begun(runbook), self.env())
    }

    /// Opens what is in memory; `breaks` counts the appends from here.
    pub fn reopen(&self, breaks: Option<Break>) -> Result<Journal, journal::JournalError> {
        let parsed = parse(&self.bytes.lock().unwrap())?;
        self.bytes.lock().unwrap().truncate(parsed.whole_bytes);
        self.see_open_questions(&parsed.entries);
        Ok(Journal::continued(self.sink(breaks), parsed))
    }

    /// People see what a killed process had asked and nobody has answered.
    fn see_open_questions(&self, entries: &[Entry]) {
        let Ok(state) = State::replay(entries) else { return };
        for (step, waiting) in state.waiting().into_iter().filter(|(_, waiting)| waiting.answer.is_none()) {
            let (step, question) = (step.clone(), waiting.question.clone());
            let event = Event::WaitBegun { step, question, within: waiting.within };
            let entry = Entry { event, ..entries[0].clone() };
            for (by, verb) in (self.react)(&entry) {
                self.queue.give(Order::new(by, verb));
            }
        }
    }

    pub fn resume(&self, orders: Vec<Order>) -> Result<Ended, Error> {
        resume(self.reopen(None)?, "ann", orders, self.env())
    }

    pub fn roll_back(&self, orders: Vec<Order>) -> Result<Ended, Error> {
        rollback(self.reopen(None)?, "ann", orders, self.env())
    }

    pub fn entries(&self) -> Vec<Entry> {
        parse(&self.bytes.lock().unwrap()).unwrap().entries
    }

    /// What the journal says that the state is.
    pub fn replayed(&self) -> State {
        State::replay(&self.entries()).unwrap()
    }

    pub fn events(&self) -> Vec<Event> {
        self.entries().into_iter().map(|entry| entry.event).collect()
    }
}

impl Observer for Bench {
    fn recorded(&self, entry: &Entry, line: &str, state: &State) {
        assert!(line.ends_with("}\n") && state.seq() == entry.seq);
        (self.on_entry.lock().unwrap())(entry);
        for (by, verb) in (self.react)(entry) {
            self.queue.give(Order::new(by, verb));
        }
    }
}

pub fn begun(runbook: &Runbook) -> RunBegun {
    RunBegun {
        run: RUN.to_owned(),
        kind: "recover".to_owned(),
        by: "ann".to_owned(),
        plan_digest: "0".to_owned(),
        runbook: runbook.clone(),
    }
}

pub fn book(steps: Vec<Step>) -> Runbook {
    Runbook { title: "The server is gone".to_owned(), steps, context: Value::Null }
}

/// An action with this name; the input's fields say how it behaves.
pub fn action(name: &str, mut input: Value) -> Action {
    input["name"] = json!(name);
    Action::new("made up", format!("do {name}"), input)
}

/// A step that does what it is called.
pub fn act(id: &str, name: &str, input: Value) -> Step {
    Step::new(id, name, Body::Action(action(name, input)))
}

/// The same, and it must not be done twice; the driver knows whether it was done.
pub fn once(id: &str, name: &str) -> Step {
    let mut step = act(id, name, json!({ "probed": true }));
    let Body::Action(action) = &mut step.body else { unreachable!() };
    action.repeatable = false;
    step
}

pub fn gate(id: &str, name: &str, input: Value) -> Step {
    let check = action(name, input);
    Step::new(id, name, Body::Gate { check, within: Duration::from_secs(30), every: Duration::from_secs(1) })
}

pub fn group(id: &str, body: fn(Vec<Step>) -> Body, steps: Vec<Step>) -> Step {
    Step::new(id, id, body(steps))
}

pub fn try_until(id: &str, until: Action, attempts: Vec<Step>) -> Step {
    let (within, every) = (Duration::from_secs(5), Duration::from_secs(1));
    Step::new(id, id, Body::Try { until, within, every, attempts })
}

pub fn approve(id: &str) -> Step {
    let message = "a new machine is ready".to_owned();
    Step::new(id, id, Body::Approve { message, within: Some(Duration::from_secs(600)) })
}

pub fn wait(id: &str, seconds: u64) -> Step {
    Step::new(id, id, Body::Wait { time: Duration::from_secs(seconds) })
}

pub fn id(id: &str) -> StepId {
    StepId::from(id)
}

pub fn order(verb: Verb) -> Order {
    Order::new("bob", verb)
}

pub fn skip(step: &str) -> Verb {
    Verb::Skip { step: id(step), reason: "not today".to_owned() }
}

/// Where each step ended, in a word.
pub fn statuses(state: &State) -> Vec<(String, &'static str)> {
    let word = |status: &Status| match status {
        Status::Pending => "pending",
        Status::Running => "running",
        Status::Succeeded { .. } => "succeeded",
        Status::Failed { tolerated: true, .. } => "tolerated",
        Status::Failed { .. } => "failed",
        Status::Skipped { .. } => "skipped",
        Status::NotNeeded => "not needed",
    };
    let views = state.steps(state.at());
    views.iter().map(|view| (view.step.id.to_string(), word(view.status))).collect()
}

pub fn status(state: &State, step: &str) -> &'static str {
    statuses(state).into_iter().find(|(id, _)| id == step).unwrap().1
}

/// The journal as people would tell it.
pub fn transcript(bench: &Bench) -> String {
    let mut text = String::new();
    for entry in bench.entries() {
        let event = match entry.event {
            Event::RunBegun(begun) => format!("RunBegun: {}", begun.runbook.title),
            Event::IncarnationBegun(_) => "IncarnationBegun".to_owned(),
            Event::Ordered(order) => format!("Ordered by {}: {:?}", order.by, order.verb),
            Event::Refused { order, why } => format!("Refused to {}: {:?}: {why}", order.by, order.verb),
            other => format!("{other:?}").replace("StepId", ""),
        };
        writeln!(text, "{:>3} {:>8.1} s  {event}", entry.seq, entry.at.as_secs_f64()).unwrap();
    }
    text
}
