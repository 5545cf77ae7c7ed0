//! A client that behaves as Envoy does, against random edits, delays, refusals, reconnects, and replicas that are cut off
//! from the store: it never holds a route to a cluster that it lacks, nor one to a service that no core has; nothing goes
//! back to an older version, a replica that may be behind removes nothing, and when everything is quiet it holds exactly
//! what the view says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};
use proptest::prelude::*;

use super::{world::*, *};
use crate::{
    model::{Audience, Revision, Watermark},
    snapshot::{Reader, Views},
    xds::{NeedAt, Resource, ServiceNeed},
};

const CLUSTERS: u8 = 4;
const ROUTES: u8 = 2;

#[derive(Clone, Debug)]
enum Op {
    SetCluster(u8, bool),
    BumpEndpoints(u8),
    RemoveCluster(u8),
    SetRoute(u8, u8, bool),
    BumpListener(u8),
    RemoveRoute(u8),
    BumpSecret,
    /// The client reads so many responses, and answers all that it has read if the flag is set.
    Read(u8, bool),
    Advance(u16),
    /// With some reported versions untrue.
    Reconnect(u8),
    /// To the other replica.
    Move(u8),
    /// The replica sees no changes any more; it does not know yet.
    Cut,
    /// It knows.
    Notice,
    /// It sees them again, with all that it missed.
    Heal,
    /// It finds out whether it has read everything.
    Confirm,
    /// The core has taken all that was edited.
    Cover,
}

fn op() -> impl Strategy<Value = Op> {
    let rarely = || prop::bool::weighted(0.15);
    prop_oneof![
        4 => (0..CLUSTERS, rarely()).prop_map(|(i, bad)| Op::SetCluster(i, bad)),
        1 => (0..CLUSTERS).prop_map(Op::BumpEndpoints),
        3 => (0..CLUSTERS).prop_map(Op::RemoveCluster),
        4 => (0..ROUTES, any::<u8>(), rarely()).prop_map(|(j, mask, bad)| Op::SetRoute(j, mask, bad)),
        1 => (0..ROUTES).prop_map(Op::BumpListener),
        1 => (0..ROUTES).prop_map(Op::RemoveRoute),
        1 => Just(Op::BumpSecret),
        8 => (0..4_u8, any::<bool>()).prop_map(|(n, answer)| Op::Read(n, answer)),
        2 => prop_oneof![0..8_u16, 0..900_u16].prop_map(Op::Advance),
        1 => any::<u8>().prop_map(Op::Reconnect),
        1 => any::<u8>().prop_map(Op::Move),
        1 => prop_oneof![Just(Op::Cut), Just(Op::Notice)],
        1 => Just(Op::Heal),
        2 => Just(Op::Confirm),
        2 => Just(Op::Cover),
    ]
}

/// What the objects say.
#[derive(Default)]
struct Desired {
    edits: u32,
    clusters: BTreeMap<u8, String>,
    endpoints: BTreeMap<u8, String>,
    routes: BTreeMap<u8, (String, BTreeSet<u8>)>,
    /// Since which edit the core can have each cluster, which is a service there.
    ages: BTreeMap<u8, u32>,
    listeners: BTreeMap<u8, String>,
}

impl Desired {
    fn payload(&mut self, bad: bool) -> String {
        self.edits += 1;
        format!("{}{}", if bad { "bad" } else { "good" }, self.edits)
    }

    fn route(&self, j: u8) -> Resource {
        let (payload, clusters) = &self.routes[&j];
        let mut route = resource(Route, &format!("r{j}"), payload);
        route.requires = clusters.iter().map(|c| (Cluster, format!("c{c}").into())).collect();
        let need = |c: &u8| ServiceNeed {
            service: format!("c{c}").into(),
            group: "g".into(),
            sites: vec![NeedAt { site: "core".into(), revision: Revision(self.ages[c].into()) }],
        };
        route.services = clusters.iter().map(need).collect();
        route
    }

