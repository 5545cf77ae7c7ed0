//! What fuzzing calls: any text as manifests. A violated rule is a panic. Built for tests and by `cargo fuzz` only; see
//! `fuzz/README.md`.

use super::{Mode, parse, parse_endpoint, to_yaml};

/// `data` as a file of manifests and as a live endpoint: it is read or refused with places that exist, and what is read is
/// the same when it is written and read again.
pub fn manifests(data: &[u8]) {
    drop(parse_endpoint(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    // YAML breaks lines at carriage returns too.
    let lines = u32::try_from(text.matches(['\n', '\r']).count() + 1).unwrap_or(u32::MAX);
    let tolerant = parse("fuzz", text, Mode::Tolerant);
    let strict = parse("fuzz", text, Mode::Strict);
    assert!(strict.faults.len() >= tolerant.faults.len(), "what is tolerated is a subset");
    for fault in strict.faults.iter().chain(&strict.warnings) {
        assert!(fault.line >= 1 && fault.column >= 1 && fault.line <= lines + 1, "{fault}");
        assert!(!fault.message.is_empty(), "{fault:?}");
    }
    for located in &strict.objects {
        let yaml = to_yaml(&located.json);
        let again = parse("again", &yaml, Mode::Strict);
        assert!(again.faults.is_empty(), "{:?}\n{yaml}", again.faults);
        let object = again.objects.first().map(|located| &located.object);
        assert_eq!(object, Some(&located.object), "\n{yaml}");
    }
}
