//! The wrapper that misbehaves on order, for tests here and in every crate above.
//!
//! [`Fault`] passes everything through until it is told otherwise, and keeps a log of what was asked:
//!
//! - [`inject`](Fault::inject): the nth operation that matches a filter fails, loses its acknowledgement, is
//!   slow, or reads flipped bits or a cut object;
//! - [`fill_after`](Fault::fill_after), [`stale_listing`](Fault::stale_listing): a full disk, a listing that
//!   lags;
//! - [`freeze_before`](Fault::freeze_before), [`freeze_after`](Fault::freeze_after): the process dies at its
//!   nth durable operation. Run once and count [`durable_log`](Fault::durable_log), then run again for every
//!   n, and look at what the inner store holds: those are the crash points;
//! - [`fail_at_random`](Fault::fail_at_random): any operation fails with a given chance. Every message
//!   names the seed.
//!
//! Everything but the random failures depends only on the order of the calls; with one thread it is
//! deterministic.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, SystemClock};
use crate::retry::{SPLIT_MIX_STEP, split_mix};
use crate::{Error, ErrorKind, Object, Result, Store, key};

/// The operations of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Store::put`]
    Put,
    /// [`Store::create`]
    Create,
    /// [`Store::get`]
    Get,
    /// [`Store::get_range`]
    GetRange,
    /// [`Store::size`]
    Size,
    /// [`Store::list`]
    List,
    /// [`Store::delete`]
    Delete,
}

impl Operation {
    /// Whether it changes what the store holds.
    pub fn is_durable(self) -> bool {
        matches!(self, Self::Put | Self::Create | Self::Delete)
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Put | Self::Create => "write",
            Self::Get | Self::GetRange | Self::Size => "read",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// One call as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// Of which object, or below which prefix.
    pub key: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.operation, self.key)
    }
}

/// Which calls a fault concerns.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    operations: Vec<Operation>,
    key: Option<String>,
    nth: Nth,
}

#[derive(Debug, Clone, Copy, Default)]
enum Nth {
    #[default]
    Every,
    Only(u64),
    From(u64),
    First(u64),
}

impl Filter {
    /// Matches every call.
    pub fn any() -> Self {
        Self::default()
    }

    /// Matches calls of these operations.
    pub fn of(operations: &[Operation]) -> Self {
        Self { operations: operations.to_vec(), ..Self::default() }
    }

    /// And only those on the object `key`, or on what lies below it.
    pub fn at(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    /// And of these only the `n`th, counted from 1.
    pub fn only(self, n: u64) -> Self {
        Self { nth: Nth::Only(n), ..self }
    }

    /// And of these only the `n`th and all later ones.
    pub fn from(self, n: u64) -> Self {
        Self { nth: Nth::From(n), ..self }
    }

    /// And of these only the first `n`.
    pub fn first(self, n: u64) -> Self {
        Self { nth: Nth::First(n), ..self }
    }

    fn matches(&self, call: &Call) -> bool {
        let operation = self.operations.is_empty() || self.operations.contains(&call.operation);
        operation && self.key.as_ref().is_none_or(|key| call.key == *key || key::is_below(&call.key, key))
    }
}

impl Nth {
    fn includes(self, count: u64) -> bool {
        match self {
            Self::Every => true,
            Self::Only(n) => count == n,
            Self::From(n) => count >= n,
            Self::First(n) => count <= n,
        }
    }
}

/// What happens to a call that a [`Filter`] matches.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    /// It fails with this kind of error and has no other effect.
    Fail(ErrorKind),
    /// It is carried out and reported as `Unavailable`.
    LoseAcknowledgement,
    /// A read shows one bit changed: `bit` (0 to 7) of the object's byte `at`, if the read covers that.
    FlipBit {
        /// The position in the object.
        at: u64,
        /// The bit of that byte.
        bit: u8,
    },
    /// A read or size finds the object cut to this many bytes.
    Truncate(u64),
    /// It takes this much longer.
    Delay(Duration),
}

/// Misbehaves on order.
#[derive(Debug)]
pub struct Fault<S> {
    inner: S,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<Call>,
    durable: u64,
    rules: Vec<Rule>,
    freeze: Option<Freeze>,
    frozen: bool,
    room: Option<u64>,
    listing_lag: usize,
    recent: VecDeque<String>,
    random: Option<Random>,
}

#[derive(Debug)]
struct Rule {
    filter: Filter,
    effect: Effect,
    matched: u64,
}

#[derive(Debug, Clone, Copy)]
enum Freeze {
    Before(u64),
    After(u64),
}

#[derive(Debug)]
struct Random {
    seed: u64,
    percent: u8,
    state: u64,
}

/// What is to happen to one call.
#[derive(Debug, Default)]
struct Verdict {
    effects: Vec<Effect>,
    lose_acknowledgement: Option<String>,
}

impl<S: Store> Fault<S> {
    /// Wraps `inner`; until told otherwise nothing goes wrong.
    pub fn new(inner: S) -> Self {
        Self { inner, clock: Arc::new(SystemClock::new()), state: Mutex::default() }
    }