    fn listener(&self, j: u8) -> Resource {
        let mut listener = resource(Listener, &format!("l{j}"), &self.listeners[&j]);
        listener.requires = vec![(Route, format!("r{j}").into())];
        listener.children = vec![(Secret, "s".into())];
        listener
    }
}

/// Envoy's side.
#[derive(Default)]
struct Client {
    has: BTreeMap<ResourceType, BTreeMap<String, Arc<Resource>>>,
    asked: BTreeMap<ResourceType, BTreeSet<String>>,
    answers: Vec<(ResourceType, u64, Option<String>)>,
    /// Clusters of which it refused a version: a route to them is its own fault.
    refused: BTreeSet<String>,
    /// Clusters that still wait for their first assignment, at most 15 s (`initial_fetch_timeout`).
    warming: BTreeMap<String, std::time::Instant>,
    /// Clusters that it did not have before a response which it has not answered yet.
    fresh: BTreeMap<String, u64>,
    /// Routes of a refused response: the server cannot know whether they are live, and takes them for lacking.
    doubtful: BTreeSet<String>,
    /// Routes that it brought to this stream and has taken nothing of since, and when: in another version, the server
    /// cannot know what they name.
    brought: BTreeMap<String, std::time::Instant>,
    /// Answers were withheld while time went by: then waits may have run into their limit.
    stalled: bool,
}

/// A replica that serves nobody now.
struct Replica {
    views: Views,
    reader: Reader,
    fresh: bool,
    link: Link,
}

/// One publish.
type Edit = (Vec<Resource>, Vec<(ResourceType, String)>);

/// Between a replica and the store.
#[derive(Default)]
struct Link {
    cut: bool,
    /// What it missed.
    missed: Vec<Edit>,
}

struct Model {
    world: World,
    /// Of the replica that serves.
    link: Link,
    other: Replica,
    desired: Desired,
    client: Client,
    wire: VecDeque<Send>,
    nonces: BTreeSet<u64>,
    /// Sent while no Cluster could be: a route configuration that the client lacks is not delayed even then.
    crowded: BTreeSet<u64>,
    since_edit: u32,
    /// Responses that the client has read; its whims depend on it (nonces differ from run to run).
    count: u32,
}

impl Model {
    fn new() -> Self {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
        let other = Replica { reader: views.open(&audience), views, fresh: true, link: Link::default() };
        let mut world = World::new();
        world.site("core", Role::Core, Watermark { connected: true, ..Watermark::default() });
        let mut model = Self {
            world,
            link: Link::default(),
            other,
            desired: Desired::default(),
            client: Client::default(),
            wire: VecDeque::new(),
            nonces: BTreeSet::new(),
            crowded: BTreeSet::new(),
            since_edit: 0,
            count: 0,
        };
        model.publish(vec![resource(Secret, "s", "good")], &[]);
        model.world.request(Cluster, Request::default());
        model
    }

    fn publish(&mut self, upserts: Vec<Resource>, removals: &[(ResourceType, String)]) {
        self.since_edit = 0;
        for _ in 0..2 {
            self.link.missed.push((upserts.clone(), removals.to_vec()));
            self.catch_up_with_store();
            self.swap();
        }
    }

    /// The other replica is the one of which we speak.
    fn swap(&mut self) {
        std::mem::swap(&mut self.world.views, &mut self.other.views);
        std::mem::swap(&mut self.world.reader, &mut self.other.reader);
        std::mem::swap(&mut self.world.fresh, &mut self.other.fresh);
        std::mem::swap(&mut self.link, &mut self.other.link);
    }

    fn catch_up_with_store(&mut self) {
        if self.link.cut {
            return;
        }
        for (upserts, removals) in std::mem::take(&mut self.link.missed) {
            let removals: Vec<_> = removals.iter().map(|(k, n)| (*k, n.as_str())).collect();
            self.world.publish(upserts, &removals);
        }
    }

    fn heal(&mut self) {
        self.since_edit = 0;
        self.link.cut = false;
        self.catch_up_with_store();
        self.world.fresh = true;
    }

