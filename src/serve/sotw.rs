//! One state-of-the-world stream as a state machine without I/O: the older form of xDS, which gRPC clients speak.
//!
//! `docs/protocol.md` has the protocol's rules by number, each with the test that holds it.
//!
//! Order is that of the delta session: clusters, what belongs to them, then what names them; a listener or route
//! configuration whose new content needs a cluster that is not acknowledged waits for it, a cluster that is gone stays
//! in the set until nothing that the client has acknowledged names it.
//!
//! What it cannot promise, unlike delta:
//! - CDS, LDS and SRDS responses are always the whole set: they cannot be split, cost as much as there is (gRPC
//!   clients take 4 MiB; from 3 MiB on there is an alarm), and bring what was refused again whenever anything else changes.
//! - There is no list of removals. That a name of another type is not there is said in `resource_errors` alone; a client
//!   that does not read them waits for its own timer.
//! - A client that reconnects says one version for a type, not which resources it has. Equal sets are not sent again
//!   (wildcard CDS, LDS and SRDS only); else a cluster that went while it was away leaves with the first set, before what
//!   named it is replaced, since nobody here has its content any more; and a route configuration that it may have is
//!   sent like one that it lacks, waiting for nothing.
//! - Of a set that was refused without a name, all that was new counts as refused. A cluster of it that is then removed
//!   goes back to the version that was accepted last until it may go.
//! - Times to live are renewed by sending the resource again, whole sets whole: Envoy takes a heartbeat out of a set and
//!   would remove what it stands for.
//! - Collections and virtual hosts exist in delta only.

mod gate;
mod kind;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use self::kind::{Flight, Kind};
use super::{
    absent::Absent,
    doubts::Doubt,
    session::{Client, MAX_NAME, MAX_NAMES, Moment, Trust, Violation},
};
use crate::{
    feedback,
    model::Role,
    snapshot::{Content, Group, Seq},
    xds::{Resource, ResourceType, Version},
};

/// Bytes of a response that can be split (rule 107). LDS and CDS cannot.
const SPLIT: usize = 1 << 20;

/// One `DiscoveryRequest`, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `type_url`.
    pub url: String,
    /// `resource_names`.
    pub names: Vec<String>,
    /// `version_info`: what the client accepted last, if anything.
    pub version: String,
    /// `response_nonce`; empty without.
    pub nonce: String,
    /// The message of `error_detail`: a NACK.
    pub error: Option<String>,
}

/// A response to send.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its type.
    pub kind: ResourceType,
    /// `version_info`: of the type as a whole.
    pub version: Version,
    /// Unique in the stream.
    pub nonce: u64,
    /// The whole set (CDS, LDS, SRDS), or what is new or changed.
    pub resources: Vec<Arc<Resource>>,
    /// Names that it asks for and that are not there, each once.
    pub errors: Vec<Absent>,
    /// Resources with a time to live go in their wrapper.
    pub wraps: bool,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    client: Client,
    /// What the client may have from other streams without saying so.
    doubt: Option<Doubt>,
    trust: Trust,
    /// A type waits for `trust`.
    unsure: bool,
    /// Something waits for a watermark.
    awaits: bool,
    started: Instant,
    first_ack: Option<Instant>,
    kinds: BTreeMap<ResourceType, Kind>,
    nonce: u64,
    deadline: Option<Instant>,
}

impl Session {
    /// A stream of that client that begins now.
    pub fn new(client: Client, now: Instant) -> Self {
        Self {
            client,
            doubt: None,
            trust: Trust::Unknown,
            unsure: false,
            awaits: false,
            started: now,
            first_ack: None,
            kinds: BTreeMap::new(),
            nonce: 0,
            deadline: None,
        }
    }

    /// With the memory of what its client may have half accepted.
    #[must_use]
    pub fn doubting(self, doubt: Doubt) -> Self {
        Self { doubt: Some(doubt), ..self }
    }

    /// It has to be told, by [`Session::trust`], whether the view is as new as all that was written before the stream
    /// began; until then a client that says a version is answered with silence.
    pub fn unsure(&self) -> bool {
        self.unsure && self.trust == Trust::Unknown
    }

