//! A client that behaves as Envoy does (wildcards, names from parents, withheld acknowledgements) or as gRPC does (names
//! only), against random edits, delays, refusals, stale requests, reconnects with true and forged versions, and two
//! replicas that may be cut off from the store. Polled only when something happened or a deadline has come.

mod desired;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};
use proptest::prelude::*;

use self::desired::{Desired, Op, ROUTES, Replica, op, text};
use super::*;
use crate::{
    feedback::ProxyId,
    model::{Role, Sites, Watermarks},
    serve::doubts::Doubts,
};

const KINDS: [ResourceType; 5] = [Cluster, Endpoints, Listener, Secret, Route];
/// One type, as the client has it.
#[derive(Default)]
struct Known {
    has: BTreeMap<String, Arc<Resource>>,
    asked: BTreeSet<String>,
    /// It has asked on this stream.
    begun: bool,
    nonce: String,
    version: String,
    /// Accepted as a whole on this stream: names of the set.
    accepted: Option<BTreeSet<String>>,
}

#[derive(Default)]
struct Told {
    names: BTreeSet<String>,
    nonce: u64,
}

struct Model {
    /// Names only.
    named: bool,
    session: Session,
    now: Instant,
    here: Replica,
    there: Replica,
    doubts: Arc<Doubts>,
    desired: Desired,
    known: BTreeMap<ResourceType, Known>,
    /// What the server has heard of each type, and the last nonce that it gave.
    told: BTreeMap<ResourceType, Told>,
    wire: VecDeque<Response>,
    /// Read, not answered yet.
    answers: Vec<(ResourceType, u64, Option<String>)>,
    /// Clusters of which it refused a version, or a response whole: a route to them is its own fault.
    refused: BTreeSet<String>,
    warming: BTreeMap<String, Instant>,
    /// Clusters of responses that are not answered yet.
    fresh: BTreeMap<String, u64>,
    /// Routes of a refused response: the server takes them for lacking.
    doubtful: BTreeSet<String>,
    /// Routes that it brought to this stream and has taken nothing of since: the server does not know what they name.
    brought: BTreeSet<String>,
    stalled: bool,
    since_edit: u32,
    count: u32,
}

fn edit(resource: &Resource) -> u64 {
    let payload = std::str::from_utf8(&resource.payload).expect("text");
    payload.trim_start_matches(char::is_alphabetic).parse().unwrap_or(0)
}

impl Model {
    fn new(named: bool) -> Self {
        let now = Instant::now();
        let doubts: Arc<Doubts> = Arc::default();
        let mut model = Self {
            named,
            session: Self::session(&doubts, now),
            now,
            here: Replica::new(),
            there: Replica::new(),
            doubts,
            desired: Desired::default(),
            known: KINDS.map(|kind| (kind, Known::default())).into(),
            told: BTreeMap::new(),
            wire: VecDeque::new(),
            answers: Vec::new(),
            refused: BTreeSet::new(),
            warming: BTreeMap::new(),
            fresh: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            brought: BTreeSet::new(),
            stalled: false,
            since_edit: 0,
            count: 0,
        };
        model.publish(vec![text(Secret, "s", "good"), text(Secret, "t", "good")], vec![]);
        model.begin();
        model
    }

    fn session(doubts: &Arc<Doubts>, now: Instant) -> Session {
        let client =
            Client { role: Role::Edge, proven: true, drain: Duration::from_secs(60), expires: true, unwraps: true };
        let proxy = ProxyId { site: "fra".into(), node: "e".into() };
        Session::new(client, now).doubting(doubts.of(&proxy, client.role, client.proven))
    }

    fn wild(&self, kind: ResourceType) -> bool {
        kind.wildcard() && !self.named
    }

    fn know(&mut self, kind: ResourceType) -> &mut Known {
        self.known.get_mut(&kind).expect("all are there")
    }

    fn publish(&mut self, upserts: Vec<Resource>, removals: Vec<(ResourceType, String)>) {
        self.since_edit = 0;
        for replica in [&mut self.here, &mut self.there] {
            replica.missed.push((upserts.clone(), removals.clone()));
            replica.catch_up();
        }
    }

    /// The first requests of a stream.
    fn begin(&mut self) {
        if self.named {
            self.know(Listener).asked = (0..ROUTES).map(|j| format!("l{j}")).collect();
        }
        for kind in if self.named { [Listener, Cluster] } else { [Cluster, Listener] } {
            // Envoy asks for listeners when the clusters are there (O4).
            if (kind == Cluster || self.named || !self.known[&Cluster].version.is_empty())
                && (self.wild(kind) || !self.known[&kind].asked.is_empty())
            {
                self.request(kind);
            }
        }
        for kind in [Endpoints, Secret, Route] {
            if !self.known[&kind].asked.is_empty() {
                self.request(kind);
            }
        }
    }

