//! libFuzzer's way in to `lifeboat_fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::journal(data));