    /// The view is as new as all that was written before now, or that cannot be known.
    pub fn trust(&mut self, confirmed: bool) {
        self.trust = if confirmed { Trust::Confirmed } else { Trust::Stale };
    }

    /// The client must be compared anew, on another stream, once the replica is fresh.
    pub fn stale(&self) -> bool {
        self.trust == Trust::Stale
    }

    /// A change of a watermark is a reason to poll.
    pub fn awaits_watermarks(&self) -> bool {
        self.awaits
    }

    /// Whether the client has taken all that the view has of what it asks for: clusters and listeners among it, or the
    /// one type of its stream.
    pub fn complete(&self, content: &Content, only: Option<ResourceType>) -> bool {
        let asked = match only {
            Some(kind) => self.kinds.contains_key(&kind),
            None => [ResourceType::Cluster, ResourceType::Listener].iter().all(|kind| self.kinds.contains_key(kind)),
        };
        let taken = |state: &Kind| !state.flying() && !state.delayed && state.seen >= content.seq();
        asked && !self.stale() && content.ready() && self.kinds.values().all(taken)
    }

    /// Takes one request: an acknowledgement, a new set of names, or both at once.
    ///
    /// # Errors
    /// [`Violation`]: the stream has to be closed.
    pub fn on_request(&mut self, request: &Request, content: &Content, now: Instant) -> Result<(), Violation> {
        if request.url.is_empty() {
            return Err(Violation::NoType);
        }
        if request.url.len() > MAX_NAME {
            return Err(Violation::LongType);
        }
        if request.names.len() > MAX_NAMES {
            return Err(Violation::TooManyNames);
        }
        if request.names.iter().any(|name| name.len() > MAX_NAME) {
            return Err(Violation::LongName);
        }
        // There is no way to say that an unknown type has nothing: silence (rule 5).
        let Some(kind) = ResourceType::from_url(&request.url).filter(|kind| !kind.delta_only()) else { return Ok(()) };
        let seed = self.expires().then_some(self.started);
        let state = self.kinds.entry(kind).or_insert_with(|| Kind::new(kind, request.version.clone(), seed));
        if self.client.role == Role::Grpc {
            state.means_it();
        }
        // An answer to an older response is not looked at: one to the last will come, with all names. Not from a client
        // that asks for nothing any more, though: it drops what is on its way without a word (O12).
        if state.stale(&request.nonce) && !request.names.is_empty() {
            state.waver(&request.names);
            return Ok(());
        }
        if state.answered(&request.nonce, request.error.as_deref(), content) {
            self.first_ack.get_or_insert(now);
            if let Some(doubt) = self.doubt.as_ref().filter(|_| kind.wildcard() && request.error.is_none()) {
                doubt.set(kind, &BTreeSet::new());
            }
        }
        state.subscribe(&request.names, content);
        state.asked.get_or_insert(now);
        Ok(())
    }

    /// The next response, if there is one; call it again until there is none. Only then is the deadline known.
    pub fn poll(&mut self, content: &Content, moment: &Moment<'_>) -> Option<Response> {
        (self.deadline, self.awaits, self.unsure) = (None, false, false);
        if !content.ready() {
            return None;
        }
        let mut response = ResourceType::WIRE.into_iter().find_map(|kind| self.turn(kind, content, moment));
        if response.is_none() && self.kinds.get(&ResourceType::Cluster).is_some_and(|cds| cds.delayed) {
            // What names a cluster was looked at after the clusters: perhaps nothing does any more.
            response = self.turn(ResourceType::Cluster, content, moment);
        }
        let joins: Vec<_> = self.kinds.values_mut().filter_map(|state| state.join(content, moment.now)).collect();
        joins.into_iter().for_each(|at| self.wake_at(at, moment.now));
        response
    }