    /// The names as of now; an answer too, where one is awaited.
    fn request(&mut self, kind: ResourceType) {
        let error = self.answers.iter().position(|a| a.0 == kind).and_then(|at| {
            let (_, nonce, error) = self.answers.remove(at);
            self.fresh.retain(|_, first| *first != nonce);
            let known = self.know(kind);
            if error.is_none() {
                known.accepted = kind.wildcard().then(|| known.has.keys().cloned().collect());
            } else {
                known.accepted = None;
            }
            error
        });
        let known = self.know(kind);
        known.begun = true;
        let (names, nonce) = (known.asked.clone(), known.nonce.clone());
        self.send(kind, names, nonce, error);
    }

    fn send(&mut self, kind: ResourceType, names: BTreeSet<String>, nonce: String, error: Option<String>) {
        let version = self.known[&kind].version.clone();
        let told = self.told.entry(kind).or_default();
        let stale = told.nonce != 0 && !nonce.is_empty() && nonce != format!("{:x}", told.nonce);
        if !stale || (names.is_empty() && (self.named || !kind.wildcard())) {
            told.names.clone_from(&names);
        }
        let names = names.into_iter().collect();
        let request = Request { url: kind.url().into(), names, version, nonce, error };
        self.session.on_request(&request, &self.here.reader.view().read(), self.now).unwrap();
    }

    fn poll(&mut self) -> Option<Response> {
        let content = self.here.reader.view().read();
        let (sites, watermarks) = (Sites::default(), Watermarks::default());
        let moment = Moment { now: self.now, fresh: self.here.fresh, sites: &sites, watermarks: &watermarks };
        self.session.poll(&content, &moment)
    }

    fn pump(&mut self) {
        while self.wire.len() < 2 {
            let Some(response) = self.poll() else { return };
            self.since_edit += 1;
            assert!(self.since_edit < 400, "a hot loop: {response:?}");
            self.judge(&response);
            self.wire.push_back(response);
        }
    }

    /// What holds of a response at the moment when it is sent.
    fn judge(&mut self, response: &Response) {
        let kind = response.kind;
        let outstanding = self.wire.iter().any(|r| r.kind == kind) || self.answers.iter().any(|a| a.0 == kind);
        assert!(!outstanding, "two responses of one type on their way: {response:?}");
        let told = self.told.get_mut(&kind).expect("nobody asked");
        assert!(response.nonce > told.nonce, "a nonce twice");
        told.nonce = response.nonce;
        let names: BTreeSet<String> = response.resources.iter().map(|r| r.name.to_string()).collect();
        assert_eq!(names.len(), response.resources.len(), "a name twice");
        let wild = kind.wildcard() && !self.named;
        assert!(wild || names.is_subset(&told.names), "not asked for: {response:?}, asked {:?}", told.names);
        let errors: Vec<_> = response.errors.iter().map(|error| error.name.to_string()).collect();
        assert!(errors.iter().all(|name| told.names.contains(name) && !names.contains(name)), "{response:?}");
        let known = &self.known[&kind];
        if let Some(accepted) = known.accepted.as_ref().filter(|_| kind.wildcard()) {
            let behind = self.session.stale() || !self.here.fresh;
            let gone = accepted.iter().any(|name| !names.contains(name) && (wild || told.names.contains(name)));
            assert!(!behind || !gone, "removed by a replica that may be behind: {response:?}");
            let again = wild && known.version == response.version.to_string();
            assert!(!again, "the set that it has, once more: {response:?}");
        }
    }

    fn read(&mut self, count: u8, answer: bool) {
        for _ in 0..count {
            let Some(response) = self.wire.pop_front() else { break };
            self.apply(&response);
            self.pump();
        }
        if answer {
            self.answer();
        }
    }

