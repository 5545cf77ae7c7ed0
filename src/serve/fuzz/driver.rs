//! A script of bytes, played to one stream of each form; what must hold of every response is checked as it is sent,
//! against a model of what the client asks for that shares no code with the sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    model::{Audience, Revision, Role, SiteEntry, SiteState, Sites, Watermark, Watermarks},
    serve::{
        fanout::Fanouts,
        session::{self, Moment},
        sotw,
    },
    snapshot::{Content, Publish, Reader, Views},
    xds::{NeedAt, Resource, ResourceType, ServiceNeed, Version},
};

/// What a client may ask for; the first ones are names that resources have.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "", "*"];
/// The same of virtual hosts: `<route configuration>/<domain>`.
const HOSTS: [&str; 6] = ["a/x.example", "a/*.example", "b/x.example", "a/*", "a/y.example:80", "*"];
const REAL: usize = 4;
/// In the order in which the corpus numbers them: a further type comes last.
const KINDS: [ResourceType; ResourceType::ALL.len()] = {
    use ResourceType::{Cluster, Endpoints, Extension, Listener, Route, Runtime, ScopedRoute, Secret, VirtualHost};
    [Cluster, Endpoints, Secret, Listener, Route, Extension, ScopedRoute, VirtualHost, Runtime]
};
/// Responses of one form between two events of the script.
const SENDS_MAX: usize = 50;

/// The bytes that are left; 0 after the end.
pub(super) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn ended(&self) -> bool {
        self.0.is_empty()
    }

    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.next()) % end
    }

    /// Some of the names of a type, each by a bit.
    fn names(&mut self, kind: ResourceType) -> Vec<String> {
        let bits = self.next();
        chosen(names_of(kind), bits).map(str::to_owned).collect()
    }

    fn kind(&mut self) -> ResourceType {
        let at = self.below(KINDS.len());
        KINDS.get(at).copied().unwrap_or(ResourceType::Cluster)
    }
}

fn names_of(kind: ResourceType) -> &'static [&'static str] {
    if kind == ResourceType::VirtualHost { &HOSTS } else { &NAMES }
}

