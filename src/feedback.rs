//! What proxies have taken: cursors, exceptions and refusals, by proxy and type; and the load that they report. In
//! memory, never written to the store.

mod alike;
pub mod load;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use dashmap::DashMap;

pub use self::alike::Alike;
use crate::{
    model::Audience,
    xds::{ResourceType, Seq, Subscription, Version},
};

/// From how many bytes on a set that goes whole is worth an alarm: gRPC clients take no message above 4 MiB.
pub const LARGE_SET: usize = 3 << 20;

/// A proxy: its site (as claimed, while it is refused) and its node id, which is unique at the site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyId {
    /// Its site.
    pub site: Arc<str>,
    /// Its `node.id`.
    pub node: Arc<str>,
}

/// A resource that a proxy refuses, until its content changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parked {
    /// The version that it refuses.
    pub version: Version,
    /// The proxy's words.
    pub error: Arc<str>,
    /// When the content was published that it refused first, of all that it refused without taking one in between.
    pub since: Seq,
}

/// One type of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeState {
    /// What it asks for.
    pub subscription: Arc<Subscription>,
    /// Everything up to here was sent, exceptions aside. A publish that does not concern the subscription moves it only
    /// when the stream is looked at: see [`Extent`].
    pub sent: Seq,
    /// Everything up to here is acknowledged, exceptions aside; lags behind in the same way.
    pub acked: Seq,
    /// Names that are still to be sent or acknowledged, whatever the cursors say.
    pub pending: Arc<Vec<Arc<str>>>,
    /// Up to where each pending name that changed meanwhile was acknowledged; none without such a name.
    pub behind: Option<Seq>,
    /// Names that it refuses.
    pub parked: Arc<BTreeMap<Arc<str>, Parked>>,
    /// Bytes, about, of the set that it was sent last, where that goes whole (state of the world, LDS and CDS); else 0.
    pub set: usize,
}

/// Up to which seq whoever has all of a subscription up to some other seq has all of it: as far as nothing that it asks
/// for was published since. The snapshot knows, by audience and type; it is asked once for all three cursors.
pub type Extent<'a> = dyn Fn(&Audience, ResourceType, &Subscription, [Seq; 3]) -> [Seq; 3] + 'a;

/// Whether a proxy has taken one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acked {
    /// It acknowledged it at that seq or later.
    Acked,
    /// Not yet.
    Pending,
    /// It refused it, with these words.
    Refused(Arc<str>),
    /// It does not ask for it.
    NotSubscribed,
}

/// One ADS stream of a proxy; what its task writes and everybody may read.
#[derive(Debug)]
pub struct ProxyState {
    /// The proxy.
    pub id: ProxyId,
    /// When the stream began.
    pub since: SystemTime,
    /// What it is served, or why it is served nothing.
    who: Mutex<Result<Audience, String>>,
    types: Mutex<BTreeMap<ResourceType, TypeState>>,
    complete: AtomicBool,
    partial: AtomicBool,
    /// See [`Feedback::changes`].
    changes: Arc<AtomicU64>,
}

impl ProxyState {
    /// Who it was found to be.
    pub fn set_audience(&self, who: Result<Audience, String>) {
        *self.who.lock().unwrap_or_else(PoisonError::into_inner) = who;
        self.changed();
    }

    /// Replaces what is known of a type.
    pub fn set(&self, kind: ResourceType, state: TypeState) {
        self.types.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, state);
        self.changed();
    }

    /// The stream is of one type; all such streams of a proxy speak for it together.
    pub fn set_partial(&self, partial: bool) {
        self.partial.store(partial, Ordering::Relaxed);
        self.changed();
    }

    /// It has acknowledged all that it had to be sent at some moment of this stream: from now on its cursors speak for
    /// what it has.
    pub fn set_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
        self.changed();
    }

    /// Behind the change, so that whoever sees the number sees it too.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// It is not refused.
    fn served(&self) -> bool {
        self.who.lock().unwrap_or_else(PoisonError::into_inner).is_ok()
    }

    /// Its audience, unless it is refused.
    pub fn audience(&self) -> Option<Audience> {
        self.who.lock().unwrap_or_else(PoisonError::into_inner).clone().ok()
    }

    /// Whether it has taken `name` as it was published at `seq`.
    pub fn acked(&self, kind: ResourceType, name: &str, seq: Seq) -> Acked {
        let types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        types.get(&kind).map_or(Acked::NotSubscribed, |t| t.acked(name, seq))
    }

    fn view(&self, extent: &Extent<'_>) -> ProxyView {
        let who = self.who.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let types = self.types.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.seen(who, types, self.complete.load(Ordering::Relaxed), extent)
    }

    fn seen(
        &self,
        who: Result<Audience, String>,
        mut types: BTreeMap<ResourceType, TypeState>,
        complete: bool,
        extent: &Extent<'_>,
    ) -> ProxyView {
        let (audience, refused) = match who {
            Ok(audience) => (Some(audience), None),
            Err(reason) => (None, Some(reason)),
        };
        // Before streams are joined: the slowest speaks for both, but not the one that was looked at longest ago.
        for (kind, state) in &mut types {
            let Some(audience) = &audience else { break };
            let cursors = [state.sent, state.acked, state.behind.unwrap_or_default()];
            let [sent, acked, behind] = extent(audience, *kind, &state.subscription, cursors);
            (state.sent, state.acked, state.behind) = (sent, acked, state.behind.map(|_| behind));
        }
        ProxyView { id: self.id.clone(), since: self.since, audience, refused, types, complete }
    }
}

