//! libFuzzer's way in to `lifeboat_fuzz::small_files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::small_files(data));
