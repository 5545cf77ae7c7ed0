//! libFuzzer's way into [`tidegate::serve::fuzz::sessions`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate::serve::fuzz::sessions(data));