fn chosen<'a>(names: &'a [&'a str], bits: u8) -> impl Iterator<Item = &'a str> {
    names.iter().enumerate().filter(move |(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name)
}

/// What a client asks for of one type, and what it has not answered.
#[derive(Default)]
struct Asked {
    begun: bool,
    /// It once named something (state of the world).
    explicit: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    open: Vec<u64>,
    last: Option<u64>,
}

impl Asked {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn took(&mut self, nonce: u64) {
        self.open.push(nonce);
        self.last = Some(nonce);
    }
}

/// One stream as its client sees it.
#[derive(Default)]
struct Client {
    types: BTreeMap<ResourceType, Asked>,
    nonces: BTreeSet<u64>,
    sends: usize,
}

impl Client {
    fn took(&mut self, nonce: u64) {
        self.sends += 1;
        assert!(self.sends < SENDS_MAX, "a hot loop");
        assert!(nonce != 0 && self.nonces.insert(nonce), "nonce {nonce:x} twice");
    }

    /// A nonce to answer with: the oldest that is open, the newest, one that never was, none.
    fn nonce(&self, kind: ResourceType, choice: u8) -> Option<u64> {
        let open = self.types.get(&kind).map(|asked| asked.open.as_slice()).unwrap_or_default();
        match choice % 4 {
            0 => open.first().copied(),
            1 => open.last().copied(),
            2 => Some(u64::MAX - 7),
            _ => None,
        }
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> BTreeSet<Arc<str>> {
    let mut all = BTreeSet::new();
    for name in names {
        assert!(all.insert(Arc::clone(name)), "{name} twice in a response");
    }
    all
}

pub(super) struct Driver {
    views: Views,
    reader: Reader,
    role: Role,
    now: Instant,
    fresh: bool,
    sites: Sites,
    watermarks: Watermarks,
    revision: u64,
    delta: session::Session,
    delta_client: Client,
    world: sotw::Session,
    world_client: Client,
}

fn delta(role: Role, now: Instant) -> session::Session {
    session::Session::new(Arc::new(Fanouts::new("fuzz".into())), super::client(role), now)
}

fn world(role: Role, now: Instant) -> sotw::Session {
    sotw::Session::new(super::client(role), now)
}

impl Driver {
    pub(super) fn new(script: &mut Script<'_>) -> Self {
        let views = Views::default();
        let role = if script.next() & 1 == 0 { Role::Edge } else { Role::Core };
        let audience = Audience { site: "fra".into(), role, proven: true, delta: true, cohort: "".into() };
        let reader = views.open(&audience);
        let now = Instant::now();
        let site = |role| SiteEntry { role, region: "eu".into(), zone: "".into(), state: SiteState::Active };
        let sites = [("edge".into(), site(Role::Edge)), ("core".into(), site(Role::Core))].into();
        Self {
            views,
            reader,
            role,
            now,
            fresh: true,
            sites: Sites { drain_time: Duration::from_secs(30), sites, ..Sites::default() },
            watermarks: Watermarks::new(),
            revision: 1,
            delta: delta(role, now),
            delta_client: Client::default(),
            world: world(role, now),
            world_client: Client::default(),
        }
    }

    pub(super) fn step(&mut self, script: &mut Script<'_>) {
        match script.below(12) {
            0 | 1 => self.publish(script),
            2..=4 => self.ask_delta(script),
            5 | 6 => self.ask_world(script),
            7 => self.now += Duration::from_secs(1 << script.below(11)),
            8 => self.fresh = !self.fresh,
            9 => {
                let confirmed = script.next() & 1 == 0;
                if self.delta.unsure() {
                    self.delta.trust(confirmed);
                }
                if self.world.unsure() {
                    self.world.trust(confirmed);
                }
            }
            10 => {
                let site = if script.next() & 1 == 0 { "edge" } else { "core" };
                let revision = Revision(self.revision.min(script.next().into()));
                let watermark = Watermark { revision, connected: script.next() & 1 == 0, ..Watermark::default() };
                self.watermarks.insert(site.into(), watermark);
            }
            _ => {
                (self.delta, self.delta_client) = (delta(self.role, self.now), Client::default());
                (self.world, self.world_client) = (world(self.role, self.now), Client::default());
            }
        }
        // Now and then the clients read nothing, so that events gather.
        if script.next() & 3 != 0 {
            self.read();
        }
    }

    fn publish(&mut self, script: &mut Script<'_>) {
        self.revision += 1;
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for _ in 0..=script.below(4) {
            let (kind, at) = (script.kind(), script.below(REAL));
            let name = names_of(kind).get(at).copied().unwrap_or_default();
            let content = script.next();
            if content % 5 == 4 {
                removals.push((kind, name.into()));
            } else {
                upserts.push(Arc::new(self.resource(kind, name, content)));
            }
        }
        let seq = self.views.next_seq();
        self.reader.view().publish(seq, Revision(self.revision), Publish { upserts, removals });
    }

    fn resource(&self, kind: ResourceType, name: &str, content: u8) -> Resource {
        let mut resource = Resource::new(kind, name, vec![content].into());
        let real = NAMES.get(..REAL).unwrap_or_default();
        match kind {
            ResourceType::Cluster => resource.children = vec![(ResourceType::Endpoints, name.into())],
            ResourceType::Listener => {
                resource.children = vec![(ResourceType::Secret, name.into())];
                resource.requires = chosen(real, content).map(|n| (ResourceType::Route, n.into())).collect();
            }
            ResourceType::Route => {
                resource.requires = chosen(real, content).map(|n| (ResourceType::Cluster, n.into())).collect();
                let at = || NeedAt { site: "core".into(), revision: Revision(self.revision) };
                let need = |n: &str| ServiceNeed { service: n.into(), group: "g".into(), sites: vec![at()] };
                resource.services = chosen(real, content >> 4).map(need).collect();
            }
            _ => {}
        }
        resource
    }

    fn ask_delta(&mut self, script: &mut Script<'_>) {
        let kind = script.kind();
        let (subscribe, unsubscribe, flags) = (script.names(kind), script.names(kind), script.next());
        let nonce = self.delta_client.nonce(kind, flags);
        let mut initial = session::Reported::default();
        if flags & 64 != 0 {
            let version = Version::of(&[script.next()]).to_string();
            initial = script.names(kind).into_iter().map(|name| (name, version.clone())).collect();
        }
        let url = if flags & 128 != 0 { "type.example/Unknown" } else { kind.url() };
        let request = session::Request {
            url: url.into(),
            subscribe: subscribe.clone(),
            unsubscribe: unsubscribe.clone(),
            initial,
            nonce: nonce.map(|nonce| format!("{nonce:x}")).unwrap_or_default(),
            error: (flags & 32 != 0).then(|| "cluster a: no".to_owned()),
        };
        let taken = self.delta.on_request(request, &self.reader.view().read(), self.now);
        assert!(taken.is_ok(), "{taken:?}");
        if flags & 128 != 0 {
            return;
        }
        let asked = self.delta_client.types.entry(kind).or_default();
        asked.open.retain(|open| Some(*open) != nonce);
        if !std::mem::replace(&mut asked.begun, true) && subscribe.is_empty() && unsubscribe.is_empty() {
            asked.wildcard |= kind.empty_is_all();
        }
        asked.wildcard |= subscribe.iter().any(|name| name == "*");
        asked.wildcard &= !unsubscribe.iter().any(|name| name == "*");
        asked.names.extend(subscribe.into_iter().filter(|name| name != "*"));
        asked.names.retain(|name| !unsubscribe.contains(name));
        if !asked.wildcard && asked.names.is_empty() {
            // An Envoy drops what still comes of a type that it does not watch, without a word (O12).
            asked.open.clear();
        }
    }

    fn ask_world(&mut self, script: &mut Script<'_>) {
        let kind = script.kind();
        let (names, flags) = (script.names(kind), script.next());
        let nonce = self.world_client.nonce(kind, flags);
        let request = sotw::Request {
            url: kind.url().into(),
            names: names.clone(),
            version: if flags & 64 != 0 { "0123456789abcdef".into() } else { String::new() },
            nonce: nonce.map(|nonce| format!("{nonce:x}")).unwrap_or_default(),
            error: (flags & 32 != 0).then(|| "b is bad".to_owned()),
        };
        let taken = self.world.on_request(&request, &self.reader.view().read(), self.now);
        assert!(taken.is_ok(), "{taken:?}");
        let asked = self.world_client.types.entry(kind).or_default();
        let ends = names.is_empty() && (asked.explicit || !kind.wildcard());
        // An answer to anything but the last response of the type is ignored, its names too (rule 19), but for the word
        // that nothing is wanted any more: what is on its way then is dropped without an answer (O12).
        if asked.last.is_some_and(|last| nonce.is_some_and(|nonce| nonce != last)) && !ends {
            return;
        }
        asked.open.retain(|open| Some(*open) != nonce && !ends);
        asked.explicit |= !names.is_empty();
        asked.wildcard = names.iter().any(|name| name == "*") || (kind.wildcard() && !asked.explicit);
        asked.names = names.into_iter().filter(|name| name != "*").collect();
    }

    /// Both clients are sent all that there is for them now.
    fn read(&mut self) {
        (self.delta_client.sends, self.world_client.sends) = (0, 0);
        let view = Arc::clone(self.reader.view());
        let content = view.read();
        let moment = Moment { now: self.now, fresh: self.fresh, sites: &self.sites, watermarks: &self.watermarks };
        while let Some(send) = self.delta.poll(&content, &moment) {
            self.delta_client.took(send.frame.nonce);
            let still = !self.fresh || self.delta.stale();
            judge_delta(&mut self.delta_client, &send, &content, still);
        }
        while let Some(response) = self.world.poll(&content, &moment) {
            self.world_client.took(response.nonce);
            judge_world(&mut self.world_client, &response);
        }
        for deadline in [self.delta.next_deadline(), self.world.next_deadline()].into_iter().flatten() {
            assert!(deadline > self.now, "a deadline that has passed would be polled for ever");
        }
        self.delta.reports();
        self.world.reports();
        self.reader.pass(self.delta.passed(&content).min(self.world.passed(&content)));
        self.delta.complete(&content, None);
        self.world.complete(&content, None);
    }

    /// Everything is accepted until nothing more comes; that has an end.
    pub(super) fn settle(&mut self) {
        self.fresh = true;
        for _ in 0..50 {
            self.read();
            let (delta, world) = (drain(&mut self.delta_client), drain(&mut self.world_client));
            if delta.is_empty() && world.is_empty() {
                return;
            }
            let view = Arc::clone(self.reader.view());
            let content = view.read();
            for (url, nonce, _) in delta {
                let request = session::Request { url, nonce, ..session::Request::default() };
                let taken = self.delta.on_request(request, &content, self.now);
                assert!(taken.is_ok(), "{taken:?}");
            }
            for (url, nonce, names) in world {
                let request = sotw::Request { url, nonce, names, ..sotw::Request::default() };
                let taken = self.world.on_request(&request, &content, self.now);
                assert!(taken.is_ok(), "{taken:?}");
            }
        }
        panic!("a client that accepts everything is sent more and more");
    }
}

/// What a client has to answer: type, nonce, and the names that it asks for.
fn drain(client: &mut Client) -> Vec<(String, String, Vec<String>)> {
    let mut answers = Vec::new();
    for (kind, asked) in &mut client.types {
        let wildcard = asked.wildcard && asked.explicit;
        let names: Vec<_> = wildcard.then(|| "*".to_owned()).into_iter().chain(asked.names.iter().cloned()).collect();
        let open = asked.open.drain(..);
        answers.extend(open.map(|nonce| (kind.url().to_owned(), format!("{nonce:x}"), names.clone())));
    }
    answers
}

fn judge_delta(client: &mut Client, send: &session::Send, content: &Content, still: bool) {
    let resources = unique(send.frame.resources.iter().map(|r| &r.name));
    let removed = unique(send.frame.removed.iter());
    assert!(resources.is_disjoint(&removed), "in both halves: {resources:?} {removed:?}");
    let Some(kind) = send.kind else { return assert!(resources.is_empty()) };
    let what = kind.short();
    assert!(!still || removed.is_empty(), "a replica that may be behind removes {what} {removed:?}");
    let Some(asked) = client.types.get_mut(&kind) else { panic!("{what} was never asked for") };
    for resource in &send.frame.resources {
        let name = &resource.name;
        // A host may answer for others that are asked for on demand.
        let host = kind == ResourceType::VirtualHost;
        assert!(host || asked.wants(name), "{what} {name} is not asked for");
        let newest = content.get(kind, name).map(|entry| entry.resource.version);
        let alias = newest.is_none() && host;
        assert!(alias || newest == Some(resource.version), "{what} {name} is not what there is");
    }
    for name in &removed {
        assert!(asked.wants(name), "{what} -{name} is not asked for");
        assert!(content.get(kind, name).is_none(), "{what} {name} is there and called absent");
    }
    asked.took(send.frame.nonce);
    let most = if kind == ResourceType::Cluster { 4 } else { 1 };
    assert!(asked.open.len() <= most, "{} {what} responses are open", asked.open.len());
}

fn judge_world(client: &mut Client, response: &sotw::Response) {
    let what = response.kind.short();
    let names = unique(response.resources.iter().map(|r| &r.name));
    let Some(asked) = client.types.get_mut(&response.kind) else { panic!("{what} was never asked for") };
    for name in &names {
        assert!(asked.wants(name), "{what} {name} is not asked for");
    }
    for error in &response.errors {
        assert!(asked.wants(&error.name) && !names.contains(&*error.name), "{what} {} is not missing", error.name);
    }
    let says = !names.is_empty() || !response.errors.is_empty();
    assert!(response.kind.wildcard() || says, "an empty response of {what}");
    assert!(asked.open.is_empty(), "a second {what} response");
    asked.took(response.nonce);
}
