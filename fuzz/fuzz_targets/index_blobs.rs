//! libFuzzer's way in to `lifeboat_fuzz::index_blobs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lifeboat_fuzz::index_blobs(data));