    fn confirm(&mut self) {
        if self.world.session.unsure() {
            self.world.session.trust(!self.link.cut);
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::SetCluster(i, bad) => {
                let payload = self.desired.payload(bad);
                self.desired.clusters.insert(i, payload.clone());
                self.desired.ages.entry(i).or_insert(self.desired.edits);
                let new = self.desired.payload(false);
                let assignment = self.desired.endpoints.entry(i).or_insert(new).clone();
                let name = format!("c{i}");
                self.publish(vec![cluster(&name, &payload), resource(Endpoints, &name, &assignment)], &[]);
            }
            Op::BumpEndpoints(i) if self.desired.clusters.contains_key(&i) => {
                let payload = self.desired.payload(false);
                self.desired.endpoints.insert(i, payload.clone());
                self.publish(vec![resource(Endpoints, &format!("c{i}"), &payload)], &[]);
            }
            Op::RemoveCluster(i) if self.desired.clusters.remove(&i).is_some() => {
                self.desired.ages.remove(&i);
                self.desired.endpoints.remove(&i);
                let mut upserts = Vec::new();
                for j in 0..ROUTES {
                    if self.desired.routes.get(&j).is_some_and(|(_, used)| used.contains(&i)) {
                        let payload = self.desired.payload(false);
                        if let Some(route) = self.desired.routes.get_mut(&j) {
                            route.0 = payload;
                            route.1.remove(&i);
                        }
                        upserts.push(self.desired.route(j));
                    }
                }
                let name = format!("c{i}");
                self.publish(upserts, &[(Cluster, name.clone()), (Endpoints, name)]);
            }
            Op::SetRoute(j, mask, bad) => {
                let payload = self.desired.payload(bad);
                let used = self.desired.clusters.keys().copied().filter(|i| mask & (1 << i) != 0).collect();
                self.desired.routes.insert(j, (payload, used));
                let new = self.desired.payload(false);
                self.desired.listeners.entry(j).or_insert(new);
                self.publish(vec![self.desired.route(j), self.desired.listener(j)], &[]);
            }
            Op::BumpListener(j) if self.desired.listeners.contains_key(&j) => {
                let payload = self.desired.payload(false);
                self.desired.listeners.insert(j, payload);
                self.publish(vec![self.desired.listener(j)], &[]);
            }
            Op::RemoveRoute(j) if self.desired.routes.remove(&j).is_some() => {
                self.desired.listeners.remove(&j);
                self.publish(vec![], &[(Listener, format!("l{j}")), (Route, format!("r{j}"))]);
            }
            Op::BumpSecret => {
                let payload = self.desired.payload(false);
                self.publish(vec![resource(Secret, "s", &payload)], &[]);
            }
            Op::Read(count, answer) => self.read(count, answer),
            Op::Advance(seconds) => {
                // A client that keeps up: then no wait may ever run into its limit.
                self.catch_up();
                self.client.stalled |= seconds > 0 && !self.client.answers.is_empty();
                self.world.now += Duration::from_secs(seconds.into());
            }
            Op::Reconnect(lies) => self.reconnect(lies),
            other => self.replica_step(&other),
        }
        self.pump();
    }

    fn replica_step(&mut self, op: &Op) {
        match *op {
            Op::Move(lies) => {
                self.swap();
                self.reconnect(lies);
            }
            Op::Cut => self.link.cut = true,
            Op::Notice => self.world.fresh &= !self.link.cut,
            Op::Heal => self.heal(),
            Op::Confirm => self.confirm(),
            Op::Cover => self.cover(),
            _ => {}
        }
    }

    fn cover(&mut self) {
        let revision = Revision(self.desired.edits.into());
        self.world.site("core", Role::Core, Watermark { revision, connected: true, ..Watermark::default() });
    }

