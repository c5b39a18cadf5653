//! Signals. SIGINT and SIGTERM: the first asks the work to stop at a safe point, the second ends the process.
//! SIGHUP: nothing at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Once};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::outcome::INTERRUPTED;

static CANCEL: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static ARM: Once = Once::new();

/// From now on SIGHUP does nothing.
///
/// `restic unlock` sends it to the holder of a lock to see whether that is alive; a backup that ended by it would
/// be the victim of a question. restic does the same for itself. To be called before any lock is taken.
pub fn ignore_hangup() {
    let unread = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, unread).expect("this signal may be handled");
}

/// From now on signals set the flag that is returned.
///
/// To be called when prompts are over and work begins: before that, a signal may simply end the process.
pub fn arm() -> &'static AtomicBool {
    ARM.call_once(|| {
        for signal in [SIGINT, SIGTERM] {
            let flag = || Arc::clone(&CANCEL);
            // In this order: the first signal finds the flag unset, and the second ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, i32::from(INTERRUPTED), flag())
                .and_then(|_| signal_hook::flag::register(signal, flag()))
                .expect("these signals may be handled");
        }
    });
    &CANCEL
}

/// Whether a signal has arrived.
pub fn requested() -> bool {
    CANCEL.load(Ordering::Relaxed)
}
