//! Streams that are polled only when their seat is woken, beside twins that are polled at every publish: they end with the
//! same, and what is claimed of them meanwhile is what they have acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};
use proptest::prelude::*;

use super::{world::*, *};
use crate::{
    feedback::TypeState,
    model::{Audience, Revision},
    serve::sotw,
    snapshot::{Publish, Reader, Seat, Views},
    xds::Resource,
};

const KINDS: [ResourceType; 5] = [Cluster, Endpoints, Listener, Route, Secret];
const NAMES: u8 = 6;
const STREAMS: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    /// Of each: a type, a name, and what of it: removed, or changed, a listener or route with a reference to a name.
    Publish(Vec<(usize, u8, Option<u8>)>),
    Ask(usize, usize, u8),
    Drop(usize, usize, u8),
    Everything(usize, usize, bool),
    Acknowledge(usize),
    Pass(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let (stream, kind) = (|| 0..STREAMS, || 0..KINDS.len());
    let change = (kind(), 0..NAMES, prop::option::weighted(0.75, 0..NAMES));
    prop_oneof![
        6 => prop::collection::vec(change, 1..4).prop_map(Op::Publish),
        4 => (stream(), kind(), 0..NAMES).prop_map(|(s, k, n)| Op::Ask(s, k, n)),
        2 => (stream(), kind(), 0..NAMES).prop_map(|(s, k, n)| Op::Drop(s, k, n)),
        1 => (stream(), kind(), any::<bool>()).prop_map(|(s, k, on)| Op::Everything(s, k, on)),
        6 => stream().prop_map(Op::Acknowledge),
        3 => prop_oneof![0..3_u16, 0..100_u16].prop_map(Op::Pass),
    ]
}

enum Form {
    Delta(Box<Session>),
    World(sotw::Session),
}

/// A response that is on its way.
struct Open {
    kind: ResourceType,
    nonce: u64,
    version: String,
    resources: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
}

/// One stream and its client, which accepts everything.
struct Stream {
    form: Form,
    seat: Option<Seat>,
    asked: BTreeMap<ResourceType, BTreeSet<String>>,
    has: BTreeMap<ResourceType, BTreeMap<Arc<str>, Arc<Resource>>>,
    open: Vec<Open>,
    last: BTreeMap<ResourceType, (String, String)>,
    states: BTreeMap<ResourceType, TypeState>,
    complete: bool,
}

impl Stream {
    fn new(delta: bool, seat: Option<Seat>, now: Instant) -> Self {
        let form = if delta {
            Form::Delta(Box::new(session(Role::Edge, now)))
        } else {
            let drain = Duration::from_secs(600);
            let client = Client { role: Role::Edge, proven: true, drain, expires: false, unwraps: false };
            Form::World(sotw::Session::new(client, now))
        };
        Self {
            form,
            seat,
            asked: BTreeMap::new(),
            has: BTreeMap::new(),
            open: Vec::new(),
            last: BTreeMap::new(),
            states: BTreeMap::new(),
            complete: false,
        }
    }

    fn names(&self, kind: ResourceType) -> BTreeSet<String> {
        self.asked.get(&kind).cloned().unwrap_or_default()
    }

    fn ask(&mut self, kind: ResourceType, name: &str, on: bool, content: &Content, now: Instant) {
        let asked = self.asked.entry(kind).or_default();
        let changed = if on { asked.insert(name.to_owned()) } else { asked.remove(name) };
        if !changed {
            return;
        }
        let asked = asked.clone();
        self.has.entry(kind).or_default().retain(|n, _| asked.contains("*") || asked.contains(&**n));
        if asked.is_empty() {
            // A client that watches nothing of a type drops what still comes of it, without a word.
            self.open.retain(|open| open.kind != kind);
        }
        let url = kind.url().to_owned();
        match &mut self.form {
            Form::Delta(session) => {
                let (subscribe, unsubscribe) = if on { (vec![name], vec![]) } else { (vec![], vec![name]) };
                let (subscribe, unsubscribe) = (owned(&subscribe), owned(&unsubscribe));
                session
                    .on_request(Request { url, subscribe, unsubscribe, ..Request::default() }, content, now)
                    .unwrap();
            }
            Form::World(session) => {
                let names = asked.into_iter().collect();
                let (version, nonce) = self.last.get(&kind).cloned().unwrap_or_default();
                let request = sotw::Request { url, names, version, nonce, error: None };
                session.on_request(&request, content, now).unwrap();
            }
        }
    }

