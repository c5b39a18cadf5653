//! libFuzzer's way in to `lifeboat_fuzz::plan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::plan(data));