    /// What holds of a response at the moment when it is sent.
    fn judge(&self, send: &Send) {
        let behind = self.world.session.stale() || !self.world.fresh;
        assert!(!behind || send.frame.removed.is_empty(), "removed by a replica that may be behind: {send:?}");
        let covered = self.world.watermarks["core"].revision;
        let has = self.client.has.get(&Route);
        for route in send.frame.resources.iter().filter(|r| r.kind == Route) {
            let Some(old) = has.and_then(|routes| routes.get(&*route.name)) else { continue };
            let known = |need: &ServiceNeed| old.services.iter().any(|s| s.service == need.service);
            let early = route.services.iter().find(|need| need.sites[0].revision > covered && !known(need));
            let brought = self.client.brought.get(&*route.name);
            let unknown = self.client.doubtful.contains(&*route.name)
                || brought.is_some_and(|at| self.world.now >= *at + Duration::from_secs(15));
            assert!(unknown || early.is_none(), "{route:?} came before the core had {early:?}");
        }
    }

    /// The server sends while the connection has room.
    fn pump(&mut self) {
        while self.wire.len() < 2 {
            let Some(send) = self.world.poll() else { return };
            self.since_edit += 1;
            assert!(self.since_edit < 400, "a hot loop");
            assert!(self.nonces.insert(send.frame.nonce), "a nonce twice");
            self.judge(&send);
            if let Some(kind) = send.kind {
                let waiting = self.wire.iter().filter(|s| s.kind == Some(kind)).count();
                let unanswered = self.client.answers.iter().filter(|a| a.0 == kind).count();
                let limit = if kind == Cluster { 4 } else { 1 };
                let clusters = self.wire.iter().filter(|s| s.kind == Some(Cluster)).count()
                    + self.client.answers.iter().filter(|a| a.0 == Cluster).count();
                // Nor does it wait until the clusters are compared.
                if clusters >= 4 || self.world.session.unsure() {
                    self.crowded.insert(send.frame.nonce);
                }
                assert!(waiting + unanswered < limit, "too many {} responses", kind.short());
            }
            self.wire.push_back(send);
        }
    }

    fn read(&mut self, count: u8, answer: bool) {
        for _ in 0..count {
            let Some(send) = self.wire.pop_front() else { break };
            self.apply(&send);
            self.pump();
        }
        if answer {
            self.answer();
        }
    }

    fn catch_up(&mut self) {
        loop {
            self.confirm();
            self.pump();
            self.read(16, true);
            self.client.stalled &= !self.client.answers.is_empty();
            if self.wire.is_empty() && self.world.poll().map(|s| self.wire.push_back(s)).is_none() {
                return;
            }
        }
    }

