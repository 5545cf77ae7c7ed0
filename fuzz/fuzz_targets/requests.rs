//! libFuzzer's way into [`tidegate::serve::fuzz::requests`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate::serve::fuzz::requests(data));
