//! libFuzzer's way in to `lifeboat_fuzz::run_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::run_events(data));