    /// What one type has to send.
    fn turn(&mut self, kind: ResourceType, content: &Content, moment: &Moment<'_>) -> Option<Response> {
        // Taken out so that it can be held against the other types meanwhile.
        let mut state = self.kinds.remove(&kind)?;
        let due = self.due(&mut state, content, moment);
        let response = due.map(|Due { version, sent, set, errors }| {
            self.nonce += 1;
            let (nonce, seq) = (self.nonce, content.seq());
            state.launch(Flight { nonce, version, seq, sent: sent.clone(), set }, moment.now);
            if let Some(doubt) = self.doubt.as_ref().filter(|_| kind.wildcard()) {
                // It may take a part of it, and the stream end before it says so.
                doubt.add(kind, state.news().map(|resource| Arc::clone(&resource.name)));
            }
            Response { kind, version, nonce, resources: sent, errors, wraps: self.expires() }
        });
        self.kinds.insert(kind, state);
        if let Some(response) = &response {
            self.follow(response, content);
        }
        response
    }

    /// Times to live are for clients that know them, and read the wrapper in which they come.
    fn expires(&self) -> bool {
        self.client.expires && self.client.unwraps
    }

    /// By whose publishes it has to be polled: those that concern one of these groups; none, by all.
    pub fn follows(&self) -> Option<impl Iterator<Item = &Arc<Group>> + Clone> {
        let kinds = self.kinds.values();
        let settled = kinds.clone().all(Kind::settled);
        settled.then(|| kinds.filter_map(|kind| kind.group.as_ref()))
    }

    /// How many names it asks for, of all types.
    pub fn names(&self) -> usize {
        self.kinds.values().map(|kind| kind.names().len()).sum()
    }

    /// When to poll again at the latest; known once `poll` has said that there is nothing to send.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Every tombstone up to here has been taken over: what is gone is kept here, in the set that was sent.
    pub fn passed(&self, content: &Content) -> Seq {
        let mut seen = content.seq();
        for kind in ResourceType::ALL.into_iter().filter(|kind| kind.wildcard()) {
            seen = seen.min(self.kinds.get(&kind).map_or(seen, |state| state.seen));
        }
        seen
    }

    /// What feedback has to know of each type, where it changed since the last call.
    pub fn reports(&mut self) -> Vec<(ResourceType, feedback::TypeState)> {
        self.kinds.values_mut().filter_map(Kind::report).collect()
    }

    /// What one type has to send: its version, the resources, and for CDS, LDS and SRDS the set that they are.
    fn due(&mut self, state: &mut Kind, content: &Content, moment: &Moment<'_>) -> Option<Due> {
        if let Some(ends) = state.ends(content) {
            self.wake_at(ends, moment.now);
            state.renew(moment.now);
        }
        if state.flying() || !state.stirred(content) {
            return None;
        }
        state.forgo(content);
        if state.idle() {
            state.settle(content);
            return None;
        }
        if state.reports() && self.trust != Trust::Confirmed {
            // The client has something, perhaps newer than what this replica knows (or it is not known yet).
            self.unsure = true;
            state.offer(content);
            state.stir();
            return None;
        }
        // What a client half accepted is in no version that it says.
        let doubted = self.doubt.as_ref().is_some_and(|doubt| !doubt.names(state.kind).is_empty());
        if !doubted && state.resumes(content) {
            return None;
        }
        let mut delayed = false;
        let due = if state.kind.wildcard() {
            self.whole(state, content, moment, &mut delayed)
        } else {
            self.changed(state, content, moment, &mut delayed)
        };
        if due.is_none() && !delayed {
            state.settle(content);
        }
        state.delayed = delayed;
        due
    }

