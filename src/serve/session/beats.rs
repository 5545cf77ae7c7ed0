//! Times to live: what a client would forget is renewed before, by name and version alone.
//!
//! A heartbeat counts only if the client still has the very version: whatever may have run out meanwhile, since nothing
//! was sent or acknowledged for the whole time, is sent in full. Never for a name that the client refused or does not
//! ask for any more, and never for virtual hosts, where an empty body means something else (rule 86).

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Moment, Session,
    kind::{Exception, Flight, Kind},
};
use crate::{
    serve::fanout::Frame,
    snapshot::{Content, Entry},
    xds::{Resource, ResourceType},
};

/// A resource with a time to live, as the client has it.
#[derive(Clone, Debug)]
struct Beat {
    sent: Arc<Resource>,
    ttl: Duration,
    /// The last time that it was sent or renewed.
    at: Instant,
    /// When what it acknowledged last had been sent: by then it had not run out.
    proven: Instant,
    /// To be renewed.
    due: Instant,
}

/// All of one type of one stream.
#[derive(Debug)]
pub(super) struct Beats {
    /// When the stream began: none for a client that does not know times to live.
    seed: Option<Instant>,
    known: BTreeMap<Arc<str>, Beat>,
}

/// Between two renewals: less than half the time to live, and not for all streams and names at once.
pub(in crate::serve) fn interval(ttl: Duration, name: &str, seed: Instant) -> Duration {
    let mut hasher = DefaultHasher::new();
    (name, seed).hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % 100).unwrap_or_default();
    // Between 35 and 49.85 per cent.
    ttl * (7000 + 30 * part) / 20_000
}

impl Beats {
    pub(super) fn new(seed: Option<Instant>) -> Self {
        Self { seed, known: BTreeMap::new() }
    }

    /// The resource as the client is to have it.
    pub(super) fn dress(&self, resource: &Arc<Resource>) -> Arc<Resource> {
        let expires = self.seed.is_some() && resource.ttl.is_some();
        if expires { Arc::new(resource.expiring()) } else { Arc::clone(resource) }
    }

    /// A shared response, where need be as one of the stream's own.
    pub(super) fn dressed(&self, frame: &Arc<Frame>, identifier: &Arc<str>, content: &Content) -> Arc<Frame> {
        if self.seed.is_none() || frame.resources.iter().all(|r| r.ttl.is_none()) {
            return Arc::clone(frame);
        }
        let resources = frame.resources.iter().map(|resource| self.dress(resource)).collect();
        Arc::new(Frame::new(identifier, frame.url.clone(), content.seq(), resources, frame.removed.clone()))
    }

    /// A response goes out. A resource that comes without a time to live has none any more.
    pub(super) fn launched(&mut self, frame: &Frame, now: Instant) {
        let Some(seed) = self.seed else { return };
        for resource in &frame.resources {
            let Some(ttl) = resource.ttl else {
                self.known.remove(&resource.name);
                continue;
            };
            let due = now + interval(ttl, &resource.name, seed);
            let renewed = self.known.get_mut(&resource.name).filter(|_| resource.payload.is_empty());
            if let Some(beat) = renewed {
                (beat.at, beat.due) = (now, due);
            } else {
                let beat = Beat { sent: Arc::clone(resource), ttl, at: now, proven: now, due };
                self.known.insert(Arc::clone(&resource.name), beat);
            }
        }
    }

    /// The client had it before the stream began, and has not been sent it: nobody knows for how long it still lives.
    pub(super) fn found<'a>(&mut self, entry: impl FnOnce() -> Option<&'a Entry>, now: Instant) {
        let resource = self.seed.and_then(|_| Some(&entry()?.resource));
        if let Some((resource, ttl)) = resource.and_then(|resource| Some((resource, resource.ttl?))) {
            let beat = Beat { sent: Arc::clone(resource), ttl, at: now, proven: now, due: now };
            self.known.insert(Arc::clone(&resource.name), beat);
        }
    }

    /// What a response that is acknowledged now proves: which of its names may have run out before it came.
    pub(super) fn acknowledged(&mut self, flight: &Flight, now: Instant) -> Vec<Arc<str>> {
        let mut late = Vec::new();
        for resource in flight.frame.resources.iter().filter(|r| r.ttl.is_some()) {
            let Some(beat) = self.known.get_mut(&resource.name) else { continue };
            if resource.payload.is_empty() && now.saturating_duration_since(beat.proven) >= beat.ttl {
                late.push(Arc::clone(&resource.name));
            }
            beat.proven = beat.proven.max(flight.at);
        }
        late
    }

    /// It is refused, or not asked for any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// Only what is still asked for.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.known.retain(|name, _| wanted(name));
    }
}

impl Session {
    /// The heartbeats of a type that are due; what may have run out becomes an exception, to be sent in full.
    pub(super) fn heartbeats(
        &mut self,
        state: &mut Kind,
        content: &Content,
        moment: &Moment<'_>,
    ) -> Option<Arc<Frame>> {
        let (kind, now) = (state.kind, moment.now);
        let gone = |e: Option<&Exception>| matches!(e, Some(Exception::Gone { .. }));
        // What went from the view runs out, but for a cluster that is still to be removed in its order.
        let exceptions = &state.exceptions;
        state.beats.known.retain(|name, _| content.get(kind, name).is_some() || gone(exceptions.get(name)));
        let mut resources = Vec::new();
        let mut full = Vec::new();
        for (name, beat) in &state.beats.known {
            let soon =
                !matches!(state.exceptions.get(name), None | Some(Exception::Held { .. } | Exception::Gone { .. }));
            if soon || !self.reached(beat.due, now) {
                continue;
            }
            if now.saturating_duration_since(beat.at) >= beat.ttl {
                full.push(Arc::clone(name));
            } else {
                resources.push(Arc::new(beat.sent.heartbeat()));
            }
        }
        full.iter().for_each(|name| state.renew(name, content));
        if resources.is_empty() || !full.is_empty() {
            return None;
        }
        let frame = Frame::new(&self.fanouts.identifier, kind.url(), content.seq(), resources, Vec::new());
        Some(Arc::new(frame))
    }
}

impl Kind {
    /// Sends a name in full again, whatever the client has.
    pub(super) fn renew(&mut self, name: &Arc<str>, content: &Content) {
        self.beats.forget(name);
        if content.get(self.kind, name).is_some() && !self.exceptions.contains_key(name) {
            self.exceptions.insert(Arc::clone(name), Exception::Wanted { new: false, group: None });
            self.touch();
        }
    }
}

/// A type whose resources may have a time to live: of a virtual host, an empty body means that there is none (rule 86).
pub(super) fn beats(kind: ResourceType) -> bool {
    kind != ResourceType::VirtualHost
}
