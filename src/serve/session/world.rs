//! The stage of the session tests: one view, one stream and a clock that only moves when told to.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};

use super::*;
use crate::{
    feedback::Acked,
    model::{Audience, Revision, Role, SiteEntry, SiteState, Sites, Watermark, Watermarks},
    snapshot::{Publish, Reader, Seat, Views},
    xds::Resource,
};

/// One view, one stream, and a clock.
pub(super) struct World {
    pub(super) views: Views,
    pub(super) reader: Reader,
    pub(super) session: Session,
    pub(super) now: Instant,
    pub(super) fresh: bool,
    pub(super) sites: Sites,
    pub(super) watermarks: Watermarks,
    /// The configuration of the next publish.
    pub(super) revision: u64,
    /// Nonces that are not answered yet, by type, oldest first.
    pub(super) open: BTreeMap<ResourceType, Vec<u64>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::of(Role::Edge)
    }

    pub(super) fn of(role: Role) -> Self {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role, proven: true, cohort: "".into(), delta: true };
        let reader = views.open(&audience);
        let now = Instant::now();
        let sites = Sites { drain_time: Duration::from_secs(300), ..Sites::default() };
        Self {
            session: session(role, now),
            views,
            reader,
            now,
            fresh: true,
            sites,
            watermarks: Watermarks::new(),
            revision: 1,
            open: BTreeMap::new(),
        }
    }

    pub(super) fn reconnect(&mut self) {
        self.reconnect_unsure();
        self.session.trust(true);
    }

    /// To a replica that does not know yet whether it has read everything.
    pub(super) fn reconnect_unsure(&mut self) {
        self.session = session(self.reader.view().audience().role, self.now);
        self.open.clear();
    }

    /// A site, and how far it has come.
    pub(super) fn site(&mut self, name: &str, role: Role, watermark: Watermark) {
        let entry = SiteEntry { role, region: "eu".into(), zone: "".into(), state: SiteState::Active };
        self.sites.sites.insert(name.into(), entry);
        self.watermarks.insert(name.into(), watermark);
    }

    pub(super) fn publish(&mut self, upserts: Vec<Resource>, removals: &[(ResourceType, &str)]) {
        let changes = Publish {
            upserts: upserts.into_iter().map(Arc::new).collect(),
            removals: removals.iter().map(|(k, n)| (*k, (*n).into())).collect(),
        };
        self.reader.view().publish(self.views.next_seq(), Revision(self.revision), changes);
    }

    pub(super) fn request(&mut self, kind: ResourceType, request: Request) {
        let request = Request { url: kind.url().into(), ..request };
        self.session.on_request(request, &self.reader.view().read(), self.now).unwrap();
    }

    pub(super) fn subscribe(&mut self, kind: ResourceType, names: &[&str]) {
        self.request(kind, Request { subscribe: owned(names), ..Request::default() });
    }

    pub(super) fn unsubscribe(&mut self, kind: ResourceType, names: &[&str]) {
        self.request(kind, Request { unsubscribe: owned(names), ..Request::default() });
    }

    pub(super) fn report(&mut self, kind: ResourceType, subscribe: &[&str], has: &[(&str, &str)]) {
        let version = |payload: &str| crate::xds::Version::of(payload.as_bytes()).to_string();
        let initial = has.iter().map(|(n, p)| ((*n).to_owned(), version(p))).collect();
        self.request(kind, Request { subscribe: owned(subscribe), initial, ..Request::default() });
    }

    pub(super) fn answer(&mut self, kind: ResourceType, nonce: u64, error: Option<&str>) {
        let (nonce, error) = (format!("{nonce:x}"), error.map(Into::into));
        self.request(kind, Request { nonce, error, ..Request::default() });
    }

    /// Acknowledges the oldest response of the type.
    pub(super) fn ack(&mut self, kind: ResourceType) {
        let nonce = self.open.get_mut(&kind).expect("a response").remove(0);
        self.answer(kind, nonce, None);
    }

    pub(super) fn nack(&mut self, kind: ResourceType, error: &str) {
        let nonce = self.open.get_mut(&kind).expect("a response").remove(0);
        self.answer(kind, nonce, Some(error));
    }

    pub(super) fn poll(&mut self) -> Option<Send> {
        let content = self.reader.view().read();
        let moment = Moment { now: self.now, fresh: self.fresh, sites: &self.sites, watermarks: &self.watermarks };
        let send = self.session.poll(&content, &moment);
        drop(content);
        if let Some(Send { kind: Some(kind), frame }) = &send {
            self.open.entry(*kind).or_default().push(frame.nonce);
        }
        send
    }

    /// What is told of a name, if something new is told of its type.
    pub(super) fn acked(&mut self, kind: ResourceType, name: &str) -> Acked {
        let seq = self.reader.view().read().get(kind, name).unwrap().content;
        let reports: BTreeMap<_, _> = self.session.reports().into_iter().collect();
        reports[&kind].acked(name, seq)
    }

    /// Up to where it has taken over removals, and the last publish.
    pub(super) fn passed(&self) -> (Seq, Seq) {
        let content = self.reader.view().read();
        (self.session.passed(&content), content.seq())
    }

    /// Everything that goes out now, a line a response.
    pub(super) fn out(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(send) = self.poll() {
            assert!(out.len() < 100, "a hot loop: {out:?}");
            let mut line = send.kind.map_or_else(|| send.frame.url.to_string(), |k| k.short().to_owned());
            send.frame.resources.iter().for_each(|r| line += &format!(" +{}", r.name));
            send.frame.removed.iter().for_each(|n| line += &format!(" -{n}"));
            out.push(line);
        }
        assert!(
            self.session.next_deadline().is_none_or(|at| at > self.now),
            "a time that is past is no time to wait for"
        );
        out
    }

    /// Sends and acknowledges until nothing is left.
    pub(super) fn settle(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let out = self.out();
            if out.is_empty() {
                return all;
            }
            all.extend(out);
            for (kind, nonces) in std::mem::take(&mut self.open) {
                nonces.into_iter().for_each(|n| self.answer(kind, n, None));
            }
        }
    }

    /// Where it is woken by what it follows now.
    pub(super) fn seat(&self) -> Seat {
        let mut seat = self.reader.seat();
        seat.follow(self.session.follows(), &self.reader.view().read());
        woken(&seat);
        seat
    }

    /// What goes out while so many seconds go by. Nothing goes out without something that happened or was waited for.
    pub(super) fn after(&mut self, seconds: u64) -> Vec<String> {
        let mut all = Vec::new();
        for second in 0..seconds.max(1) {
            let due = self.session.next_deadline();
            self.now += Duration::from_secs(seconds.min(1));
            let out = self.out();
            let woken = second == 0 || due.is_some_and(|at| at <= self.now);
            assert!(out.is_empty() || woken, "nobody would have asked: {out:?}");
            all.extend(out);
        }
        all
    }

    /// A stream that has two clusters, a listener and a route to `a`.
    pub(super) fn running() -> Self {
        let mut world = Self::new();
        world.publish(
            vec![cluster("a", "1"), cluster("b", "1"), eds("a", "1"), eds("b", "1"), lds("1"), rds("1", &["a"])],
            &[],
        );
        world.subscribe(Cluster, &[]);
        world.settle();
        world.subscribe(Endpoints, &["a", "b"]);
        world.subscribe(Listener, &[]);
        world.subscribe(Route, &["r"]);
        world.settle();
        world
    }
}

