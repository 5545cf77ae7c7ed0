//! Several header changes, one after another, as the one removal list and one addition list that Envoy knows.

use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction};

use super::wire::header;
use crate::model::HeaderChange;

/// What a message's headers go through. Envoy removes first, then adds in order, whatever the order of the changes
/// was; so a removal takes back what was said of that header before, and a later `set` outdoes an earlier change.
#[derive(Default)]
pub(super) struct HeaderOps {
    remove: Vec<String>,
    write: Vec<(String, String, HeaderAppendAction)>,
}

impl HeaderOps {
    /// Appends a change: its `set`, then its `add`, then its `remove`.
    pub(super) fn apply(&mut self, change: &HeaderChange) {
        for (name, value) in &change.set {
            self.set(name, value);
        }
        for (name, value) in &change.add {
            self.write.push((name.clone(), value.clone(), HeaderAppendAction::AppendIfExistsOrAdd));
        }
        for name in &change.remove {
            self.write.retain(|(n, _, _)| n != name);
            if !self.remove.contains(name) {
                self.remove.push(name.clone());
            }
        }
    }

    /// Overwrites one header.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.write.retain(|(n, _, _)| n != name);
        self.write.push((name.to_owned(), value.to_owned(), HeaderAppendAction::OverwriteIfExistsOrAdd));
    }

    /// (to add, to remove).
    pub(super) fn finish(self) -> (Vec<HeaderValueOption>, Vec<String>) {
        let add = self.write.iter().map(|(name, value, action)| header(name, value, *action)).collect();
        (add, self.remove)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn shown(ops: HeaderOps) -> (Vec<(String, String, i32)>, Vec<String>) {
        let (add, remove) = ops.finish();
        let add = add
            .into_iter()
            .map(|o| {
                let h = o.header.unwrap();
                (h.key, h.value, o.append_action)
            })
            .collect();
        (add, remove)
    }

    #[test]
    fn a_later_removal_takes_back_an_earlier_set() {
        let mut ops = HeaderOps::default();
        ops.apply(&HeaderChange { set: pairs(&[("a", "1"), ("b", "2")]), ..Default::default() });
        ops.apply(&HeaderChange { remove: vec!["a".into()], ..Default::default() });
        assert_eq!(shown(ops), (vec![("b".into(), "2".into(), 2)], vec!["a".into()]));
    }

    #[test]
    fn a_later_set_outdoes_an_earlier_one_and_an_earlier_removal() {
        let mut ops = HeaderOps::default();
        ops.apply(&HeaderChange { set: pairs(&[("a", "1")]), remove: vec!["c".into()], ..Default::default() });
        ops.apply(&HeaderChange { set: pairs(&[("a", "2"), ("c", "3")]), ..Default::default() });
        let (add, _) = shown(ops);
        assert_eq!(add, vec![("a".into(), "2".into(), 2), ("c".into(), "3".into(), 2)]);
    }

    #[test]
    fn an_add_after_a_set_appends_to_it() {
        let mut ops = HeaderOps::default();
        ops.apply(&HeaderChange { set: pairs(&[("a", "1")]), ..Default::default() });
        ops.apply(&HeaderChange { add: pairs(&[("a", "2")]), ..Default::default() });
        assert_eq!(shown(ops).0, vec![("a".into(), "1".into(), 2), ("a".into(), "2".into(), 0)]);
    }

    #[test]
    fn a_percent_sign_is_not_a_command() {
        let mut ops = HeaderOps::default();
        ops.set("a", "100%REQ(:path)%");
        assert_eq!(shown(ops).0, vec![("a".into(), "100%%REQ(:path)%%".into(), 2)]);
    }
}