impl TypeState {
    /// Whether `name` was taken as it was published at `seq`.
    pub fn acked(&self, name: &str, seq: Seq) -> Acked {
        if !self.subscription.contains(name) {
            Acked::NotSubscribed
        } else if let Some(parked) = self.parked.get(name) {
            Acked::Refused(Arc::clone(&parked.error))
        } else if self.acked < seq || self.pending.iter().any(|n| &**n == name) {
            Acked::Pending
        } else {
            Acked::Acked
        }
    }
}

impl TypeState {
    /// With what another stream of the same type says: each has names of its own, the slowest speaks for both.
    fn join(&mut self, other: &Self) {
        let subscription = Arc::make_mut(&mut self.subscription);
        for name in other.subscription.names() {
            subscription.insert(Arc::clone(name));
        }
        if other.subscription.wildcard() {
            subscription.set_wildcard(true);
        }
        self.sent = self.sent.min(other.sent);
        self.set = self.set.max(other.set);
        self.acked = self.acked.min(other.acked);
        self.behind = self.behind.into_iter().chain(other.behind).min();
        Arc::make_mut(&mut self.pending).extend(other.pending.iter().cloned());
        Arc::make_mut(&mut self.parked)
            .extend(other.parked.iter().map(|(name, parked)| (Arc::clone(name), parked.clone())));
    }
}

/// A copy of what is known of one stream.
#[derive(Clone, Debug)]
pub struct ProxyView {
    /// The proxy.
    pub id: ProxyId,
    /// When the stream began.
    pub since: SystemTime,
    /// What it is served.
    pub audience: Option<Audience>,
    /// Why it is served nothing.
    pub refused: Option<String>,
    /// By type, in make-before-break order; absent: not asked for.
    pub types: BTreeMap<ResourceType, TypeState>,
    /// It has acknowledged everything at some moment of this stream.
    pub complete: bool,
}

impl ProxyView {
    /// Whether it has taken `name` as it was published at `seq`.
    pub fn acked(&self, kind: ResourceType, name: &str, seq: Seq) -> Acked {
        self.types.get(&kind).map_or(Acked::NotSubscribed, |t| t.acked(name, seq))
    }

    /// Whether it has taken this very `version`: a refusal of an older one says nothing of it.
    pub fn taken(&self, kind: ResourceType, name: &str, version: Version, seq: Seq) -> Acked {
        match self.acked(kind, name, seq) {
            Acked::Refused(_) if self.parked(kind, name).is_none_or(|parked| parked.version != version) => {
                Acked::Pending
            }
            taken => taken,
        }
    }

    /// Adds what other streams of the proxy say.
    fn join(&mut self, others: BTreeMap<ResourceType, TypeState>) {
        for (kind, other) in others {
            match self.types.entry(kind) {
                Entry::Vacant(vacant) => drop(vacant.insert(other)),
                Entry::Occupied(mut occupied) => occupied.get_mut().join(&other),
            }
        }
    }

    /// Its standing refusal of a name.
    pub fn parked(&self, kind: ResourceType, name: &str) -> Option<&Parked> {
        self.types.get(&kind)?.parked.get(name)
    }
}

/// All connected proxies; a proxy has as many entries as streams, the newest speaks for it.
#[derive(Debug, Default)]
pub struct Feedback {
    /// What they report of their load.
    pub loads: Arc<load::Loads>,
    proxies: DashMap<ProxyId, Vec<Arc<ProxyState>>>,
    changes: Arc<AtomicU64>,
}

