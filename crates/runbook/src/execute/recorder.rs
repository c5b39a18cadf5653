//! The one writer: turns what happens into entries, one after the other, and knows when everything must stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{Environment, Error};
use crate::event::{Entry, Event, Incarnation};
use crate::journal::{Journal, JournalError, same_run};
use crate::model::StepId;
use crate::order::Order;
use crate::state::{RunStatus, State, StepState};

/// A wall clock that is further from the steady one than this was moved, and not merely slowed or hastened by its keeper.
const JUMP_MIN: Duration = Duration::from_secs(2);

/// Nothing more may be done: the journal cannot be written, an event was illegal, or the process is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Halt;

pub(super) struct Recorder<'a> {
    pub(super) env: Environment<'a>,
    run: String,
    inner: Mutex<Inner>,
    /// Calls of actions that are under way.
    calls: Mutex<BTreeMap<u64, Call>>,
    calls_made: AtomicU64,
    /// The last trouble with orders, so that it is told once.
    trouble: Mutex<Option<String>>,
}

struct Inner {
    journal: Journal,
    state: State,
    failed: Option<Error>,
    /// The run's time when the clock said `origin`.
    base: Duration,
    origin: Duration,
    /// What the clocks said at the last entry of this process.
    last: (Duration, Timestamp),
}

/// A call of an action, and what can end it.
struct Call {
    cancel: Arc<AtomicBool>,
    deadline: Option<Duration>,
    /// The step and all that it belongs to.
    steps: Vec<StepId>,
}

impl<'a> Recorder<'a> {
    /// Begins a journal with its first entry, which is durable when this returns.
    pub(super) fn begin(mut journal: Journal, event: Event, env: Environment<'a>) -> Result<Self, Error> {
        let wall = env.clock.wall();
        let entry = Entry { seq: 1, wall, at: Duration::ZERO, event };
        let state = State::new(&entry)?;
        let line = journal.append(&entry)?;
        env.observer.recorded(&entry, &line, &state);
        Ok(Self::new(journal, state, Duration::ZERO, env))
    }

    /// Continues a journal that was begun.
    pub(super) fn reopen(journal: Journal, env: Environment<'a>) -> Result<Self, Error> {
        let Some(last) = journal.entries().last() else { return Err(JournalError::Empty.into()) };
        let state = State::replay(journal.entries())?;
        same_run(journal.run(), &state)?;
        let base = continued_at(&state, last, env);
        Ok(Self::new(journal, state, base, env))
    }

