//! The journals of runs.

use runbook::journal::parse;
use runbook::{Entry, State};

/// A journal's text: what is whole is read again as the same; what it says is replayed or refused.
pub fn journal(data: &[u8]) {
    let Ok(parsed) = parse(data) else { return };
    assert!(parsed.whole_bytes <= data.len() && parsed.torn == (parsed.whole_bytes < data.len()));
    let whole = parse(&data[..parsed.whole_bytes]).expect("what was whole is whole");
    assert!(!whole.torn && whole.entries == parsed.entries && whole.run == parsed.run);
    replay(&parsed.entries);
}

/// Entries without their checksums, which no drawn input would have: any story at all is replayed or refused.
pub fn run_events(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let entries: Result<Vec<Entry>, _> = lines.map(serde_json::from_slice).collect();
    if let Ok(entries) = entries {
        replay(&entries);
    }
}

/// A state that a story led to can be looked at from all sides.
fn replay(entries: &[Entry]) {
    let Ok(state) = State::replay(entries) else { return };
    let verdict = state.verdict();
    assert!(state.outcome().is_none_or(|outcome| outcome == verdict.outcome));
    let _ = (state.steps(state.at()), state.phases(state.at()), state.people_time(state.at()));
    let _ = (state.current(), state.upcoming(), state.waiting(), state.undo_list(), state.down_time());
}
