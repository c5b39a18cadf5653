//! libFuzzer's way in to `lifeboat_fuzz::sidecar`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::sidecar(data));