    fn apply(&mut self, response: &Response) {
        let kind = response.kind;
        let bad = |r: &&Arc<Resource>| r.payload.starts_with(b"bad");
        let refused: Vec<String> = response.resources.iter().filter(bad).map(|r| r.name.to_string()).collect();
        self.count += 1;
        let partly = kind.wildcard() || self.count.is_multiple_of(2);
        let error = match refused.as_slice() {
            [] => None,
            names if self.count.is_multiple_of(3) => Some(format!("Error adding {}: bad", names.join(", "))),
            _ => Some("something is wrong".to_owned()),
        };
        let names: BTreeSet<&str> = response.resources.iter().map(|r| &*r.name).collect();
        if kind == Cluster && error.is_some() {
            self.refused.extend(names.iter().map(ToString::to_string));
        }
        for resource in response.resources.iter().filter(|r| !bad(r)) {
            let asked = self.wild(kind) || self.known[&kind].asked.contains(&*resource.name);
            if asked && (refused.is_empty() || partly) {
                self.take(resource, response.nonce);
            }
        }
        if kind == Route {
            for name in &names {
                if error.is_some() {
                    self.doubtful.insert((*name).to_owned());
                } else {
                    self.doubtful.remove(*name);
                    self.brought.remove(*name);
                }
            }
        }
        if kind.wildcard() {
            let gone: Vec<_> = self.known[&kind].has.keys().filter(|name| !names.contains(&***name)).cloned().collect();
            for name in gone {
                self.know(kind).has.remove(&name);
                self.fresh.remove(&name);
                self.warming.remove(&name);
                self.no_route_dangles(&name);
            }
        }
        self.know(kind).nonce = format!("{:x}", response.nonce);
        if error.is_none() {
            // From now on it says so, whether it has answered or not.
            self.know(kind).version = response.version.to_string();
        }
        self.answers.push((kind, response.nonce, error));
        self.subscribe(kind);
    }

    fn take(&mut self, resource: &Arc<Resource>, nonce: u64) {
        let (kind, name) = (resource.kind, resource.name.to_string());
        let older = self.known[&kind].has.get(&name).cloned();
        if kind == Route && !self.named && !self.stalled {
            let bare = older.is_none() || self.doubtful.contains(&name) || self.brought.contains(&name);
            for (_, cluster) in &resource.requires {
                let known = self.known[&Cluster].has.contains_key(&**cluster);
                let cold = self.fresh.contains_key(&**cluster);
                let excused = bare || self.refused.contains(&**cluster);
                assert!(excused || (known && !cold), "{resource:?} came before {cluster} was acknowledged");
            }
        }
        let known = &self.known[&kind];
        // Whoever only half accepted something has no version to say; a cluster of which that is so, and that is to go,
        // stays in the last version that was accepted.
        let free = known.version.is_empty() || (kind == Cluster && self.refused.contains(&name));
        assert!(free || older.is_none_or(|old| edit(&old) <= edit(resource)), "{resource:?} went back");
        if kind == Cluster {
            if !self.known[&Cluster].has.contains_key(&name) {
                self.fresh.insert(name.clone(), nonce);
            }
            if !self.known[&Endpoints].has.contains_key(&name) {
                self.warming.insert(name.clone(), self.now);
            }
        }
        if kind == Endpoints {
            self.warming.remove(&name);
        }
        self.know(kind).has.insert(name, Arc::clone(resource));
    }

    fn no_route_dangles(&self, removed: &str) {
        if self.named || self.refused.contains(removed) {
            return;
        }
        for route in self.known[&Route].has.values().filter(|route| !self.brought.contains(&*route.name)) {
            assert!(route.requires.iter().all(|(_, c)| **c != *removed), "{removed} went under {route:?}");
        }
    }

    /// Names follow from parents.
    fn subscribe(&mut self, parent: ResourceType) {
        let named = self.known[&parent].has.values().flat_map(|r| r.children.iter().chain(&r.requires));
        let named: BTreeSet<(ResourceType, String)> = named.map(|(kind, name)| (*kind, name.to_string())).collect();
        let kinds: &[ResourceType] = match parent {
            Cluster => &[Endpoints],
            Listener => &[Route, Secret],
            Route if self.named => &[Cluster],
            _ => &[],
        };
        for kind in kinds {
            let names = match (kind, parent) {
                // A cluster's assignment has its name.
                (Endpoints, _) => self.known[&Cluster].has.keys().cloned().collect(),
                _ => named.iter().filter(|(k, _)| k == kind).map(|(_, name)| name.clone()).collect(),
            };
            if self.known[kind].asked != names {
                self.ask(*kind, names);
            }
        }
    }

    fn ask(&mut self, kind: ResourceType, names: BTreeSet<String>) {
        let known = self.know(kind);
        known.has.retain(|name, _| names.contains(name));
        known.asked = names;
        if known.asked.is_empty() && !known.begun {
            return;
        }
        self.request(kind);
        if self.known[&kind].asked.is_empty() {
            // Nobody watches the type any more: what still comes is dropped without a word (O12), but for its nonce.
            let last = self.wire.iter().filter(|r| r.kind == kind).map(|r| r.nonce).max();
            if let Some(last) = last {
                self.know(kind).nonce = format!("{last:x}");
            }
            self.wire.retain(|r| r.kind != kind);
            self.answers.retain(|a| a.0 != kind);
        }
        self.subscribe(kind);
    }