    /// Acknowledges all that has come.
    fn acknowledge(&mut self, content: &Content, now: Instant) {
        for open in std::mem::take(&mut self.open) {
            let asked = self.names(open.kind);
            let has = self.has.entry(open.kind).or_default();
            if open.kind.wildcard() && matches!(self.form, Form::World(_)) {
                has.clear();
            }
            let wanted = |name: &str| asked.contains("*") || asked.contains(name);
            has.extend(open.resources.into_iter().filter(|r| wanted(&r.name)).map(|r| (Arc::clone(&r.name), r)));
            open.removed.iter().for_each(|name| drop(has.remove(name)));
            let (url, nonce) = (open.kind.url().to_owned(), format!("{:x}", open.nonce));
            match &mut self.form {
                Form::Delta(session) => {
                    session.on_request(Request { url, nonce, ..Request::default() }, content, now).unwrap();
                }
                Form::World(session) => {
                    let names = asked.into_iter().collect();
                    self.last.insert(open.kind, (open.version.clone(), nonce.clone()));
                    let request = sotw::Request { url, names, version: open.version, nonce, error: None };
                    session.on_request(&request, content, now).unwrap();
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.form {
            Form::Delta(session) => session.next_deadline(),
            Form::World(session) => session.next_deadline(),
        }
    }

    /// Polls it if there is a reason: `stirred`, its deadline, or its seat.
    fn poll(&mut self, stirred: bool, content: &Content, now: Instant) {
        let woken = self.seat.as_ref().is_none_or(woken);
        if !stirred && !woken && self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let (sites, watermarks) = (Sites::default(), Watermarks::new());
        let moment = Moment { now, fresh: true, sites: &sites, watermarks: &watermarks };
        for round in 0.. {
            assert!(round < 100, "a hot loop");
            let open = match &mut self.form {
                Form::Delta(session) => session.poll(content, &moment).map(|send| Open {
                    kind: send.kind.unwrap(),
                    nonce: send.frame.nonce,
                    version: String::new(),
                    resources: send.frame.resources.clone(),
                    removed: send.frame.removed.clone(),
                }),
                Form::World(session) => session.poll(content, &moment).map(|sent| Open {
                    kind: sent.kind,
                    nonce: sent.nonce,
                    version: sent.version.to_string(),
                    resources: sent.resources,
                    removed: vec![],
                }),
            };
            let Some(open) = open else { break };
            self.open.push(open);
        }
        let reports = match &mut self.form {
            Form::Delta(session) => {
                self.complete |= session.complete(content, None);
                session.reports()
            }
            Form::World(session) => {
                self.complete |= session.complete(content, None);
                session.reports()
            }
        };
        self.states.extend(reports);
        if let Some(seat) = &mut self.seat {
            match &self.form {
                Form::Delta(session) => seat.follow(session.follows(), content),
                Form::World(session) => seat.follow(session.follows(), content),
            }
        }
    }

    /// What status reads of it is true.
    fn claims(&self, content: &Content) {
        for (kind, state) in &self.states {
            let [acked] = content.extent(*kind, &state.subscription, [state.acked]);
            let has = |name: &str| self.has.get(kind).and_then(|has| has.get(name));
            let open = |name: &str| state.pending.iter().any(|n| **n == *name) || state.parked.contains_key(name);
            let asked = self.names(*kind);
            let asks = |name: &str| state.subscription.contains(name) && (asked.contains("*") || asked.contains(name));
            for (name, entry) in content.entries(*kind).filter(|(n, e)| e.seq <= acked && asks(n) && !open(n)) {
                let version = has(name).map(|r| r.version);
                assert_eq!(version, Some(entry.resource.version), "{} {name} up to {acked}", kind.short());
            }
            let gone = content.gone(*kind, Seq(0)).filter(|(n, t)| t.seq <= acked && asks(n));
            for (name, _) in gone.filter(|_| *kind == Listener && matches!(self.form, Form::Delta(_))) {
                assert!(has(name).is_none(), "{name} went, up to {acked}");
            }
        }
    }
}

struct Stage {
    views: Views,
    reader: Reader,
    now: Instant,
    edits: u32,
    /// Each beside its twin.
    streams: Vec<(Stream, Stream)>,
}

impl Stage {
    fn new() -> Self {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
        let (reader, now) = (views.open(&audience), Instant::now());
        let stream = |i: usize| {
            let delta = i < STREAMS - 1;
            (Stream::new(delta, Some(reader.seat()), now), Stream::new(delta, None, now))
        };
        let streams = (0..STREAMS).map(stream).collect();
        let mut stage = Self { views, reader, now, edits: 0, streams };
        stage.publish(&[]);
        stage
    }

    fn publish(&mut self, changes: &[(usize, u8, Option<u8>)]) {
        let mut publish = Publish::default();
        for (kind, name, change) in changes {
            let (kind, name) = (KINDS[*kind], format!("n{name}"));
            self.edits += 1;
            let Some(reference) = change else {
                publish.removals.push((kind, name.as_str().into()));
                continue;
            };
            let mut resource = resource(kind, &name, &format!("{}", self.edits));
            let reference: Arc<str> = format!("n{reference}").into();
            match kind {
                Cluster => resource.children = vec![(Endpoints, name.as_str().into())],
                Route => resource.requires = vec![(Cluster, reference)],
                Listener => {
                    resource.children = vec![(Secret, Arc::clone(&reference))];
                    resource.requires = vec![(Route, reference)];
                }
                _ => {}
            }
            publish.upserts.push(Arc::new(resource));
        }
        self.reader.view().publish(self.views.next_seq(), Revision(1), publish);
    }

    fn step(&mut self, op: &Op) {
        let mut stirred = None;
        match op {
            Op::Publish(changes) => self.publish(changes),
            Op::Pass(seconds) => self.now += Duration::from_secs((*seconds).into()),
            Op::Ask(stream, ..) | Op::Drop(stream, ..) | Op::Everything(stream, ..) | Op::Acknowledge(stream) => {
                stirred = Some(*stream);
            }
        }
        let content = self.reader.view().read();
        for (i, (stream, twin)) in self.streams.iter_mut().enumerate() {
            for one in [stream, twin] {
                if stirred == Some(i) {
                    let now = self.now;
                    match op {
                        Op::Ask(_, kind, name) => one.ask(KINDS[*kind], &format!("n{name}"), true, &content, now),
                        Op::Drop(_, kind, name) => one.ask(KINDS[*kind], &format!("n{name}"), false, &content, now),
                        Op::Everything(_, kind, on) => one.ask(KINDS[*kind], "*", *on, &content, now),
                        _ => one.acknowledge(&content, now),
                    }
                }
                one.poll(stirred == Some(i), &content, self.now);
                one.claims(&content);
            }
        }
    }

    /// Time goes by from deadline to deadline; nobody is polled without a reason.
    fn settle(&mut self) {
        for _ in 0..60 {
            (0..STREAMS).for_each(|stream| self.step(&Op::Acknowledge(stream)));
            let next = self.streams.iter().flat_map(|(a, b)| [a.deadline(), b.deadline()]).flatten().min();
            self.now = next.map_or(self.now, |next| next.max(self.now));
            self.step(&Op::Pass(0));
        }
    }

    fn both_are_equal(&self) {
        let content = self.reader.view().read();
        for (i, (stream, twin)) in self.streams.iter().enumerate() {
            let versions = |one: &Stream, kind| -> BTreeMap<Arc<str>, _> {
                let has = one.has.get(&kind).into_iter().flatten();
                has.map(|(name, resource)| (Arc::clone(name), resource.version)).collect()
            };
            for kind in KINDS {
                assert_eq!(versions(stream, kind), versions(twin, kind), "stream {i}, {}", kind.short());
                if let Some(state) = stream.states.get(&kind) {
                    let twins = &twin.states[&kind];
                    assert_eq!(state.pending, twins.pending, "stream {i}, {}", kind.short());
                    let reach = |state: &TypeState| content.extent(kind, &state.subscription, [state.acked])[0];
                    assert_eq!(reach(state), reach(twins), "stream {i}, {}", kind.short());
                }
            }
            assert_eq!(stream.complete, twin.complete, "stream {i}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_that_is_woken_by_its_groups_alone_ends_as_one_that_is_polled_at_every_publish(
        ops in prop::collection::vec(op(), 1..60)
    ) {
        let mut stage = Stage::new();
        ops.iter().for_each(|op| stage.step(op));
        stage.settle();
        stage.both_are_equal();
    }
}

#[test]
fn what_is_let_go_of_in_a_stale_request_is_not_told_as_taken() {
    let mut stage = Stage::new();
    // A listener that names a route, and the route; a state-of-the-world stream.
    for op in [
        Op::Publish(vec![(2, 0, Some(1))]),
        Op::Ask(3, 3, 1),
        Op::Publish(vec![(3, 1, Some(0))]),
        Op::Acknowledge(3),
        Op::Ask(3, 3, 2),
        Op::Drop(3, 3, 1),
        Op::Everything(3, 3, true),
    ] {
        stage.step(&op);
    }
    stage.settle();
    stage.both_are_equal();
}

#[test]
fn a_name_that_is_asked_for_wakes_its_stream_before_its_set_has_stood_and_is_a_group() {
    let mut world = World::running();
    world.publish(vec![eds("c", "1")], &[]);
    world.subscribe(Endpoints, &["c"]);
    assert_eq!(world.settle(), ["EDS +c"]);
    let seat = world.seat();
    world.publish(vec![eds("c", "2")], &[]);
    assert!(woken(&seat));
    assert_eq!(world.settle(), ["EDS +c"]);
}

#[test]
fn a_set_that_grows_name_by_name_is_a_group_when_it_has_stood_for_a_second() {
    let mut world = World::running();
    world.after(1);
    let edits = std::cell::Cell::new(0);
    let follows_everything = |world: &mut World| {
        let seat = world.seat();
        edits.set(edits.get() + 1);
        world.publish(vec![resource(Secret, "nobody's", &edits.get().to_string())], &[]);
        assert_eq!(world.out().len(), 0);
        woken(&seat)
    };
    assert!(!follows_everything(&mut world));
    for name in ["c", "d"] {
        world.subscribe(Endpoints, &[name]);
        assert_eq!(world.settle(), [format!("EDS -{name}")]);
        assert_eq!(world.session.next_deadline(), Some(world.now + STOOD));
        assert!(follows_everything(&mut world));
    }
    world.now += STOOD;
    assert_eq!(world.out().len(), 0);
    assert!(!follows_everything(&mut world));
}

#[test]
fn a_stream_that_has_all_is_woken_by_what_concerns_it_alone() {
    let mut world = World::running();
    world.after(1);
    assert!(world.session.complete(&world.reader.view().read(), None));
    let seat = world.seat();
    world.publish(vec![eds("other", "1")], &[]);
    assert!(!woken(&seat));
}

#[test]
fn what_waits_is_woken_by_names_that_its_stream_does_not_ask_for() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1")], &[]);
    world.subscribe(Endpoints, &["a"]);
    assert_eq!(world.out().len() + world.after(1).len(), 0, "its cluster is there, so it is still to come");
    let seat = world.seat();
    world.publish(vec![], &[(Cluster, "a")]);
    assert!(woken(&seat));
    assert_eq!(world.out(), ["EDS -a"]);
}

#[test]
fn a_stream_that_lacks_only_what_it_does_not_ask_for_is_woken_when_that_goes() {
    let mut world = World::running();
    world.publish(vec![resource(Secret, "s", "1")], &[]);
    world.after(1);
    let complete = |world: &mut World| world.session.complete(&world.reader.view().read(), None);
    assert!(!complete(&mut world), "the listener has a secret");
    let seat = world.seat();
    world.publish(vec![], &[(Secret, "s")]);
    assert!(woken(&seat));
    assert_eq!(world.out().len(), 0);
    assert!(complete(&mut world));
}

#[test]
fn a_stream_that_asks_for_nothing_is_woken_by_the_first_publish_and_has_all_then() {
    let mut world = World::of(Role::Grpc);
    for kind in [Cluster, Listener] {
        world.subscribe(kind, &[]);
    }
    assert_eq!(world.out().len(), 0);
    let seat = world.seat();
    world.publish(vec![], &[]);
    assert!(woken(&seat));
    assert_eq!(world.out().len(), 0);
    assert!(world.session.complete(&world.reader.view().read(), None));
}

#[test]
fn what_went_before_the_wildcard_came_is_not_waited_for() {
    for all in ["*", "xdstp:///envoy.config.route.v3.RouteConfiguration/*"] {
        let name = if all == "*" { "r" } else { "xdstp:///envoy.config.route.v3.RouteConfiguration/r" };
        let mut world = World::new();
        let mut listener = lds("1");
        listener.requires = vec![(Route, name.into())];
        world.publish(vec![listener], &[]);
        world.subscribe(Route, &["x"]);
        assert_eq!(world.settle(), ["RDS -x"]);
        // Nothing of this wakes the stream.
        world.publish(vec![resource(Route, name, "1")], &[]);
        world.publish(vec![], &[(Route, name)]);
        world.subscribe(Route, &[all]);
        world.settle();
        let reports = world.session.reports();
        let (_, routes) = reports.into_iter().find(|(kind, _)| *kind == Route).expect("something new");
        assert_eq!(routes.pending.len(), 0, "{:?} of {all}", routes.pending);
    }
}
