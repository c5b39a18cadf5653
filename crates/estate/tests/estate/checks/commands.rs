//! Checks by a command.

use std::time::{Duration, Instant};

use estate::check::{Command, Question, TextMatch};
use estate::secrets::Secrets;

use super::{ask, ask_and_cancel, ask_for, ask_with, check, fails, fatal, holds, refused, unknown};

fn shell(text: &str) -> Command {
    Command {
        command: place::Command::shell(text).named("the probe"),
        exit: vec![0],
        stdout: None,
        stderr: None,
    }
}

#[test]
fn exit_codes_and_outputs_are_compared() {
    holds(&ask(Question::Command(shell("true"))));
    fails(&ask(Question::Command(shell("echo because >&2; exit 3"))), "exit code 3: because");
    holds(&ask(Question::Command(Command { exit: vec![1, 3], ..shell("exit 3") })));
    let said = |text: &str| Some(TextMatch::Contains(text.into()));
    let outputs =
        |stdout, stderr| Command { exit: Vec::new(), stdout, stderr, ..shell("echo out; echo err >&2") };
    holds(&ask(Question::Command(outputs(said("out"), said("err")))));
    fails(&ask(Question::Command(outputs(said("err"), None))), "output: out");
    fails(&ask(Question::Command(outputs(None, said("out")))), "error output: err");
    // The right words with the wrong code do not count.
    let failing = Command { exit: Vec::new(), stdout: said("out"), ..shell("echo out; exit 1") };
    fails(&ask(Question::Command(failing)), "exit code 1");
    fails(&ask(Question::Command(shell("kill -9 $$"))), "signal 9");
}

#[test]
fn a_command_without_an_expectation_is_refused() {
    let nothing = Command { exit: Vec::new(), ..shell("true") };
    assert!(refused(Question::Command(nothing)).contains("expects nothing"));
}

#[test]
fn a_command_that_does_not_end_is_ended_and_not_judged() {
    let begun = Instant::now();
    // What it started must go, too, or the output would never end.
    let endless = Question::Command(shell("sleep 300 & sleep 300"));
    unknown(&ask_for(endless, Duration::from_millis(300)), "did not end in time");
    assert!(begun.elapsed() < Duration::from_secs(20));
    ask_and_cancel(Question::Command(shell("sleep 300")));
}

#[test]
fn a_program_that_is_not_there_is_final() {
    let missing = place::Command::new("no-such-program-of-lifeboat", [""; 0]);
    fatal(&ask(Question::Command(Command { command: missing, ..shell("") })), "no-such-program-of-lifeboat");
    let text = tempfile::NamedTempFile::new().unwrap();
    let text = place::Command::new(text.path(), [""; 0]).named("a text");
    fatal(&ask(Question::Command(Command { command: text, ..shell("") })), "cannot run a text");
}

#[test]
fn output_without_end_is_not_judged() {
    let mut flood = shell("head -c 3000000 /dev/zero | tr '\\0' x");
    flood.stdout = Some(TextMatch::Contains("y".into()));
    unknown(&ask(Question::Command(flood)), "is longer than");
}

#[test]
fn secrets_of_a_command_are_not_shown() {
    let secrets = Secrets::new(["hunter2".into()]);
    let mut command = shell("echo \"with $TOKEN\"; exit 1");
    command.command = command.command.env("TOKEN", "hunter2");
    let answer = ask_with(Question::Command(command.clone()), super::PATIENCE, &secrets);
    fails(&answer, "with ***");
    let check = check(Question::Command(command));
    let shown = format!("{answer:?} {check:?} {} {}", check.describe(), check.by_hand(&secrets));
    assert!(!shown.contains("hunter2"), "{shown}");
}
