//! The form of an accepted copy: one line of ours, then the object's bytes as they were accepted.
//!
//! ```text
//! # accepted; age 812
//! apiVersion: tidegate.dev/v1alpha1
//! …
//! ```
//! The age is the revision at which the object came to be. `age new` stands where the copy is written in the very
//! transaction that creates the object: then it is the copy's own `create_revision`, which nobody knows beforehand.

use bytes::Bytes;

use crate::{model::Revision, store::KeyValue};

/// The accepted copy of `value`; `age` as [`decode`] gave it or as the object's `create_revision`, `None` for an object
/// that is created together with it.
pub fn encode(age: Option<Revision>, value: &[u8]) -> Bytes {
    let line = match age {
        Some(age) => format!("# accepted; age {age}\n"),
        None => "# accepted; age new\n".to_owned(),
    };
    let mut copy = line.into_bytes();
    copy.extend_from_slice(value);
    copy.into()
}

/// The age and the object's bytes.
///
/// # Errors
/// In words, when the first line is not ours.
pub fn decode(copy: &KeyValue) -> Result<(Revision, Bytes), String> {
    let end = copy.value.iter().position(|byte| *byte == b'\n').map_or(copy.value.len(), |at| at + 1);
    let line = copy.value.get(..end).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let age = match line.strip_prefix("# accepted; age ").map(str::trim_end) {
        Some("new") => Some(copy.create_revision),
        Some(age) => age.parse().ok().map(Revision),
        None => None,
    };
    let age = age.ok_or("an accepted copy begins with the line \"# accepted; age <revision>\"")?;
    Ok((age, copy.value.slice(end..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(value: Bytes) -> KeyValue {
        KeyValue { key: String::new(), value, create_revision: Revision(7), mod_revision: Revision(9) }
    }

    #[test]
    fn a_copy_gives_back_what_went_in() {
        let value = b"kind: Site\n# accepted; age 3\n";
        assert_eq!(decode(&stored(encode(Some(Revision(5)), value))), Ok((Revision(5), Bytes::from_static(value))));
        assert_eq!(decode(&stored(encode(None, b""))), Ok((Revision(7), Bytes::new())));
    }

    #[test]
    fn what_has_not_our_first_line_is_no_copy() {
        for bad in ["", "kind: Site\n", "# accepted; age\n", "# accepted; age x\nkind: Site", "\n# accepted; age 1\n"] {
            assert!(decode(&stored(bad.into())).is_err(), "{bad:?}");
        }
    }
}