    /// Clusters are acknowledged when all are warm (O5); listeners are asked for then.
    fn answer(&mut self) {
        let (now, wait) = (self.now, Duration::from_secs(15));
        self.warming.retain(|_, since| now < *since + wait);
        let warm = self.warming.is_empty() || self.named;
        let ready = self.answers.iter().map(|answer| answer.0).filter(|kind| warm || *kind != Cluster);
        for kind in ready.collect::<Vec<_>>() {
            self.request(kind);
            if kind == Cluster && !self.named && !self.known[&Listener].begun {
                self.request(Listener);
            }
        }
    }

    fn catch_up(&mut self) {
        for _ in 0..400 {
            self.confirm();
            self.pump();
            self.read(16, true);
            self.stalled &= !self.answers.is_empty();
            self.pump();
            if self.wire.is_empty() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn confirm(&mut self) {
        if self.session.unsure() {
            self.session.trust(!self.here.cut);
            self.pump();
        }
    }

    /// Time goes by; the session is looked at only when it has said so.
    fn advance(&mut self, seconds: u16) {
        self.catch_up();
        let end = self.now + Duration::from_secs(seconds.into());
        for _ in 0..1000 {
            self.stalled |= seconds > 0 && !self.answers.is_empty();
            match self.session.next_deadline().filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            self.pump();
            self.catch_up();
        }
        self.now = end;
        self.answer();
        self.catch_up();
    }

    fn reconnect(&mut self, lies: u8) {
        self.wire.clear();
        self.answers.clear();
        self.fresh.clear();
        self.told.clear();
        self.stalled = false;
        self.since_edit = 0;
        self.brought = self.known[&Route].has.keys().cloned().collect();
        self.doubtful.clear();
        self.session = Self::session(&self.doubts, self.now);
        for (at, kind) in KINDS.into_iter().enumerate() {
            let known = self.know(kind);
            (known.begun, known.accepted) = (false, None);
            // A nonce of another stream is no harm (rule 8).
            known.nonce = if lies & 32 == 0 { String::new() } else { "f00d".into() };
            if lies & (1 << at) != 0 && !known.version.is_empty() {
                known.version = if lies & 64 == 0 { "another".into() } else { "0123456789abcdef".into() };
            }
        }
        self.begin();
        for kind in KINDS {
            self.know(kind).nonce.clear();
        }
        if lies & 128 != 0 {
            // Two requests before the first response (rule 22).
            self.begin();
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Read(count, answer) => self.read(count, answer),
            Op::Advance(seconds) => self.advance(seconds),
            Op::Again(at) => {
                let kind = KINDS[usize::from(at)];
                if self.known[&kind].begun && self.answers.iter().all(|a| a.0 != kind) {
                    self.request(kind);
                }
            }
            Op::Stale(at) => {
                let kind = KINDS[usize::from(at)];
                if self.told.get(&kind).is_some_and(|told| told.nonce != 0) {
                    self.send(kind, ["c0".to_owned(), "ghost".to_owned()].into(), "bad".into(), None);
                }
            }
            Op::Resubscribe(at) => {
                let kind = KINDS[usize::from(at)];
                let names = self.known[&kind].asked.clone();
                let child = matches!(kind, Endpoints | Secret | Route);
                if child && !names.is_empty() && self.known[&kind].begun {
                    self.ask(kind, BTreeSet::new());
                    self.pump();
                    self.ask(kind, names);
                }
            }
            Op::Reconnect(lies) => self.reconnect(lies),
            Op::Move(lies) => {
                std::mem::swap(&mut self.here, &mut self.there);
                self.reconnect(lies);
            }
            Op::Cut => self.here.cut = true,
            Op::Notice => self.here.fresh &= !self.here.cut,
            Op::Heal => {
                self.heal();
                // A stream that could not be compared ends when the replica is fresh again.
                if self.session.stale() {
                    self.reconnect(0);
                }
            }
            Op::Confirm => self.confirm(),
            edit => self.edit(&edit),
        }
        self.pump();
    }

    fn heal(&mut self) {
        self.since_edit = 0;
        self.here.cut = false;
        self.here.catch_up();
        self.here.fresh = true;
    }

    fn edit(&mut self, op: &Op) {
        let desired = &mut self.desired;
        match *op {
            Op::SetCluster(i, bad) => {
                let (payload, first) = (desired.payload(bad), desired.payload(false));
                desired.clusters.insert(i, payload.clone());
                let assignment = desired.endpoints.entry(i).or_insert(first).clone();
                let name = format!("c{i}");
                let children = vec![(Endpoints, name.as_str().into())];
                let cluster = Resource { children, ..text(Cluster, &name, &payload) };
                self.publish(vec![cluster, text(Endpoints, &name, &assignment)], vec![]);
            }
            Op::BumpEndpoints(i) if desired.clusters.contains_key(&i) => {
                let payload = desired.payload(false);
                desired.endpoints.insert(i, payload.clone());
                self.publish(vec![text(Endpoints, &format!("c{i}"), &payload)], vec![]);
            }
            Op::RemoveCluster(i) if desired.clusters.remove(&i).is_some() => {
                desired.endpoints.remove(&i);
                let mut upserts = Vec::new();
                for j in 0..ROUTES {
                    if desired.routes.get(&j).is_some_and(|(_, used)| used.contains(&i)) {
                        let payload = desired.payload(false);
                        let (text, used) = desired.routes.get_mut(&j).expect("seen");
                        *text = payload;
                        used.remove(&i);
                        upserts.push(desired.route(j));
                    }
                }
                let name = format!("c{i}");
                self.publish(upserts, vec![(Cluster, name.clone()), (Endpoints, name)]);
            }
            Op::SetRoute(j, mask, bad) => {
                let (payload, first) = (desired.payload(bad), desired.payload(false));
                let used = desired.clusters.keys().copied().filter(|i| mask & (1 << i) != 0).collect();
                desired.routes.insert(j, (payload, used));
                desired.listeners.entry(j).or_insert(first);
                let both = vec![desired.route(j), desired.listener(j)];
                self.publish(both, vec![]);
            }
            Op::BumpListener(j) if desired.listeners.contains_key(&j) => {
                let payload = desired.payload(false);
                desired.listeners.insert(j, payload);
                let listener = desired.listener(j);
                self.publish(vec![listener], vec![]);
            }
            Op::RemoveRoute(j) if desired.routes.remove(&j).is_some() => {
                desired.listeners.remove(&j);
                self.publish(vec![], vec![(Listener, format!("l{j}")), (Route, format!("r{j}"))]);
            }
            Op::BumpSecret(bad) => {
                let payload = desired.payload(bad);
                desired.secret.clone_from(&payload);
                self.publish(vec![text(Secret, "s", &payload)], vec![]);
            }
            _ => {}
        }
    }

    /// Mends what the client refuses, waits, and compares.
    fn at_quiet_both_are_equal(&mut self) {
        self.heal();
        if self.session.stale() {
            self.reconnect(0);
        }
        let bad: Vec<u8> =
            self.desired.clusters.iter().filter(|(_, p)| p.starts_with("bad")).map(|(i, _)| *i).collect();
        bad.into_iter().for_each(|i| self.step(Op::SetCluster(i, false)));
        for (j, (payload, used)) in self.desired.routes.clone() {
            if payload.starts_with("bad") {
                let mask = used.iter().fold(0, |mask, i| mask | 1 << i);
                self.step(Op::SetRoute(j, mask, false));
            }
        }
        if self.desired.secret.starts_with("bad") {
            self.step(Op::BumpSecret(false));
        }
        for seconds in [0, 20, 100, 700, 700] {
            self.step(Op::Advance(seconds));
        }
        let view = Arc::clone(self.here.reader.view());
        let content = view.read();
        for kind in KINDS {
            let known = &self.known[&kind];
            let has: BTreeMap<_, _> = known.has.iter().map(|(name, r)| (name.clone(), r.version)).collect();
            let wanted = content.entries(kind).filter(|(name, _)| self.wild(kind) || known.asked.contains(&***name));
            let wanted: BTreeMap<_, _> = wanted.map(|(name, e)| (name.to_string(), e.resource.version)).collect();
            assert_eq!(has, wanted, "{}", kind.short());
        }
        drop(content);
        // An acknowledgement that says nothing new is answered by nothing (rule 24), once stale requests are forgotten.
        for kind in KINDS {
            if self.known[&kind].begun {
                self.request(kind);
            }
        }
        self.catch_up();
        for kind in KINDS {
            if self.known[&kind].begun {
                self.request(kind);
                assert!(self.poll().is_none_or(|response| panic!("{response:?}")));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_of_the_older_form_ends_up_with_the_view_too(
        named in any::<bool>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut model = Model::new(named);
        for op in ops {
            model.step(op);
        }
        model.at_quiet_both_are_equal();
    }
}