    fn apply(&mut self, send: &Send) {
        let kind = send.kind.expect("a type of ours");
        let bad = |r: &Resource| r.payload.starts_with(b"bad");
        let refused: Vec<&str> = send.frame.resources.iter().filter(|r| bad(r)).map(|r| &*r.name).collect();
        // What else stood in a refused response may be live or not (O9, O29).
        self.count += 1;
        let partly = kind == Cluster || self.count.is_multiple_of(2);
        for r in send.frame.resources.iter().filter(|r| !bad(r)) {
            let wanted = kind.wildcard() || self.client.asked.get(&kind).is_some_and(|n| n.contains(&*r.name));
            if !wanted || !(refused.is_empty() || partly) {
                continue;
            }
            if kind == Route {
                let doubtful = self.client.doubtful.contains(&*r.name);
                for (_, cluster) in &r.requires {
                    let known = self.client.has.get(&Cluster).is_some_and(|c| c.contains_key(&**cluster));
                    let had = self.client.has.get(&Route).is_some_and(|routes| routes.contains_key(&*r.name));
                    let cold = had
                        && !doubtful
                        && !self.client.stalled
                        && !self.client.refused.contains(&**cluster)
                        && self.client.fresh.contains_key(&**cluster);
                    assert!(!cold, "{r:?} came before {cluster} was acknowledged");
                    let bare = (!had || doubtful) && self.crowded.contains(&send.frame.nonce);
                    assert!(known || bare || self.client.refused.contains(&**cluster), "{r:?} came before {cluster}");
                }
            }
            let older = self.client.has.get(&kind).and_then(|has| has.get(&*r.name));
            assert!(older.is_none_or(|old| edit(old) <= edit(r)), "{r:?} went back");
            if kind == Cluster && !self.client.has.get(&Endpoints).is_some_and(|e| e.contains_key(&*r.name)) {
                self.client.warming.insert(r.name.to_string(), self.world.now);
            }
            if kind == Cluster && !self.client.has.get(&kind).is_some_and(|c| c.contains_key(&*r.name)) {
                self.client.fresh.insert(r.name.to_string(), send.frame.nonce);
            }
            self.client.warming.retain(|c, _| kind != Endpoints || **c != *r.name);
            self.client.has.entry(kind).or_default().insert(r.name.to_string(), Arc::clone(r));
        }
        if kind == Route {
            for r in &send.frame.resources {
                let name = r.name.to_string();
                if refused.is_empty() {
                    self.client.brought.remove(&name);
                    self.client.doubtful.remove(&name);
                } else {
                    self.client.doubtful.insert(name);
                }
            }
        }
        if kind == Cluster {
            self.client.refused.extend(refused.iter().map(ToString::to_string));
        }
        if matches!(kind, Cluster | Endpoints) {
            self.client.warming.retain(|c, _| !send.frame.removed.iter().any(|n| **c == **n));
        }
        if kind.wildcard() {
            for name in &send.frame.removed {
                self.client.has.entry(kind).or_default().remove(&**name);
                self.no_route_dangles(name);
            }
        }
        let error = match refused.as_slice() {
            [] => None,
            names if self.count.is_multiple_of(3) => Some(format!("Error adding {}: bad", names.join(", "))),
            _ => Some("something is wrong".into()),
        };
        self.client.answers.push((kind, send.frame.nonce, error));
        self.subscribe(kind);
    }

    fn no_route_dangles(&self, removed: &str) {
        for route in self.client.has.get(&Route).into_iter().flat_map(BTreeMap::values) {
            let dangles = route.requires.iter().any(|(_, c)| &**c == removed);
            assert!(!dangles || self.client.refused.contains(removed), "{removed} went under {route:?}");
        }
    }

    /// Names follow from parents: assignments from clusters, routes and secrets from listeners.
    fn subscribe(&mut self, parent: ResourceType) {
        let parents = self.client.has.get(&parent).cloned().unwrap_or_default();
        let children = |kind: ResourceType| -> BTreeSet<String> {
            let named = parents.values().flat_map(|r| r.children.iter().chain(&r.requires));
            named.filter(|(k, _)| *k == kind).map(|(_, n)| n.to_string()).collect()
        };
        let kinds: &[ResourceType] = match parent {
            Cluster => &[Endpoints],
            Listener => &[Route, Secret],
            _ => &[],
        };
        for kind in kinds {
            let (new, old) = (children(*kind), self.client.asked.get(kind).cloned().unwrap_or_default());
            if new == old {
                continue;
            }
            let gone: Vec<String> = old.difference(&new).cloned().collect();
            for name in &gone {
                self.client.has.entry(*kind).or_default().remove(name);
            }
            if new.is_empty() {
                // Nobody watches the type any more: what still comes is dropped without a word (O12).
                self.client.answers.retain(|a| a.0 != *kind);
                self.wire.retain(|s| s.kind != Some(*kind));
            }
            let request =
                Request { subscribe: new.difference(&old).cloned().collect(), unsubscribe: gone, ..Request::default() };
            self.client.asked.insert(*kind, new);
            self.world.request(*kind, request);
        }
    }