    /// Sleeps by `clock` when it has to be slow.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// The store below, on which nothing goes wrong.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Lets `effect` happen to the calls from now on that `filter` matches.
    pub fn inject(&self, filter: Filter, effect: Effect) {
        self.state().rules.push(Rule { filter, effect, matched: 0 });
    }

    /// Lets the store be full once `bytes` more have been written.
    pub fn fill_after(&self, bytes: u64) {
        self.state().room = Some(bytes);
    }

    /// Lets listings omit what the last `writes` writes have written.
    pub fn stale_listing(&self, writes: usize) {
        let mut state = self.state();
        state.listing_lag = writes;
        state.trim_recent();
    }

    /// Freezes the store before the `n`th durable operation from its beginning (counted from 1): that and
    /// every later call fails and has no effect.
    pub fn freeze_before(&self, n: u64) {
        self.state().freeze = Some(Freeze::Before(n));
    }

    /// Freezes the store after the `n`th durable operation: that one is carried out, but it and every later
    /// call fails.
    pub fn freeze_after(&self, n: u64) {
        self.state().freeze = Some(Freeze::After(n));
    }

    /// Lets every call fail from now on, until [`heal`](Self::heal): the store that goes away.
    pub fn freeze(&self) {
        self.state().frozen = true;
    }

    /// Lets each call fail with a chance of `percent`, half of the durable ones after having been carried
    /// out.
    pub fn fail_at_random(&self, seed: u64, percent: u8) {
        self.state().random = Some(Random { seed, percent, state: seed });
    }

    /// Forgets every fault; the log stays.
    pub fn heal(&self) {
        let mut state = self.state();
        *state = State {
            log: std::mem::take(&mut state.log),
            durable: state.durable,
            recent: std::mem::take(&mut state.recent),
            ..State::default()
        };
    }

    /// Whether a freeze has begun.
    pub fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    /// Every call so far, failed ones included.
    pub fn log(&self) -> Vec<Call> {
        self.state().log.clone()
    }

    /// Every call so far that was to change something, in the order in which `freeze_before` counts.
    pub fn durable_log(&self) -> Vec<Call> {
        self.state().log.iter().filter(|call| call.operation.is_durable()).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the call and decides its fate; an error means that it must not reach the inner store.
    fn enter(&self, operation: Operation, key: &str, size: u64) -> Result<Verdict> {
        let call = Call { operation, key: key.to_owned() };
        let verdict = self.state().judge(&call, size);
        let verdict = verdict.map_err(|(kind, reason)| self.error(&call, kind, reason))?;
        for effect in &verdict.effects {
            if let Effect::Delay(time) = effect {
                self.clock.sleep(*time);
            }
        }
        Ok(verdict)
    }

    /// Reports a loss for what was carried out, if that was the verdict.
    fn leave<T>(&self, operation: Operation, key: &str, verdict: &Verdict, done: T) -> Result<T> {
        match &verdict.lose_acknowledgement {
            None => Ok(done),
            Some(reason) => {
                let call = Call { operation, key: key.to_owned() };
                Err(self.error(&call, ErrorKind::Unavailable, reason.clone()))
            }
        }
    }

    fn change(
        &self,
        operation: Operation,
        key: &str,
        size: u64,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let verdict = self.enter(operation, key, size)?;
        change()?;
        if operation != Operation::Delete {
            self.state().remember(key);
        }
        self.leave(operation, key, &verdict, ())
    }

    fn error(&self, call: &Call, kind: ErrorKind, reason: String) -> Error {
        Error::new(kind, call.operation.verb(), &call.key, self.location(), reason)
    }
}

impl State {
    fn judge(&mut self, call: &Call, size: u64) -> std::result::Result<Verdict, (ErrorKind, String)> {
        self.log.push(call.clone());
        let frozen = || (ErrorKind::Unavailable, "the store is frozen (injected)".to_owned());
        if call.operation.is_durable() {
            self.durable += 1;
            self.frozen |= matches!(self.freeze, Some(Freeze::Before(n)) if self.durable >= n);
        }
        if self.frozen {
            return Err(frozen());
        }
        let mut verdict = Verdict::default();
        self.apply_rules(call, &mut verdict)?;
        self.roll_dice(call, &mut verdict)?;
        if matches!(call.operation, Operation::Put | Operation::Create) {
            self.take_room(size)?;
        }
        if call.operation.is_durable() && matches!(self.freeze, Some(Freeze::After(n)) if self.durable >= n) {
            self.frozen = true;
            verdict.lose_acknowledgement = Some(frozen().1);
        }
        Ok(verdict)
    }

