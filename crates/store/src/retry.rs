//! The wrapper that repeats what failed for a passing reason, within a budget.
//!
//! It is the only place that retries: stores report the first failure. Only transient errors
//! ([`Error::is_transient`]) are repeated, with delays that double up to a limit and are drawn at random
//! from the upper half, so that many clients of one overloaded server do not come back together.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, SystemClock};
use crate::{Error, ErrorKind, Object, Result, Store};

/// How long one operation is repeated before its error is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How often it is tried, the first time included.
    pub attempts: u32,
    /// No further attempt begins when this much time has passed since the first.
    pub total: Duration,
    /// The longest first pause; each next may be twice as long.
    pub first_delay: Duration,
    /// The longest pause.
    pub longest_delay: Duration,
}

impl Budget {
    /// Outlasts the restart of a server and the renewal of a network lease; a dead store is reported
    /// within a quarter of an hour.
    pub const DEFAULT: Self = Self {
        attempts: 20,
        total: Duration::from_secs(15 * 60),
        first_delay: Duration::from_millis(500),
        longest_delay: Duration::from_secs(60),
    };

    /// The pause after attempt number `attempt` (from 1); `random` decides where in the upper half it falls.
    fn delay(&self, attempt: u32, random: u64) -> Duration {
        let factor = 1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
        let longest = self.first_delay.saturating_mul(factor).min(self.longest_delay);
        let half = longest / 2;
        let nanoseconds = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(random.checked_rem(nanoseconds).unwrap_or(0))
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Is told of every failure that will be tried again, and of the pause before that.
pub type Observer = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// Repeats the operations of `S`.
pub struct Retry<S> {
    inner: S,
    budget: Budget,
    clock: Arc<dyn Clock>,
    observer: Option<Observer>,
    random: AtomicU64,
}

impl<S: Store> Retry<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, budget: Budget) -> Self {
        // Without randomness all pauses are alike, which is no reason to fail.
        let seed = getrandom::u64().unwrap_or(0);
        let clock = Arc::new(SystemClock::new());
        Self { inner, budget, clock, observer: None, random: AtomicU64::new(seed) }
    }

    /// Sleeps by `clock`, and draws pauses from `seed`.
    pub fn with_clock(self, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self { clock, random: AtomicU64::new(seed), ..self }
    }

    /// Tells `observer` of every failure that will be tried again.
    pub fn observed_by(self, observer: Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Runs `operation` until it succeeds, fails for good or the budget is spent.
    fn run<T>(&self, mut operation: impl FnMut() -> Result<T>) -> Result<T> {
        let start = self.clock.now();
        let mut attempt = 1;
        loop {
            let error = match operation() {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            let elapsed = self.clock.now().saturating_sub(start);
            let delay = self.budget.delay(attempt, self.next_random());
            if attempt >= self.budget.attempts || elapsed + delay > self.budget.total {
                return Err(give_up(error, attempt, elapsed));
            }
            if let Some(observer) = &self.observer {
                observer(&error, delay);
            }
            self.clock.sleep(delay);
            attempt += 1;
        }
    }

    fn next_random(&self) -> u64 {
        split_mix(self.random.fetch_add(SPLIT_MIX_STEP, Ordering::Relaxed))
    }
}

impl<S: Store> Store for Retry<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        self.run(|| self.inner.put(key, data.clone()))
    }

    /// As [`Store::create`]; and when an attempt failed in passing and a later one finds the object there
    /// with exactly our bytes, then the failed attempt had arrived and only its answer was lost: success.
    ///
    /// So of several creators of *the same bytes* more than one may be told that it succeeded.
    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        let mut unsure = false;
        self.run(|| match self.inner.create(key, data.clone()) {
            Err(error) if unsure && error.kind == ErrorKind::AlreadyExists => {
                match self.inner.get(key) {
                    Ok(found) if found == data => Ok(()),
                    // Someone else's, even if it is gone again by now.
                    Ok(_) | Err(Error { kind: ErrorKind::NotFound, .. }) => Err(error),
                    Err(unreadable) => Err(unreadable),
                }
            }
            Err(error) => {
                unsure |= error.is_transient();
                Err(error)
            }
            Ok(()) => Ok(()),
        })
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.run(|| self.inner.get(key))
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        self.run(|| self.inner.get_range(key, range.clone(), buffer))
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.run(|| self.inner.size(key))
    }

    /// As [`Store::list`]; holds the whole listing (about 150 bytes an object) until it is complete, since a
    /// repeated listing would show objects twice.
    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let objects = self.run(|| {
            let mut objects = Vec::new();
            self.inner.list(prefix, &mut |object| {
                objects.push(object);
                Ok(())
            })?;
            Ok(objects)
        })?;
        objects.into_iter().try_for_each(found)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.run(|| self.inner.delete(key))
    }

    fn parallelism(&self) -> usize {
        self.inner.parallelism()
    }
}

impl<S: fmt::Debug> fmt::Debug for Retry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// Adds to an error how much was tried.
fn give_up(error: Error, attempts: u32, elapsed: Duration) -> Error {
    if attempts == 1 {
        return error;
    }
    Error { reason: Box::new(GaveUp { last: error.reason, attempts, elapsed }), ..error }
}

#[derive(Debug)]
struct GaveUp {
    last: Box<dyn std::error::Error + Send + Sync>,
    attempts: u32,
    elapsed: Duration,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (tried {} times in {:.1} s)", self.last, self.attempts, self.elapsed.as_secs_f64())
    }
}

impl std::error::Error for GaveUp {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.last.source()
    }
}

/// The step of the SplitMix64 generator (Steele, Lea, Flood 2014), the odd number nearest to 2^64 / golden
/// ratio.
pub(crate) const SPLIT_MIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64: spreads a counter evenly over all 64-bit numbers.
pub(crate) fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(SPLIT_MIX_STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
