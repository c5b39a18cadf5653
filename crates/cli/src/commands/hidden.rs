//! What Lifeboat starts itself again for, and is of no use to people: `lifeboat twin-init`, the first process of a twin,
//! and `lifeboat sqlite-proof`, which looks at a restored database.

use std::process::ExitCode;

use crate::estate::{SQLITE_PROOF, TWIN_INIT};

/// Becomes what this process was started for, if it is one of these.
pub fn if_asked() -> Option<ExitCode> {
    let asked = std::env::args_os().nth(1)?;
    if asked == TWIN_INIT {
        Some(place::twin_init())
    } else if asked == SQLITE_PROOF {
        Some(prove())
    } else {
        None
    }
}

/// Whoever asked gets no answer when it cannot be given, and looks himself.
fn prove() -> ExitCode {
    match ::estate::component::sqlite::answer_aside(std::io::stdin(), std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
