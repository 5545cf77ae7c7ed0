//! What a response comes to: accepted, refused, or good in parts.

use std::{collections::BTreeSet, sync::Arc};

use super::{Flight, Kind};
use crate::{feedback, serve::session::mentions, snapshot::Content};

/// Bytes of a client's error text that are kept.
const MAX_ERROR: usize = 1024;

impl Kind {
    /// Takes the answer to the response in flight; whether it was one.
    pub(in crate::serve::sotw) fn answered(&mut self, nonce: &str, error: Option<&str>, content: &Content) -> bool {
        if u64::from_str_radix(nonce, 16) != Ok(self.nonce) {
            return false;
        }
        let Some(flight) = self.flight.take() else { return false };
        self.stir();
        match error {
            Some(error) => self.refuse(flight, error, content),
            None => self.accept(flight),
        }
        true
    }

    fn accept(&mut self, flight: Flight) {
        for resource in &flight.sent {
            self.parked.remove(&resource.name);
        }
        match flight.set {
            Some(set) => {
                self.held = set;
                self.before.clear();
                self.doubtful.clear();
            }
            None => {
                self.doubtful.retain(|old| flight.sent.iter().all(|r| r.name != old.name));
                let wanted = flight.sent.into_iter().filter(|r| self.subscription.contains(&r.name));
                self.held.extend(wanted.map(|r| (Arc::clone(&r.name), r)));
            }
        }
        (self.version, self.refused_version, self.acked) = (Some(flight.version), None, flight.seq);
    }

    /// Of a whole set the names that the error text has, or all that were new, are refused until their content changes
    /// (rule 25). Of other responses they are tried again in parts, until one that is alone is refused (rule 68).
    fn refuse(&mut self, flight: Flight, error: &str, content: &Content) {
        for resource in &flight.sent {
            self.lives.remove(&resource.name);
        }
        let news: Vec<_> = flight.sent.iter().filter(|r| self.held.get(&r.name).is_none_or(|old| old != *r)).collect();
        let named: Vec<_> = news.iter().filter(|r| mentions(error, &r.name)).copied().collect();
        if flight.set.is_none() && news.len() > 1 {
            let (alone, rest): (Vec<_>, Vec<_>) = news
                .iter()
                .map(|r| Arc::clone(&r.name))
                .partition(|name| named.iter().any(|culprit| culprit.name == *name));
            let half = if named.is_empty() { rest.len().div_ceil(2) } else { rest.len() };
            let (first, second) = rest.split_at(half);
            let groups = alone.into_iter().map(|name| BTreeSet::from([name]));
            let groups = [first, second].map(|part| part.iter().cloned().collect()).into_iter().chain(groups);
            groups.filter(|group| !group.is_empty()).for_each(|group| self.suspects.push_back(group));
            self.doubtful.extend(flight.sent);
            return;
        }
        let culprits = if named.is_empty() { &news } else { &named };
        let mut end = error.len().min(MAX_ERROR);
        while !error.is_char_boundary(end) {
            end -= 1;
        }
        let error: Arc<str> = error.get(..end).unwrap_or_default().into();
        for resource in culprits {
            let since = content.get(self.kind, &resource.name).map_or(flight.seq, |entry| entry.content);
            let parked = feedback::Parked { version: resource.version, error: Arc::clone(&error), since };
            self.parked.insert(Arc::clone(&resource.name), parked);
        }
        for resource in &flight.sent {
            // What is good in a response is taken although the response is refused (O9, gRFC A46).
            if self.parked.contains_key(&resource.name) {
                self.doubtful.push(Arc::clone(resource));
            } else {
                self.held.insert(Arc::clone(&resource.name), Arc::clone(resource));
            }
        }
        // The set that the client accepted last is not what it has, even if that comes again.
        (self.refused_version, self.version) = (Some(flight.version), None);
    }
}
