//! The wrapper that keeps the traffic of a store below a bandwidth.
//!
//! The limit holds over time, not within one object: an upload waits until the line has paid for what went
//! before, then travels at full speed; a download travels first and is waited for afterwards. With objects of
//! 16 MiB and a limit of 1 MiB/s that means a burst every 16 s.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, SystemClock};
use crate::{Object, Result, Store};

/// How much may pass in one burst after a pause, as time at the full rate.
const BURST: Duration = Duration::from_secs(1);

/// Bytes per second; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Towards the store.
    pub upload: Option<NonZeroU64>,
    /// From the store.
    pub download: Option<NonZeroU64>,
}

/// Keeps the traffic of `S` below a bandwidth that all its users share.
#[derive(Debug)]
pub struct Limit<S> {
    inner: S,
    clock: Arc<dyn Clock>,
    upload: Option<Bucket>,
    download: Option<Bucket>,
}

impl<S: Store> Limit<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, bandwidth: Bandwidth) -> Self {
        Self::with_clock(inner, bandwidth, Arc::new(SystemClock::new()))
    }

    /// Wraps `inner` and waits by `clock`.
    pub fn with_clock(inner: S, bandwidth: Bandwidth, clock: Arc<dyn Clock>) -> Self {
        let bucket = |rate: Option<NonZeroU64>| rate.map(|rate| Bucket::new(rate, clock.now()));
        let (upload, download) = (bucket(bandwidth.upload), bucket(bandwidth.download));
        Self { inner, clock, upload, download }
    }

    fn before_upload(&self, bytes: usize) {
        if let Some(bucket) = &self.upload {
            let (start, _) = bucket.book(self.clock.now(), bytes as u64);
            self.sleep_until(start);
        }
    }

    fn after_download(&self, bytes: usize) {
        if let Some(bucket) = &self.download {
            let (_, end) = bucket.book(self.clock.now(), bytes as u64);
            self.sleep_until(end);
        }
    }

    fn sleep_until(&self, moment: Duration) {
        let wait = moment.saturating_sub(self.clock.now());
        if !wait.is_zero() {
            self.clock.sleep(wait);
        }
    }
}

impl<S: Store> Store for Limit<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn put(&self, key: &str, data: Bytes) -> Result<()> {
        self.before_upload(data.len());
        self.inner.put(key, data)
    }

    fn create(&self, key: &str, data: Bytes) -> Result<()> {
        self.before_upload(data.len());
        self.inner.create(key, data)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let data = self.inner.get(key)?;
        self.after_download(data.len());
        Ok(data)
    }

    fn get_range(&self, key: &str, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
        self.inner.get_range(key, range, buffer)?;
        self.after_download(buffer.len());
        Ok(())
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.inner.size(key)
    }

    fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, found)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key)
    }

    fn parallelism(&self) -> usize {
        self.inner.parallelism()
    }
}

/// A token bucket, kept as the moment at which all that was booked will have passed.
#[derive(Debug)]
struct Bucket {
    rate: NonZeroU64,
    free_at: Mutex<Duration>,
}

impl Bucket {
    fn new(rate: NonZeroU64, now: Duration) -> Self {
        Self { rate, free_at: Mutex::new(now) }
    }

    /// Books `bytes` and returns when they may start, and when they will have passed at the full rate.
    ///
    /// Unused time counts up to [`BURST`].
    fn book(&self, now: Duration, bytes: u64) -> (Duration, Duration) {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*free_at).max(now.saturating_sub(BURST));
        *free_at = start.saturating_add(time);
        (start, *free_at)
    }
}
