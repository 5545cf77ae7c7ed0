//! What a type is asked for: names, the wildcard, glob collections; and what a question has to be answered with.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{Exception, Kind};
use crate::{
    snapshot::{Content, Seq},
    xds::{Removal, ResourceType, name},
};

impl Kind {
    /// `*`, by word or by an empty first request. Whoever asks again is answered again: it may hold nothing (rule 49).
    pub(in crate::serve::session) fn start_wildcard(&mut self, first: bool, content: &Content) {
        self.begin_members(content);
        if !Arc::make_mut(&mut self.subscription).set_wildcard(true) {
            return;
        }
        self.changed_subscription();
        if !first && self.seeded() {
            self.answer_empty = true;
            for (name, entry) in content.entries(self.kind) {
                let new = self.is_new(name, entry.created);
                self.exceptions.insert(Arc::clone(name), Exception::Wanted { new, group: None });
            }
        }
    }

    /// Every name is answered, whatever we think that the proxy has (rule 51); those of a first request when it is
    /// compared with what that reports.
    pub(in crate::serve::session) fn subscribe(&mut self, names: &[String], first: bool, content: &Content) {
        // Those of a first request at once: a stream that comes back names a thousand. Nothing stands on its subscription
        // yet that would have to be told of a change.
        let mut together = Vec::new();
        for name in names {
            if name == "*" {
                self.start_wildcard(first, content);
                continue;
            }
            let name = self.normal(name, content);
            if name::is_glob(&name) {
                self.collect(&name, first, content);
                continue;
            }
            if first {
                together.push(name);
            } else {
                self.ask(name, content);
            }
        }
        if !together.is_empty() {
            Arc::make_mut(&mut self.subscription).extend(together);
        }
    }

    /// One name, after the first request.
    fn ask(&mut self, name: Arc<str>, content: &Content) {
        let was = self.subscription.contains(&name);
        if Arc::make_mut(&mut self.subscription).insert(Arc::clone(&name)) {
            self.changed_subscription();
        }
        let created = content.get(self.kind, &name).map(|e| e.created);
        let new = !was || self.is_new(&name, created.unwrap_or_default());
        if let (false, Some(created)) = (was, created) {
            // Nothing of it is there yet, however often it changed before it was asked for.
            self.taken.insert(Arc::clone(&name), Seq(created.0.saturating_sub(1)));
        }
        if !matches!(self.exceptions.get(&name), Some(Exception::Gone { .. })) {
            self.exceptions.insert(name, Exception::Wanted { new, group: None });
        }
    }

    /// A glob collection: all of it is answered, or that it is empty.
    fn collect(&mut self, glob: &Arc<str>, first: bool, content: &Content) {
        self.begin_members(content);
        let before = Arc::clone(&self.subscription);
        if Arc::make_mut(&mut self.subscription).insert(Arc::clone(glob)) {
            self.changed_subscription();
        }
        if first {
            return;
        }
        // That it is empty, unless it is not when that is looked at.
        self.exceptions.insert(Arc::clone(glob), Exception::Wanted { new: true, group: None });
        for (name, entry) in content.entries(self.kind).filter(|(name, _)| member(name, glob)) {
            let was = before.contains(name);
            let new = !was || self.is_new(name, entry.created);
            if !was {
                self.taken.insert(Arc::clone(name), Seq(entry.created.0.saturating_sub(1)));
            }
            self.exceptions.insert(Arc::clone(name), Exception::Wanted { new, group: None });
        }
    }

    /// What went while the stream asked for names alone is no member that it has to be told of. Of types whose removals
    /// it is told of by name too, the cursor may lag behind one of them.
    fn begin_members(&mut self, content: &Content) {
        if self.kind.removal() == Removal::Never && self.subscription.named_only() {
            self.removed = content.seq();
        }
    }

    /// The name in normal form, the view's own where it has one; what is said of it is said as the client wrote it.
    fn normal(&mut self, name: &str, content: &Content) -> Arc<str> {
        let normal = name::normal(name);
        let normal = content.name(self.kind, &normal).cloned().unwrap_or_else(|| normal.into());
        if *normal == *name {
            self.spelled.remove(&normal);
        } else {
            self.spelled.insert(Arc::clone(&normal), name.into());
        }
        normal
    }

    /// The name as the client wrote it.
    pub(in crate::serve::session) fn spelled(&self, name: &Arc<str>) -> Arc<str> {
        Arc::clone(self.spelled.get(name).unwrap_or(name))
    }

    /// It writes names otherwise than in normal form.
    pub(in crate::serve::session) fn spells(&self) -> bool {
        !self.spelled.is_empty()
    }

    /// Names to be answered that neither the view has nor the subscription: they are bounded by nothing else.
    pub(in crate::serve::session) fn strangers(&self, content: &Content) -> usize {
        if self.exceptions.len() <= self.subscription.names().len() {
            return 0;
        }
        let asked = self.subscription.names();
        let stranger = |(name, exception): &(&Arc<str>, &Exception)| {
            matches!(exception, Exception::Wanted { .. })
                && !asked.contains(name)
                && content.get(self.kind, name).is_none()
        };
        self.exceptions.iter().filter(stranger).count()
    }

    /// After the subscribes. A name that a wildcard still covers is answered, present or absent (rule 47).
    pub(in crate::serve::session) fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            let name = name::normal(name);
            self.withheld.remove(&*name);
            if name == "*" {
                if Arc::make_mut(&mut self.subscription).set_wildcard(false) {
                    self.answer_empty = false;
                    self.changed_subscription();
                    let kept = Arc::clone(&self.subscription);
                    self.exceptions.retain(|n, _| kept.contains(n));
                }
                continue;
            }
            if Arc::make_mut(&mut self.subscription).remove(&name) {
                self.changed_subscription();
            }
            self.spelled.remove(&*name);
            if name::is_glob(&name) {
                let kept = Arc::clone(&self.subscription);
                self.exceptions.retain(|n, _| kept.contains(n));
            } else if self.subscription.contains(&name) {
                if !matches!(self.exceptions.get(&*name), Some(Exception::Gone { .. })) {
                    self.exceptions.insert((*name).into(), Exception::Wanted { new: false, group: None });
                }
            } else {
                self.exceptions.remove(&*name);
            }
        }
        if self.subscription.is_empty() {
            // Envoy drops a response of a type that it does not watch, without a word (O12): no slot may wait for it.
            self.in_flight.clear();
            self.parts.clear();
        }
    }

    fn changed_subscription(&mut self) {
        let wanted = Arc::clone(&self.subscription);
        self.refused_since.retain(|name, _| wanted.contains(name));
        self.beats.retain(|name| wanted.contains(name));
        (self.fanout, self.asked) = (None, None);
        self.dirty = true;
    }
}

/// Whether `name` belongs to the collection `glob`.
fn member(name: &str, glob: &str) -> bool {
    name::collection(name).is_some_and(|collection| collection == glob)
}

/// Whether `glob` is a collection that is not empty.
pub(in crate::serve::session) fn collects(content: &Content, kind: ResourceType, glob: &str) -> bool {
    name::is_glob(glob) && content.entries(kind).any(|(name, _)| member(name, glob))
}
