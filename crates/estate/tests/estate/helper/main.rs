//! The processes that the product starts itself again for, in tests: the first process of a twin, and with the argument
//! `sqlite-proof` the one that looks at a restored database.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "sqlite-proof") {
        return match estate::component::sqlite::answer_aside(std::io::stdin(), std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    place::twin_init()
}
