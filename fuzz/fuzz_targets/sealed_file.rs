//! libFuzzer's way in to `lifeboat_fuzz::sealed_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::sealed_file(data));