    /// Clusters are acknowledged when all are warm (O5); listeners are asked for then.
    fn answer(&mut self) {
        let (now, wait) = (self.world.now, Duration::from_secs(15));
        self.client.warming.retain(|_, since| now < *since + wait);
        let warm = self.client.warming.is_empty();
        let (now, later) = std::mem::take(&mut self.client.answers).into_iter().partition(|a| warm || a.0 != Cluster);
        self.client.answers = later;
        let now: Vec<_> = now;
        for (kind, nonce, error) in now {
            self.client.fresh.retain(|_, first| *first != nonce);
            self.world.answer(kind, nonce, error.as_deref());
            if kind == Cluster && !self.client.asked.contains_key(&Listener) {
                self.client.asked.insert(Listener, BTreeSet::new());
                self.world.request(Listener, Request::default());
            }
        }
    }

    fn reconnect(&mut self, lies: u8) {
        self.wire.clear();
        self.client.answers.clear();
        self.client.fresh.clear();
        self.client.stalled = false;
        self.since_edit = 0;
        let routes = self.client.has.get(&Route).into_iter().flatten();
        self.client.brought = routes.map(|(name, _)| (name.clone(), self.world.now)).collect();
        self.world.reconnect_unsure();
        let order = if lies.is_multiple_of(2) {
            [Cluster, Endpoints, Listener, Route, Secret]
        } else {
            [Endpoints, Cluster, Listener, Route, Secret]
        };
        self.client.asked.entry(Listener).or_default();
        for (at, kind) in order.into_iter().enumerate() {
            let subscribe: Vec<String> = self.client.asked.get(&kind).into_iter().flatten().cloned().collect();
            if subscribe.is_empty() && !kind.wildcard() {
                continue;
            }
            let known = self.client.has.get(&kind).into_iter().flatten();
            let mut initial: HashMap<String, String> = known.map(|(n, r)| (n.clone(), r.version.to_string())).collect();
            if lies & (1 << at) != 0 {
                initial.values_mut().for_each(|v| *v = "another".into());
                initial.insert("ghost".into(), "1".into());
            }
            let initial = initial.into_iter().collect();
            self.world.request(kind, Request { subscribe, initial, ..Request::default() });
        }
    }

    /// Mends what the client refuses, waits, and compares.
    fn at_quiet_both_are_equal(&mut self) {
        self.heal();
        if self.world.session.stale() {
            self.reconnect(0);
        }
        for i in self.desired.clusters.clone().into_iter().filter(|(_, p)| p.starts_with("bad")).map(|(i, _)| i) {
            self.step(Op::SetCluster(i, false));
        }
        for (j, (payload, used)) in self.desired.routes.clone() {
            if payload.starts_with("bad") {
                let mask = used.iter().fold(0, |mask, i| mask | 1 << i);
                self.step(Op::SetRoute(j, mask, false));
            }
        }
        self.cover();
        for seconds in [0, 20, 100, 700, 700, 700] {
            self.step(Op::Advance(seconds));
            self.catch_up();
        }
        let content = self.world.reader.view().read();
        for kind in ResourceType::ALL {
            let has = self.client.has.get(&kind).cloned().unwrap_or_default();
            let has: BTreeMap<_, _> = has.into_iter().map(|(n, r)| (n, r.version)).collect();
            let asked = self.client.asked.get(&kind).cloned().unwrap_or_default();
            let view = content.entries(kind).filter(|(n, _)| kind.wildcard() || asked.contains(&***n));
            let view: BTreeMap<_, _> = view.map(|(n, e)| (n.to_string(), e.resource.version)).collect();
            assert_eq!(has, view, "{}", kind.short());
        }
    }
}

/// With which edit a resource came; the newest that a client has ever seen of a name never goes back.
fn edit(resource: &Resource) -> u64 {
    let payload = std::str::from_utf8(&resource.payload).expect("text");
    payload.trim_start_matches(char::is_alphabetic).parse().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_never_lacks_what_a_route_names_and_ends_up_with_the_view(ops in prop::collection::vec(op(), 1..60)) {
        let mut model = Model::new();
        for op in ops {
            model.step(op);
        }
        model.at_quiet_both_are_equal();
    }
}
