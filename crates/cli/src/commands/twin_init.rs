//! `lifeboat twin-init`: what a twin's first process runs; started by Lifeboat itself and of no use to people.

use std::process::ExitCode;

/// Becomes the first process of a twin, if that is what this process was started for.
pub fn if_asked() -> Option<ExitCode> {
    let asked = std::env::args_os().nth(1).is_some_and(|word| word == crate::estate::TWIN_INIT);
    asked.then(place::twin_init)
}
