//! One delta ADS stream as a state machine without I/O: requests and views in, frames out.
//!
//! [`Session::on_request`] takes what the proxy says, [`Session::poll`] gives what has to be sent next, if anything, and
//! [`Session::next_deadline`] says when to poll again although nothing happened. A publish needs no call of its own: the
//! session compares its cursors with the view whenever it is polled, and says by [`Session::follows`] which publishes it
//! has to be polled for. What it is not polled for changes nothing for it but the cursors, which lag behind the view then.
//!
//! `docs/protocol.md` has the protocol's rules by number, each with the test that holds it.

mod beats;
#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod cursor_tests;
#[cfg(test)]
mod feature_tests;
mod gate;
mod hosts;
#[cfg(test)]
mod hosts_tests;
mod kind;
#[cfg(test)]
mod model_tests;
mod poll;
#[cfg(test)]
mod reconnect_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod removal_tests;
mod reported;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod stale_tests;
#[cfg(test)]
mod tests;
pub(super) mod tiers;
#[cfg(test)]
mod tiers_tests;
mod touched;
#[cfg(test)]
mod wake_tests;
#[cfg(test)]
mod world;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::reported::Reported;
pub(super) use self::{beats::interval, kind::mentions};
use self::{kind::Kind, touched::Touched};
use super::{
    doubts::Doubt,
    fanout::{Fanouts, Frame},
};
use crate::{
    feedback,
    model::{Role, Sites, Watermarks},
    snapshot::{Content, Group, Seq},
    xds::{PerType, Removal, ResourceType, name},
};

/// Names per type and stream.
pub(super) const MAX_NAMES: usize = 100_000;
/// A set of names that has stood for this long gets a group, which costs as much as it has names: not each of those
/// through which it grows name by name.
pub(super) const STOOD: Duration = Duration::from_secs(1);
/// Glob collections per type and stream, and in one request.
const MAX_GLOBS: usize = 100;
/// Bytes per name.
pub(super) const MAX_NAME: usize = 512;

/// What a stream's client is, and what it says that it can do.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The role of its site.
    pub role: Role,
    /// It has shown a certificate.
    pub proven: bool,
    /// How long connections of a replaced listener live on at it.
    pub drain: Duration,
    /// It forgets what has a time to live and is not renewed (`xds.config.supports-resource-ttl`).
    pub expires: bool,
    /// It reads a resource in its wrapper in state of the world too (`xds.config.resource-in-sotw`).
    pub unwraps: bool,
}

/// One `DeltaDiscoveryRequest`, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `type_url`.
    pub url: String,
    /// `resource_names_subscribe`.
    pub subscribe: Vec<String>,
    /// `resource_names_unsubscribe`.
    pub unsubscribe: Vec<String>,
    /// `initial_resource_versions`; counts in the first request of a type only.
    pub initial: Reported,
    /// `response_nonce`; empty without.
    pub nonce: String,
    /// The message of `error_detail`: a NACK.
    pub error: Option<String>,
}

/// Why a stream is closed with `INVALID_ARGUMENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// On ADS every request says its type.
    #[error("type URL is required for ADS")]
    NoType,
    /// Too many names.
    #[error("more than 100,000 names of one type")]
    TooManyNames,
    /// A name is no text.
    #[error("a resource name that is not UTF-8")]
    NotText,
    /// An entry of what the client has cannot be read.
    #[error("an entry of initial_resource_versions that cannot be read")]
    NoEntry,
    /// A name is too long.
    #[error("a resource name longer than 512 bytes")]
    LongName,
    /// Too many glob collections: each is looked for among all resources of its type.
    #[error("more than 100 collections (names that end in /*) of one type")]
    TooManyGlobs,
    /// A type's name is too long: unknown ones are kept until they are answered.
    #[error("a type URL longer than 512 bytes")]
    LongType,
}

/// What a session wants sent.
#[derive(Clone, Debug)]
pub struct Send {
    /// Its type; none for the answer to a type that we do not know.
    pub kind: Option<ResourceType>,
    /// The frame, nonce included.
    pub frame: Arc<Frame>,
}

/// What holds at one moment, beside the view.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The clock.
    pub now: Instant,
    /// The replica sees the store's changes; if not, it only adds.
    pub fresh: bool,
    /// All sites, and the Fleet's drain time.
    pub sites: &'a Sites,
    /// How far each site has come.
    pub watermarks: &'a Watermarks,
}