/// Whether something was published since the last time that it follows.
pub(super) fn woken(seat: &Seat) -> bool {
    seat.poll_woken(&Context::from_waker(Waker::noop())).is_ready()
}

pub(super) fn session(role: Role, now: Instant) -> Session {
    Session::new(Arc::new(Fanouts::new("test".into())), client(role), now)
}

pub(super) fn client(role: Role) -> Client {
    Client { role, proven: true, drain: Duration::from_secs(600), expires: true, unwraps: true }
}

pub(super) fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

pub(super) fn resource(kind: ResourceType, name: &str, payload: &str) -> Resource {
    Resource::new(kind, name, payload.to_owned().into())
}

pub(super) fn cluster(name: &str, payload: &str) -> Resource {
    let mut cluster = resource(Cluster, name, payload);
    cluster.children = vec![(Endpoints, name.into())];
    cluster
}

pub(super) fn eds(name: &str, payload: &str) -> Resource {
    resource(Endpoints, name, payload)
}

pub(super) fn lds(payload: &str) -> Resource {
    let mut listener = resource(Listener, "l", payload);
    listener.requires = vec![(Route, "r".into())];
    listener.children = vec![(Secret, "s".into())];
    listener
}

pub(super) fn rds(payload: &str, clusters: &[&str]) -> Resource {
    let mut route = resource(Route, "r", payload);
    route.requires = clusters.iter().map(|c| (Cluster, (*c).into())).collect();
    route
}