    /// CDS, LDS and SRDS: all that there is, and what may not go yet.
    fn whole(&mut self, state: &mut Kind, content: &Content, moment: &Moment<'_>, delayed: &mut bool) -> Option<Due> {
        let mut set = BTreeMap::new();
        for (name, entry) in state.wanted(content) {
            let resource = Arc::clone(&entry.resource);
            if !self.waits(state, &resource, content, moment) {
                set.insert(name, resource);
                continue;
            }
            *delayed = true;
            match state.held.get(&name) {
                Some(old) => drop(set.insert(name, Arc::clone(old))),
                // The first response is whole (O28): it waits for its slowest listener.
                None if state.first => return None,
                None => {}
            }
        }
        let frozen = !moment.fresh || self.trust == Trust::Stale;
        if state.kind == ResourceType::Cluster || frozen {
            let had = state.before.iter().filter(|(name, _)| self.sent_naming(name)).chain(&state.held);
            let gone: BTreeMap<_, _> = had.filter(|(name, _)| !set.contains_key(*name)).collect();
            let gone: Vec<_> = gone.into_iter().map(|(name, old)| (Arc::clone(name), Arc::clone(old))).collect();
            for (name, old) in gone {
                if state.wants(&name) && (frozen || !self.may_go(state, &name, content, moment)) {
                    *delayed = true;
                    set.insert(name, old);
                }
            }
        }
        let (kind, held, before) = (state.kind, &state.held, &state.before);
        let has = |name: &str| held.contains_key(name) || before.contains_key(name);
        state.unused.retain(|name, _| content.get(kind, name).is_none() && has(name));
        let errors = self.absent(state, content, moment, delayed);
        let version = version_of(set.values());
        let due = state.due_again(version) || !errors.is_empty();
        due.then(|| Due { version, sent: set.values().cloned().collect(), set: Some(set), errors })
    }

    /// The other types: what the client lacks or has in another version, and what has to follow its parent.
    fn changed(&mut self, state: &mut Kind, content: &Content, moment: &Moment<'_>, delayed: &mut bool) -> Option<Due> {
        let (mut sent, mut size, mut rest) = (Vec::new(), 0, Vec::new());
        for (name, entry) in state.wanted(content) {
            let resource = &entry.resource;
            let old = state.held.get(&name);
            let same = old.is_some_and(|old| old.version == resource.version);
            let settled = state.refuses(&name, resource.version) || (same && !state.again.contains(&name));
            if settled || state.suspected(&name) {
                continue;
            }
            // What the client lacks is never delayed: an empty route configuration is 404s.
            if old.is_some() && self.waits(state, resource, content, moment) {
                *delayed = true;
                // What the client has would run out meanwhile.
                let lapses =
                    |old: &&Arc<Resource>| state.kind.expires() && old.ttl.is_some() && state.again.contains(&name);
                let due = state.held.get(&name).filter(lapses);
                sent.extend(due.cloned());
                continue;
            }
            if !rest.is_empty() || (size > 0 && size + resource.body.len() > SPLIT) {
                // The rest goes when this is answered: what a response lacks, of these types, the client keeps.
                *delayed = true;
                rest.push(name);
                continue;
            }
            size += resource.body.len();
            sent.push(Arc::clone(resource));
        }
        // The answer to this response says nothing of them.
        state.again.extend(rest);
        while sent.is_empty()
            && let Some(group) = state.next_suspects()
        {
            let entries = group.iter().filter_map(|name| content.get(state.kind, name));
            sent.extend(entries.map(|entry| Arc::clone(&entry.resource)));
        }
        let errors = self.absent(state, content, moment, delayed);
        if sent.is_empty() && errors.is_empty() {
            return None;
        }
        let all: Vec<_> = state.wanted(content).into_iter().map(|(_, entry)| &entry.resource).collect();
        Some(Due { version: version_of(all.into_iter()), sent, set: None, errors })
    }

    fn wake_at(&mut self, at: Instant, now: Instant) {
        if now < at {
            self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
        }
    }
}

/// What one type has to send.
struct Due {
    version: Version,
    sent: Vec<Arc<Resource>>,
    /// The whole set, where a response is one.
    set: Option<BTreeMap<Arc<str>, Arc<Resource>>>,
    errors: Vec<Absent>,
}

/// Of a set of resources in order of their names: the same on every replica.
fn version_of<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> Version {
    let mut text = String::new();
    for resource in resources {
        text.push_str(&resource.name);
        text.push('\0');
        text.push_str(&resource.version.to_string());
    }
    Version::of(text.as_bytes())
}