/// Whether the view may be compared with what a proxy brought along from another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It may be older than what the proxy has, without anybody knowing.
    Unknown,
    /// It is at least as new as all that the proxy was sent before this stream.
    Confirmed,
    /// It may be older: what the proxy has in another version is left as it is, and nothing is removed.
    Stale,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    fanouts: Arc<Fanouts>,
    client: Client,
    /// What the proxy may have from other streams without saying so.
    doubt: Option<Doubt>,
    trust: Trust,
    /// A type waits for `trust`.
    unsure: bool,
    /// Something waits for a watermark.
    awaits: bool,
    started: Instant,
    first_ack: Option<Instant>,
    /// Boxed, since most streams ask for few of them.
    kinds: PerType<Option<Box<Kind>>>,
    /// Route configurations that the proxy has and whose hosts come by themselves; those that were there at a seq came
    /// with it.
    streamed: BTreeMap<Arc<str>, Seq>,
    /// Children whose parent was sent before the stream asked for their type.
    touched: BTreeMap<ResourceType, Touched>,
    /// Names of unknown types, to be answered as absent.
    unknown: Vec<(String, Vec<Arc<str>>)>,
    /// When LDS and RDS had acknowledged all that they were sent up to a seq.
    marks: Vec<(Seq, Instant)>,
    deadline: Option<Instant>,
    /// What the view had when clusters and listeners had been asked for.
    target: Option<Seq>,
    /// It lacks nothing of that, but has not asked for all that belongs to it.
    unasked: bool,
    /// Edge sites without gateways, and since when that is known here (cores only).
    away: BTreeMap<Arc<str>, Instant>,
}

impl Session {
    /// A stream of that client that begins now.
    pub fn new(fanouts: Arc<Fanouts>, client: Client, now: Instant) -> Self {
        Self {
            fanouts,
            client,
            doubt: None,
            trust: Trust::Unknown,
            unsure: false,
            awaits: false,
            started: now,
            first_ack: None,
            kinds: Default::default(),
            streamed: BTreeMap::new(),
            touched: BTreeMap::new(),
            unknown: Vec::new(),
            marks: Vec::new(),
            deadline: None,
            target: None,
            unasked: false,
            away: BTreeMap::new(),
        }
    }

    /// With the memory of what its proxy may have half accepted.
    #[must_use]
    pub fn doubting(self, doubt: Doubt) -> Self {
        Self { doubt: Some(doubt), ..self }
    }

    /// Takes one request: an acknowledgement, a change of subscription, or both at once.
    ///
    /// # Errors
    /// [`Violation`]: the stream has to be closed.
    pub fn on_request(&mut self, request: Request, content: &Content, now: Instant) -> Result<(), Violation> {
        if request.url.is_empty() {
            return Err(Violation::NoType);
        }
        if request.url.len() > MAX_NAME {
            return Err(Violation::LongType);
        }
        if request.subscribe.iter().chain(&request.unsubscribe).any(|name| name.len() > MAX_NAME) {
            return Err(Violation::LongName);
        }
        if request.initial.len() > MAX_NAMES || request.subscribe.len() + request.unsubscribe.len() > MAX_NAMES {
            return Err(Violation::TooManyNames);
        }
        let globs = |names: &[String]| names.iter().filter(|name| name::is_glob(&name::normal(name))).count();
        if globs(&request.subscribe) + globs(&request.unsubscribe) > MAX_GLOBS {
            return Err(Violation::TooManyGlobs);
        }
        let Some(kind) = ResourceType::from_url(&request.url) else {
            let asked: Vec<Arc<str>> =
                request.subscribe.iter().filter(|n| *n != "*").map(|n| n.as_str().into()).collect();
            let waiting: usize = self.unknown.iter().map(|(_, names)| names.len()).sum();
            if waiting + asked.len() > MAX_NAMES {
                return Err(Violation::TooManyNames);
            }
            if !asked.is_empty() {
                self.unknown.push((request.url, asked));
            }
            return Ok(());
        };
        let seed = (self.client.expires && beats::beats(kind)).then_some(self.started);
        // An empty list is nothing to gRPC clients (rule 46).
        let legacy = kind.empty_is_all() && self.client.role != Role::Grpc;
        // It counts in the first request only, but has to be readable in any.
        let reported = request.initial.versions(kind, content)?;
        let slot = self.slot(kind);
        let first = slot.is_none();
        let state = slot.get_or_insert_with(|| Box::new(Kind::new(kind, reported, seed)));
        // A nonce that is not in flight is of another stream or of a dropped subscription: its ACK half is ignored,
        // its subscription half never (rule 58).
        let matched = u64::from_str_radix(&request.nonce, 16).is_ok_and(|nonce| {
            let error = request.error.as_deref();
            state.resolve(nonce, error, content, now)
        });
        if first && legacy && request.subscribe.is_empty() && request.unsubscribe.is_empty() {
            state.start_wildcard(true, content);
        }
        state.subscribe(&request.subscribe, first, content);
        state.unsubscribe(&request.unsubscribe);
        state.asked.get_or_insert(now);
        let (globs, names) =
            (state.subscription.globs(), state.subscription.names().len().max(state.strangers(content)));
        let doubted = state.take_doubted();
        if kind == ResourceType::Route {
            self.forget_routes(&request.subscribe);
        }
        if names > MAX_NAMES {
            return Err(Violation::TooManyNames);
        }
        if globs > MAX_GLOBS {
            return Err(Violation::TooManyGlobs);
        }
        if let Some((doubt, names)) = self.doubt.as_ref().zip(doubted) {
            doubt.set(kind, &names);
        }
        if matched {
            self.first_ack.get_or_insert(now);
        }
        Ok(())
    }

