//! libFuzzer's way in to `lifeboat_fuzz::log_segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::log_segment(data));
