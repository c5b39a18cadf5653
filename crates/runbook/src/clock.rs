//! Time as the engine sees it: a clock that only goes forward, by which everything is measured; the wall clock,
//! which is only written down; and sleeping. Injected, so that tests need not wait.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// Tells the time and sleeps.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time since the machine was booted, suspension included; never goes back. Comparable between
    /// processes of the same [`boot`](Clock::boot).
    fn now(&self) -> Duration;

    /// What the wall clock says; may jump.
    fn wall(&self) -> Timestamp;

    /// Names the boot of the machine to which [`now`](Clock::now) belongs; empty if unknown.
    fn boot(&self) -> String;

    /// Blocks the calling thread.
    fn sleep(&self, time: Duration);
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boot(&self) -> String {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
