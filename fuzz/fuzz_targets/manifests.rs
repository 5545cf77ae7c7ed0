//! libFuzzer's way into [`tidegate::manifest::fuzz::manifests`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate::manifest::fuzz::manifests(data));