    fn new(journal: Journal, state: State, base: Duration, env: Environment<'a>) -> Self {
        let origin = env.clock.now();
        let last = (origin, env.clock.wall());
        let run = state.run().to_owned();
        let inner = Inner { journal, state, failed: None, base, origin, last };
        Self {
            env,
            run,
            inner: Mutex::new(inner),
            calls: Mutex::default(),
            calls_made: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// Writes down that this process is at the run.
    pub(super) fn take_up(&self) -> Result<(), Halt> {
        let incarnation = Incarnation {
            pid: std::process::id(),
            host: self.env.host.to_owned(),
            boot: self.env.clock.boot(),
            since_boot: whole_millis(self.env.clock.now()),
            version: self.env.version.to_owned(),
        };
        self.record(Event::IncarnationBegun(incarnation))
    }

    /// Checks the event, writes it durably and shows it.
    pub(super) fn record(&self, event: Event) -> Result<(), Halt> {
        self.lock().record(event, self.env)
    }

    /// What a step's state is now.
    pub(super) fn step(&self, id: &StepId) -> StepState {
        self.lock().state.step(id).cloned().expect("the executor walks the steps of the run's own runbook")
    }

    /// The run's id.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// Whether an action is under way.
    pub(super) fn has_calls(&self) -> bool {
        !self.calls.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Looks at the state.
    pub(super) fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// The run's time.
    pub(super) fn now(&self) -> Duration {
        self.lock().now(self.env)
    }

    /// Whether nothing more may be done.
    pub(super) fn is_halted(&self) -> bool {
        self.env.interrupt.load(Ordering::Relaxed) || self.lock().failed.is_some()
    }

    /// The error that halted the run, or the state that it has.
    pub(super) fn finish(self) -> Result<State, Error> {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        match inner.failed {
            Some(error) => Err(error),
            None => Ok(inner.state),
        }
    }

    /// Obeys or refuses the orders that have come. `walking`: whether the executor is on its way through the runbook, so
    /// that what lies behind it cannot be changed.
    pub(super) fn take_orders(&self, walking: bool) -> Result<(), Halt> {
        let orders = match self.env.controls.take() {
            Ok(orders) => orders,
            Err(error) => return self.tell_trouble(&format!("failed to read the run's orders: {error}")),
        };
        for order in orders {
            self.lock().take_order(&order, walking, self.env)?;
            if let Err(error) = self.env.controls.settled(&order) {
                self.tell_trouble(&format!("failed to put the order {} away: {error}", order.id))?;
            }
        }
        Ok(())
    }

    /// An operator who cannot be heard is no reason to stop a recovery.
    fn tell_trouble(&self, message: &str) -> Result<(), Halt> {
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_deref() != Some(message) {
            self.env.observer.trouble(message);
            *told = Some(message.to_owned());
        }
        Ok(())
    }

    /// Why a step should end at once: the run is aborted, or someone wants it, or what it belongs to, skipped or tried again.
    pub(super) fn stop_reason<'s>(&self, steps: impl IntoIterator<Item = &'s StepId>) -> Option<String> {
        let inner = self.lock();
        // In a rollback nothing is skipped or aborted any more.
        if inner.state.status() != RunStatus::Running {
            return None;
        }
        if let Some((by, reason)) = inner.state.aborted() {
            return Some(format!("the run was aborted by {by}: {reason}"));
        }
        steps.into_iter().find_map(|id| {
            let state = inner.state.step(id)?;
            match &state.skip_ordered {
                Some((by, reason)) => Some(format!("step {id} is skipped by {by}: {reason}")),
                None => state.retry_ordered.then(|| format!("step {id} is to be tried again")),
            }
        })
    }

    /// Registers a call that is under way until the guard is dropped.
    pub(super) fn call(&self, steps: Vec<StepId>, deadline: Option<Duration>) -> CallGuard<'_, 'a> {
        let cancel = Arc::new(AtomicBool::new(self.is_halted()));
        let number = self.calls_made.fetch_add(1, Ordering::Relaxed);
        let call = Call { cancel: Arc::clone(&cancel), deadline, steps };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).insert(number, call);
        CallGuard { recorder: self, number, cancel }
    }

    /// Cancels the calls that must end.
    pub(super) fn watch_calls(&self) {
        let halted = self.is_halted();
        let now = self.env.clock.now();
        for call in self.calls.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let late = call.deadline.is_some_and(|deadline| now >= deadline);
            if halted || late || self.stop_reason(&call.steps).is_some() {
                call.cancel.store(true, Ordering::Relaxed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of an action that is under way.
pub(super) struct CallGuard<'r, 'a> {
    recorder: &'r Recorder<'a>,
    number: u64,
    pub(super) cancel: Arc<AtomicBool>,
}

impl Drop for CallGuard<'_, '_> {
    fn drop(&mut self) {
        self.recorder.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Inner {
    fn now(&self, env: Environment<'_>) -> Duration {
        whole_millis(self.base + env.clock.now().saturating_sub(self.origin)).max(self.state.at())
    }

    fn record(&mut self, event: Event, env: Environment<'_>) -> Result<(), Halt> {
        let (steady, wall) = (env.clock.now(), env.clock.wall());
        let by = jump(self.last, (steady, wall));
        self.last = (steady, wall);
        // Before a process has taken up the run nothing but that can be written.
        if by.unsigned_abs() >= JUMP_MIN && !matches!(event, Event::IncarnationBegun(_)) {
            let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            self.write(Event::ClockJumped { by_ms }, env)?;
        }
        self.write(event, env)
    }

    fn write(&mut self, event: Event, env: Environment<'_>) -> Result<(), Halt> {
        if self.failed.is_some() {
            return Err(Halt);
        }
        let entry = Entry { seq: self.state.seq() + 1, wall: self.last.1, at: self.now(env), event };
        let applied = self.state.apply(&entry).map_err(Error::from);
        match applied.and_then(|()| Ok(self.journal.append(&entry)?)) {
            Ok(line) => {
                env.observer.recorded(&entry, &line, &self.state);
                Ok(())
            }
            Err(error) => {
                // The state has the event and the journal has not, so nobody may look at the state any more.
                self.failed = Some(error);
                Err(Halt)
            }
        }
    }

    fn take_order(&mut self, order: &Order, walking: bool, env: Environment<'_>) -> Result<(), Halt> {
        if self.failed.is_some() {
            return Err(Halt);
        }
        if self.state.has_order(&order.id) {
            return Ok(());
        }
        let late = walking && self.state.is_for_resuming(order);
        let why = self.state.refusal(order).or_else(|| {
            late.then(|| "the run is past it; when it has ended, resume it with this order".to_owned())
        });
        let order = order.clone();
        match why {
            Some(why) => self.record(Event::Refused { order, why }, env),
            None => self.record(Event::Ordered(order), env),
        }
    }
}

/// The run's time at which a process takes it up again. Within one boot the steady clock knows it; otherwise the wall clock is all
/// that there is, and what it says is taken if it is not absurd.
fn continued_at(state: &State, last: &Entry, env: Environment<'_>) -> Duration {
    let before = state.incarnations().last();
    let same_boot = before
        .filter(|before| !before.incarnation.boot.is_empty() && before.incarnation.boot == env.clock.boot());
    let continued = match same_boot {
        Some(before) => before.from + env.clock.now().saturating_sub(before.incarnation.since_boot),
        None => {
            let gap = env.clock.wall().duration_since(last.wall);
            last.at + Duration::try_from(gap).unwrap_or_default()
        }
    };
    continued.max(last.at)
}

/// By how much the wall clock went further than the steady one.
fn jump(before: (Duration, Timestamp), now: (Duration, Timestamp)) -> jiff::SignedDuration {
    let steady =
        jiff::SignedDuration::try_from(now.0.saturating_sub(before.0)).unwrap_or(jiff::SignedDuration::MAX);
    now.1.duration_since(before.1).saturating_sub(steady)
}

/// What the journal keeps of a duration; live and replayed states must be the same.
pub(super) fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