    fn apply_rules(
        &mut self,
        call: &Call,
        verdict: &mut Verdict,
    ) -> std::result::Result<(), (ErrorKind, String)> {
        let mut failure = None;
        // Every rule counts every call that it matches, also one that fails for another rule.
        for rule in self.rules.iter_mut().filter(|rule| rule.filter.matches(call)) {
            rule.matched += 1;
            if !rule.filter.nth.includes(rule.matched) {
                continue;
            }
            match rule.effect {
                Effect::Fail(kind) => failure = Some(kind),
                Effect::LoseAcknowledgement => {
                    verdict.lose_acknowledgement = Some("the answer was lost (injected)".to_owned());
                }
                effect => verdict.effects.push(effect),
            }
        }
        match failure {
            Some(kind) => Err((kind, format!("it was told to fail as {kind:?} (injected)"))),
            None => Ok(()),
        }
    }

    fn roll_dice(
        &mut self,
        call: &Call,
        verdict: &mut Verdict,
    ) -> std::result::Result<(), (ErrorKind, String)> {
        let number = self.log.len();
        let Some(random) = &mut self.random else { return Ok(()) };
        random.state = random.state.wrapping_add(SPLIT_MIX_STEP);
        let dice = split_mix(random.state);
        if dice % 100 >= u64::from(random.percent) {
            return Ok(());
        }
        let reason = format!("bad luck at call {number} (injected, seed {})", random.seed);
        if call.operation.is_durable() && (dice >> 32) & 1 == 1 {
            verdict.lose_acknowledgement = Some(reason);
            return Ok(());
        }
        Err((ErrorKind::Unavailable, reason))
    }

    fn take_room(&mut self, size: u64) -> std::result::Result<(), (ErrorKind, String)> {
        let Some(room) = &mut self.room else { return Ok(()) };
        match room.checked_sub(size) {
            Some(rest) => {
                *room = rest;
                Ok(())
            }
            None => Err((ErrorKind::Full, format!("{size} bytes to write, room for {room} left (injected)"))),
        }
    }

    fn remember(&mut self, key: &str) {
        self.recent.push_back(key.to_owned());
        self.trim_recent();
    }

    /// Keeps no more writes than a listing can lag, and some, should the lag be set later.
    fn trim_recent(&mut self) {
        const KEPT: usize = 1000;
        while self.recent.len() > self.listing_lag.max(KEPT) {
            self.recent.pop_front();
        }
    }
}

impl Verdict {
    /// The size at which a read sees the object end, if that differs.
    fn cut(&self) -> Option<u64> {
        let cuts = self.effects.iter().filter_map(|effect| match effect {
            Effect::Truncate(size) => Some(*size),
            _ => None,
        });
        cuts.min()
    }

    /// Flips the bits that are to be flipped in what was read from `start` on.
    fn flip(&self, start: u64, data: &mut [u8]) {
        for effect in &self.effects {
            if let Effect::FlipBit { at, bit } = *effect
                && let Some(offset) = at.checked_sub(start).and_then(|o| usize::try_from(o).ok())
                && let Some(byte) = data.get_mut(offset)
            {
                *byte ^= 1 << (bit & 7);
            }
        }
    }
}

impl<S: Store> Store for Fault<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        self.change(Operation::Put, key, data.len() as u64, || self.inner.put(key, data))
    }

    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        self.change(Operation::Create, key, data.len() as u64, || self.inner.create(key, data))
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let verdict = self.enter(Operation::Get, key, 0)?;
        let mut data = self.inner.get(key)?;
        if let Some(cut) = verdict.cut() {
            data.truncate(usize::try_from(cut).unwrap_or(usize::MAX));
        }
        verdict.flip(0, &mut data);
        self.leave(Operation::Get, key, &verdict, data)
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        let verdict = self.enter(Operation::GetRange, key, 0)?;
        if let Some(cut) = verdict.cut()
            && !range.is_empty()
            && range.end > cut
        {
            let call = Call { operation: Operation::GetRange, key: key.to_owned() };
            let reason = format!("bytes {} to {} wanted, cut to {cut} (injected)", range.start, range.end);
            return Err(self.error(&call, ErrorKind::Truncated, reason));
        }
        self.inner.get_range(key, range.clone(), buffer)?;
        verdict.flip(range.start, buffer);
        self.leave(Operation::GetRange, key, &verdict, ())
    }

    fn size(&self, key: &str) -> Result<u64> {
        let verdict = self.enter(Operation::Size, key, 0)?;
        let size = self.inner.size(key)?;
        self.leave(Operation::Size, key, &verdict, verdict.cut().map_or(size, |cut| size.min(cut)))
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let verdict = self.enter(Operation::List, prefix, 0)?;
        let hidden: Vec<String> = {
            let state = self.state();
            state.recent.iter().rev().take(state.listing_lag).cloned().collect()
        };
        self.inner.list(prefix, &mut |object| {
            if hidden.contains(&object.key) { Ok(()) } else { found(object) }
        })?;
        self.leave(Operation::List, prefix, &verdict, ())
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.change(Operation::Delete, key, 0, || self.inner.delete(key))
    }

    fn parallelism(&self) -> usize {
        self.inner.parallelism()
    }
}