impl Feedback {
    /// Nobody is connected yet; each proxy is to report its load every `load_interval`.
    pub fn new(load_interval: std::time::Duration) -> Self {
        Self { loads: Arc::new(load::Loads::new(load_interval)), ..Self::default() }
    }

    /// A stream begins. It is forgotten when the guard is dropped.
    pub fn connect(self: &Arc<Self>, id: ProxyId, since: SystemTime, who: Result<Audience, String>) -> Connected {
        let state = Arc::new(ProxyState {
            id: id.clone(),
            since,
            who: Mutex::new(who),
            types: Mutex::new(BTreeMap::new()),
            complete: AtomicBool::new(false),
            partial: AtomicBool::new(false),
            changes: Arc::clone(&self.changes),
        });
        self.proxies.entry(id).or_default().push(Arc::clone(&state));
        state.changed();
        Connected { feedback: Arc::clone(self), state }
    }

    /// A number that is another one whenever anything that [`Feedback::proxies`] tells has changed since.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Every connected proxy by its newest stream, and those of one type beside it; sorted by id. Its cursors are those at
    /// which each stream was looked at last.
    pub fn proxies(&self) -> Vec<ProxyView> {
        self.reaching(&|_, _, _, cursors| cursors)
    }

    /// The same, with cursors that reach as far as `extent` says.
    pub fn reaching(&self, extent: &Extent<'_>) -> Vec<ProxyView> {
        let mut all: Vec<_> = self.proxies.iter().filter_map(|e| speaker(e.value(), extent)).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

/// What a proxy's streams say together: the newest aggregated one, and all those of one type.
fn speaker(streams: &[Arc<ProxyState>], extent: &Extent<'_>) -> Option<ProxyView> {
    let partial = |stream: &&Arc<ProxyState>| stream.partial.load(Ordering::Relaxed);
    // A stream that is refused speaks only where no other does: anybody may claim a name.
    let served = || streams.iter().rev().filter(|stream| stream.served());
    let whole = served().find(|stream| !partial(stream));
    let newest = whole.or_else(|| served().next()).or_else(|| streams.last())?;
    let mut view = newest.view(extent);
    // Who bears the same name and is somebody else, a gRPC client beside a gateway, speaks for itself alone.
    let alike = |stream: &&Arc<ProxyState>| stream.audience() == view.audience;
    let parts: Vec<_> = served().filter(partial).filter(alike).collect();
    if !parts.is_empty() {
        let beside = parts.iter().filter(|part| !Arc::ptr_eq(part, newest));
        beside.for_each(|part| view.join(part.view(extent).types));
        let asked = [ResourceType::Cluster, ResourceType::Listener].iter().all(|kind| view.types.contains_key(kind));
        view.complete = asked && parts.iter().all(|part| part.complete.load(Ordering::Relaxed));
    }
    Some(view)
}

/// Keeps one stream in [`Feedback`].
#[derive(Debug)]
pub struct Connected {
    feedback: Arc<Feedback>,
    state: Arc<ProxyState>,
}

impl std::ops::Deref for Connected {
    type Target = ProxyState;

    fn deref(&self) -> &ProxyState {
        &self.state
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let proxies = &self.feedback.proxies;
        if let Some(mut streams) = proxies.get_mut(&self.state.id) {
            streams.retain(|s| !Arc::ptr_eq(s, &self.state));
        }
        proxies.remove_if(&self.state.id, |_, streams| streams.is_empty());
        self.state.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use ResourceType::{Cluster, Route};

    fn id(node: &str) -> ProxyId {
        ProxyId { site: "fra".into(), node: node.into() }
    }

    #[test]
    fn the_newest_stream_speaks_for_a_proxy_until_it_ends() {
        let feedback = Arc::new(Feedback::default());
        let old = feedback.connect(id("b"), SystemTime::now(), Err("old".into()));
        let new = feedback.connect(id("b"), SystemTime::now(), Err("new".into()));
        let _other = feedback.connect(id("a"), SystemTime::now(), Err("other".into()));
        let reasons = || feedback.proxies().into_iter().filter_map(|p| p.refused).collect::<Vec<_>>();
        assert_eq!(reasons(), ["other", "new"]);
        drop(new);
        assert_eq!(reasons(), ["other", "old"]);
        drop(old);
        assert_eq!(reasons(), ["other"]);
    }

    #[test]
    fn a_refused_stream_of_the_same_name_does_not_hide_a_served_one() {
        let feedback = Arc::new(Feedback::default());
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
        let _served = feedback.connect(id("a"), SystemTime::now(), Ok(audience.clone()));
        let _impostor = feedback.connect(id("a"), SystemTime::now(), Err("no certificate".into()));
        let proxies = feedback.proxies();
        assert_eq!(proxies.iter().map(|p| p.audience.clone()).collect::<Vec<_>>(), [Some(audience)]);
    }

    #[test]
    fn the_streams_of_a_grpc_client_say_together_what_it_has_and_nothing_of_a_gateway_of_its_name() {
        let feedback = Arc::new(Feedback::default());
        let gateway = Audience { site: "fra".into(), role: Role::Core, proven: true, cohort: "".into(), delta: true };
        let client = Audience { role: Role::Grpc, delta: false, ..gateway.clone() };
        let connect = |who: &Audience, name: &str| {
            let proxy = feedback.connect(id("a"), SystemTime::now(), Ok(who.clone()));
            proxy.set_partial(who.role == Role::Grpc);
            let mut subscription = Subscription::default();
            subscription.insert(name.into());
            proxy.set(Cluster, TypeState { subscription: Arc::new(subscription), ..TypeState::default() });
            proxy
        };
        let _streams = (connect(&client, "one"), connect(&client, "two"));
        let asked = || {
            let proxies = feedback.proxies();
            let names = proxies[0].types[&Cluster].subscription.names().iter().map(ToString::to_string);
            (proxies[0].audience.clone(), names.collect::<Vec<_>>())
        };
        assert_eq!(asked(), (Some(client.clone()), vec!["one".to_owned(), "two".to_owned()]));
        let _gateway = connect(&gateway, "three");
        let _third = connect(&client, "four");
        assert_eq!(asked(), (Some(gateway), vec!["three".to_owned()]));
    }

    fn subscription(names: &[&str], wildcard: bool) -> Arc<Subscription> {
        let mut subscription = Subscription::default();
        for name in names {
            subscription.insert((*name).into());
        }
        subscription.set_wildcard(wildcard);
        Arc::new(subscription)
    }

    fn parked(of: &str) -> Parked {
        Parked { version: Version::of(of.as_bytes()), error: "bad".into(), since: Seq(1) }
    }

    fn client() -> Audience {
        Audience { site: "fra".into(), role: Role::Grpc, proven: true, cohort: "".into(), delta: false }
    }

    #[test]
    fn of_two_streams_the_slowest_speaks_and_names_and_exceptions_are_those_of_both() {
        let states = [(3, 9, None, 7, "a", false), (4, 8, Some(Seq(2)), 6, "b", true)].map(
            |(sent, acked, behind, set, name, wildcard)| TypeState {
                subscription: subscription(&[name], wildcard),
                sent: Seq(sent),
                acked: Seq(acked),
                pending: Arc::new(vec![name.into()]),
                behind,
                parked: Arc::new([(name.into(), parked(name))].into()),
                set,
            },
        );
        for [mut one, other] in [states.clone(), [states[1].clone(), states[0].clone()]] {
            one.join(&other);
            Arc::make_mut(&mut one.pending).sort();
            let both = TypeState {
                subscription: subscription(&["a", "b"], true),
                sent: Seq(3),
                acked: Seq(8),
                pending: Arc::new(vec!["a".into(), "b".into()]),
                behind: Some(Seq(2)),
                parked: Arc::new(["a", "b"].map(|name| (name.into(), parked(name))).into()),
                set: 7,
            };
            assert_eq!(one, both);
        }
    }

    #[test]
    fn streams_of_one_type_are_complete_together_when_all_are_and_clusters_and_listeners_are_asked_for() {
        let feedback = Arc::new(Feedback::default());
        let stream = |kind: ResourceType| {
            let proxy = feedback.connect(id("a"), SystemTime::now(), Ok(client()));
            proxy.set_partial(true);
            proxy.set(kind, TypeState::default());
            proxy
        };
        let said = || {
            let mut proxies = feedback.proxies();
            let proxy = proxies.remove(0);
            (proxy.types.into_keys().collect::<Vec<_>>(), proxy.complete)
        };
        let clusters = stream(Cluster);
        clusters.set_complete();
        assert_eq!(said(), (vec![Cluster], false));
        let listeners = stream(ResourceType::Listener);
        assert_eq!(said(), (vec![Cluster, ResourceType::Listener], false));
        listeners.set_complete();
        assert!(said().1);
    }

    #[test]
    fn cursors_reach_as_far_as_nothing_concerned_them() {
        let feedback = Arc::new(Feedback::default());
        let proxy = feedback.connect(id("a"), SystemTime::now(), Ok(client()));
        let state = TypeState { sent: Seq(3), acked: Seq(2), behind: Some(Seq(1)), ..TypeState::default() };
        proxy.set(Cluster, state);
        let reaching = feedback.reaching(&|who, kind, _, seqs| {
            assert_eq!((who, kind), (&client(), Cluster));
            seqs.map(|seq| Seq(seq.0 + 10))
        });
        let state = &reaching[0].types[&Cluster];
        assert_eq!((state.sent, state.acked, state.behind), (Seq(13), Seq(12), Some(Seq(11))));
    }

    #[test]
    fn proxies_are_sorted_and_those_that_have_gone_leave_nothing() {
        let feedback = Arc::new(Feedback::new(std::time::Duration::from_secs(7)));
        assert_eq!(feedback.loads.interval(), std::time::Duration::from_secs(7));
        let connect = |node: u32| feedback.connect(id(&node.to_string()), SystemTime::now(), Err(String::new()));
        let streams: Vec<_> = (100..150).rev().map(connect).collect();
        assert!(feedback.proxies().windows(2).all(|pair| pair[0].id < pair[1].id));
        drop(streams);
        assert!(feedback.proxies.is_empty());
    }

    #[test]
    fn whatever_is_told_of_proxies_has_another_number_when_it_changes() {
        let feedback = Arc::new(Feedback::default());
        let mut last = feedback.changes();
        let mut other = |what: &str| {
            let now = feedback.changes();
            assert_ne!(std::mem::replace(&mut last, now), now, "{what}");
        };
        let proxy = feedback.connect(id("a"), SystemTime::now(), Err(String::new()));
        other("a stream begins");
        proxy.set_audience(Ok(client()));
        other("it is found who it is");
        proxy.set(Cluster, TypeState::default());
        other("a type moves");
        proxy.set_partial(true);
        other("it is of one type");
        proxy.set_complete();
        other("it is complete");
        drop(proxy);
        other("it ends");
    }

    #[test]
    fn a_refusal_of_an_older_version_says_nothing_of_the_newer_one() {
        let feedback = Arc::new(Feedback::default());
        let proxy = feedback.connect(id("a"), SystemTime::now(), Ok(client()));
        let refusing = TypeState {
            subscription: subscription(&["a"], false),
            parked: Arc::new([("a".into(), parked("old"))].into()),
            ..TypeState::default()
        };
        proxy.set(Cluster, refusing);
        let proxies = feedback.proxies();
        let taken = |version: &str| proxies[0].taken(Cluster, "a", Version::of(version.as_bytes()), Seq(0));
        assert_eq!((taken("old"), taken("new")), (Acked::Refused("bad".into()), Acked::Pending));
        assert_eq!(proxies[0].acked(Cluster, "b", Seq(0)), Acked::NotSubscribed);
    }

    #[test]
    fn acknowledged_means_subscribed_covered_and_no_exception() {
        let feedback = Arc::new(Feedback::default());
        let proxy = feedback.connect(id("a"), SystemTime::now(), Err(String::new()));
        assert_eq!(proxy.acked(Route, "r", Seq(1)), Acked::NotSubscribed);
        let mut wildcard = Subscription::default();
        wildcard.set_wildcard(true);
        let parked = Parked { version: Version::of(b"x"), error: "bad regex".into(), since: Seq(1) };
        proxy.set(
            Cluster,
            TypeState {
                subscription: Arc::new(wildcard),
                sent: Seq(9),
                acked: Seq(5),
                pending: Arc::new(vec!["late".into()]),
                behind: None,
                parked: Arc::new([("bad".into(), parked)].into()),
                set: 0,
            },
        );
        assert_eq!(proxy.acked(Cluster, "a", Seq(5)), Acked::Acked);
        assert_eq!(proxy.acked(Cluster, "a", Seq(6)), Acked::Pending);
        assert_eq!(proxy.acked(Cluster, "late", Seq(1)), Acked::Pending);
        assert_eq!(proxy.acked(Cluster, "bad", Seq(1)), Acked::Refused("bad regex".into()));
    }
}