    /// When to poll again at the latest; known once `poll` has said that there is nothing to send.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// It has to be told, by [`Session::trust`], whether the view is as new as all that was written before the stream
    /// began; until then some types are answered with silence.
    pub fn unsure(&self) -> bool {
        self.unsure && self.trust == Trust::Unknown
    }

    /// The view is as new as all that was written before now, or that cannot be known.
    pub fn trust(&mut self, confirmed: bool) {
        self.trust = if confirmed { Trust::Confirmed } else { Trust::Stale };
    }

    /// The proxy may have been left with versions that the view does not have: it must be compared anew, on another
    /// stream, once the replica is fresh.
    pub fn stale(&self) -> bool {
        self.trust == Trust::Stale
    }

    /// A change of a watermark is a reason to poll.
    pub fn awaits_watermarks(&self) -> bool {
        self.awaits
    }

    /// Whether the proxy has acknowledged (or refused) all that the view had for it when it began to ask, and asks for
    /// all that belongs to that. Not before: between two requests of a reconnect, nothing is pending either. What was
    /// published since then is not waited for: under churn something always is on its way, and the cursors speak of it.
    /// A stream that is of `only` one type answers for that.
    pub fn complete(&mut self, content: &Content, only: Option<ResourceType>) -> bool {
        if self.stale() || !content.ready() {
            return false;
        }
        let seeded = |kind| self.kind(kind).filter(|k| k.seeded());
        if let Some(kind) = only {
            let target = self.target.unwrap_or(content.seq());
            let complete = seeded(kind).is_some_and(|k| k.has(target));
            self.target = Some(target);
            return complete;
        }
        let [Some(clusters), Some(listeners)] = [ResourceType::Cluster, ResourceType::Listener].map(seeded) else {
            return false;
        };
        let target = self.target.unwrap_or(content.seq());
        let asked = |(kind, name): &(ResourceType, Arc<str>)| {
            content.get(*kind, name).is_none() || self.kind(*kind).is_some_and(|k| k.subscription.contains(name))
        };
        let asks = |parent: &Kind| {
            let settled = |name: &str| parent.exceptions.get(name).is_some_and(kind::Exception::is_settled);
            let due = content.entries(parent.kind).filter(|(name, entry)| entry.created <= target && !settled(name));
            due.map(|(_, entry)| &entry.resource).all(|r| {
                let mut routes = r.requires.iter().filter(|(kind, _)| *kind == ResourceType::Route);
                let streams = |routes: &str| content.hosts(routes).next().is_some();
                let hosts = || seeded(ResourceType::VirtualHost).is_some();
                r.children.iter().chain(routes.clone()).all(asked) && routes.all(|(_, name)| !streams(name) || hosts())
            })
        };
        let taken = self.all().all(|k| k.has(target));
        let complete = taken && [clusters, listeners].into_iter().all(asks);
        self.unasked = taken && !complete;
        self.target = Some(target);
        complete
    }

    /// By whose publishes it has to be polled: those that concern one of these groups; none, by all. What waits for
    /// anything but an answer or a time may wait for names that it does not ask for.
    pub fn follows(&self) -> Option<impl Iterator<Item = &Arc<Group>> + Clone> {
        let kinds = self.all();
        let settled = !self.unasked && kinds.clone().all(Kind::settled);
        settled.then(|| kinds.filter_map(|kind| kind.fanout.as_ref()).map(|fanout| &fanout.group))
    }

    /// Every tombstone up to here has been taken over.
    pub fn passed(&self, content: &Content) -> Seq {
        let tells = |k: &&Kind| k.kind.removal() != Removal::Never || !k.subscription.named_only();
        self.all().filter(tells).map(|k| k.removed).fold(content.seq(), Seq::min)
    }

    /// What feedback has to know of each type, where it changed since the last call.
    pub fn reports(&mut self) -> Vec<(ResourceType, feedback::TypeState)> {
        self.kinds.iter_mut().flatten().filter_map(|kind| kind.report()).collect()
    }

    /// How many names it asks for, of all types.
    pub fn names(&self) -> usize {
        self.all().map(|kind| kind.subscription.names().len()).sum()
    }

    /// What it asks for, type by type.
    fn all(&self) -> impl Iterator<Item = &Kind> + Clone {
        self.kinds.iter().flatten().map(|kind| &**kind)
    }

    fn kind(&self, kind: ResourceType) -> Option<&Kind> {
        self.kinds.get(kind).as_deref()
    }

    fn slot(&mut self, kind: ResourceType) -> &mut Option<Box<Kind>> {
        self.kinds.get_mut(kind)
    }

    fn wake_at(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
    }
}
