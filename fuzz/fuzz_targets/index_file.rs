//! libFuzzer's way in to `lifeboat_fuzz::index_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::index_file(data));
