//! What was sent of one type before the stream asked for the type that must follow it.

use std::{collections::BTreeSet, sync::Arc};

/// Children whose parents were sent.
#[derive(Debug, Default)]
pub(super) enum Touched {
    #[default]
    None,
    These(BTreeSet<Arc<str>>),
    /// The parents were all that there are. Ten thousand streams do not keep a thousand names each to say that.
    All,
}

impl Touched {
    pub(super) fn add(&mut self, name: &Arc<str>, whole: bool) {
        match self {
            Self::All => {}
            _ if whole => *self = Self::All,
            Self::None => *self = Self::These([Arc::clone(name)].into()),
            Self::These(names) => drop(names.insert(Arc::clone(name))),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::These(names) => names.contains(name),
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Touched;

    #[test]
    fn names_are_kept_one_by_one_until_all_are_meant() {
        let mut touched = Touched::default();
        assert!(!touched.contains("a"));
        touched.add(&"a".into(), false);
        touched.add(&"b".into(), false);
        assert!(touched.contains("a") && touched.contains("b") && !touched.contains("c"));
        touched.add(&"c".into(), true);
        touched.add(&"d".into(), false);
        assert!(touched.contains("c") && touched.contains("x"));
    }
}
