//! A response was refused: who is to blame, what is tried again, and what may have been taken all the same.

use std::{collections::BTreeSet, sync::Arc};

use super::{Edges, Exception, Kind};
use crate::{
    feedback,
    serve::fanout::Frame,
    snapshot::{Content, Seq},
    xds::Removal,
};

/// Bytes of a proxy's error text that are kept.
const MAX_ERROR: usize = 1024;

impl Kind {
    /// Finds the culprits: names in the error text alone, the rest together; halves where none is named; a single name
    /// is parked.
    pub(super) fn refuse(&mut self, frame: &Frame, error: &str, content: &Content) {
        self.doubt(frame, content);
        let mut suspects = Vec::new();
        for resource in &frame.resources {
            let name = &resource.name;
            self.beats.forget(name);
            let ours = match self.exceptions.get(name) {
                Some(Exception::Flying { nonce, .. }) => *nonce == frame.nonce,
                Some(_) => false,
                // A later response carries newer content; that is judged by its own answer.
                None => !self
                    .in_flight
                    .iter()
                    .any(|f| f.frame.nonce > frame.nonce && f.frame.resources.iter().any(|r| r.name == *name)),
            };
            if ours && self.subscription.contains(name) {
                let created = content.get(self.kind, name).map_or(Seq(0), |e| e.created);
                let new = self.is_new(name, created);
                self.taken.entry(Arc::clone(name)).or_insert(self.acked);
                suspects.push((Arc::clone(name), resource.version, new));
            }
        }
        if !frame.resources.is_empty() && self.kind.removal() != Removal::Never {
            // What else stood in a refused response is uncertain; removing twice does no harm.
            for name in frame.removed.iter().filter(|n| content.get(self.kind, n).is_none()) {
                let edges = Edges::default();
                let again = Exception::Gone { new: false, seq: Seq(0), drain: None, now: true, edges };
                self.exceptions.entry(Arc::clone(name)).or_insert(again);
            }
        }
        // Alone in its response: it is the culprit. A last suspect whose company is not wanted any more may not be.
        if let ([(name, version, new)], [_]) = (suspects.as_slice(), frame.resources.as_slice()) {
            let mut end = error.len().min(MAX_ERROR);
            while !error.is_char_boundary(end) {
                end -= 1;
            }
            let refused = content.get(self.kind, name).filter(|e| e.resource.version == *version);
            let at = refused.map_or(content.seq(), |e| e.content);
            let since = *self.refused_since.entry(Arc::clone(name)).or_insert(at);
            let error = error.get(..end).unwrap_or_default().into();
            let parked = feedback::Parked { version: *version, error, since };
            self.doubts |= self.doubted.remove(name);
            self.exceptions.insert(Arc::clone(name), Exception::Parked { new: *new, parked });
            return;
        }
        let named: BTreeSet<Arc<str>> =
            suspects.iter().filter(|(n, ..)| mentions(error, n)).map(|(n, ..)| Arc::clone(n)).collect();
        let half = suspects.len().div_ceil(2);
        let (rest, second) = (self.next_group(), self.next_group());
        for (index, (name, _, new)) in suspects.into_iter().enumerate() {
            let group = if named.contains(&name) {
                self.next_group()
            } else if named.is_empty() && index >= half {
                second
            } else {
                rest
            };
            self.exceptions.insert(name, Exception::Wanted { new, group: Some(group) });
        }
    }

    fn next_group(&mut self) -> u32 {
        self.groups = self.groups.wrapping_add(1);
        self.groups
    }

    /// What is good in a refused response may be live although the proxy will not report it (O9, O10).
    fn doubt(&mut self, frame: &Frame, content: &Content) {
        if !self.kind.wildcard() || frame.resources.len() < 2 {
            return;
        }
        for resource in &frame.resources {
            let name = &resource.name;
            let new = match content.get(self.kind, name) {
                Some(entry) => self.is_new(name, entry.created),
                None => self.exceptions.get(name).is_none_or(Exception::is_new),
            };
            self.doubts |= new && self.doubted.insert(Arc::clone(name));
        }
    }

    /// What the proxy may have without saying so, if that changed since the last call.
    pub(in crate::serve::session) fn take_doubted(&mut self) -> Option<BTreeSet<Arc<str>>> {
        std::mem::take(&mut self.doubts).then(|| self.doubted.clone())
    }
}

/// Whether `text` has `name` in it as a word of its own.
pub(in crate::serve) fn mentions(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "-_/.:*+@".contains(c);
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let rest = text.get(at + name.len()..).unwrap_or_default();
        // "cluster a: no such…" and "cluster a." end a word too.
        let rest = rest.trim_start_matches(['.', ':']);
        !before.is_some_and(part) && !rest.chars().next().is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn names_are_found_as_words_only() {
        assert!(mentions("Error adding/updating cluster(s) shop/web:80: no such", "shop/web:80"));
        assert!(mentions("route 'a' is bad", "a"));
        assert!(!mentions("Error adding shop/web:80", "shop/web"));
        assert!(!mentions("bad cluster", "a"));
    }
}
