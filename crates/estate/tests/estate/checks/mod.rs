//! Checks asked of real things: what holds, what fails, what is not known, and what waiting cannot mend.

mod commands;
mod databases;
mod files;
mod http;
mod network;
mod serving;
mod tls;

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use estate::check::{Answer, AskContext, Check, Question};
use estate::secrets::Secrets;
use place::Place;

/// Long enough for anything that happens on one machine, however busy it is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks on this host.
fn ask(question: Question) -> Answer {
    ask_for(question, PATIENCE)
}

/// Asks on this host, for so long.
fn ask_for(question: Question, timeout: Duration) -> Answer {
    ask_with(question, timeout, &Secrets::default())
}

/// Asks on this host, with secrets that must not be seen.
fn ask_with(question: Question, timeout: Duration, secrets: &Secrets) -> Answer {
    let cancel = AtomicBool::new(false);
    let context = AskContext { timeout, cancel: &cancel, secrets, served_by: None };
    check(question).ask(&Place::host(), &context)
}

/// Asks, sets the flag after a moment, and makes sure that the answer then comes soon and says nothing.
fn ask_and_cancel(question: Question) {
    let (cancel, secrets) = (AtomicBool::new(false), Secrets::default());
    let context = AskContext { timeout: PATIENCE, cancel: &cancel, secrets: &secrets, served_by: None };
    let check = check(question);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let begun = Instant::now();
        let answer = check.ask(&Place::host(), &context);
        assert!(matches!(answer, Answer::Unknown { .. }), "{answer:?}");
        assert!(begun.elapsed() < PATIENCE / 2, "the flag was not looked at");
    });
}

fn check(question: Question) -> Check {
    Check::new(question).expect("the question can be asked")
}

/// Why a question is refused.
fn refused(question: Question) -> String {
    Check::new(question).expect_err("the question is refused").to_string()
}

#[track_caller]
fn holds(answer: &Answer) {
    assert!(answer.holds(), "{answer:?}");
}

/// Makes sure that the check failed and that it says so with these words.
#[track_caller]
fn fails(answer: &Answer, words: &str) {
    let Answer::Fails { why, expected, found } = answer else { panic!("did not fail: {answer:?}") };
    let text = format!("{why}; expected {expected}; found {found}");
    assert!(text.contains(words), "{text}");
}

/// Makes sure that nothing is known and that it says why with these words.
#[track_caller]
fn unknown(answer: &Answer, words: &str) {
    let Answer::Unknown { why } = answer else { panic!("is not unknown: {answer:?}") };
    assert!(why.contains(words), "{why}");
}

/// Makes sure that waiting cannot mend it and that it says why with these words.
#[track_caller]
fn fatal(answer: &Answer, words: &str) {
    let Answer::Fatal { why } = answer else { panic!("is not fatal: {answer:?}") };
    assert!(why.contains(words), "{why}");
}
