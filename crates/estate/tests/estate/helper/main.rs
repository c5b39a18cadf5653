//! The first process of the twins that tests make; it does nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    place::twin_init()
}
