//! Claims about state-of-the-world streams.

mod again;
mod bounds;
mod order;
mod refusals;
mod requests;
mod rules;
mod waits;

use std::{
    collections::BTreeSet,
    task::{Context, Waker},
    time::Duration,
};

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};

use super::{
    gate::{LINGER, UNREQUESTED, WARM},
    *,
};
use crate::{
    feedback::Acked,
    model::{Audience, Revision, Role, Sites, Watermarks},
    serve::{absent::Why, session::STOOD},
    snapshot::{Publish, Reader, Seat, Views},
};

/// Knows everything.
const CLIENT: Client =
    Client { role: Role::Edge, proven: true, drain: Duration::from_secs(60), expires: true, unwraps: true };

struct World {
    views: Views,
    reader: Reader,
    session: Session,
    now: Instant,
    /// The replica follows the store.
    fresh: bool,
    sites: Sites,
    /// What feedback was told of each type last.
    told: BTreeMap<ResourceType, feedback::TypeState>,
}

fn resource(kind: ResourceType, name: &str, payload: &'static str) -> Resource {
    Resource::new(kind, name, payload.as_bytes().into())
}

fn cluster(name: &str, payload: &'static str) -> Resource {
    Resource { children: vec![(Endpoints, name.into())], ..resource(Cluster, name, payload) }
}

fn naming(kind: ResourceType, name: &str, payload: &'static str, clusters: &[&str]) -> Resource {
    let requires = clusters.iter().map(|name| (Cluster, (*name).into())).collect();
    Resource { requires, ..resource(kind, name, payload) }
}

/// Whether something was published since the last time that it follows.
fn woken(seat: &Seat) -> bool {
    seat.poll_woken(&Context::from_waker(Waker::noop())).is_ready()
}

impl World {
    fn new(upserts: Vec<Resource>) -> Self {
        Self::of(Role::Edge, upserts)
    }

    fn of(role: Role, upserts: Vec<Resource>) -> Self {
        let world = Self::pending(role);
        world.publish(upserts, &[]);
        world
    }

    /// Nothing was published yet.
    fn pending(role: Role) -> Self {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role, proven: true, cohort: "".into(), delta: false };
        let reader = views.open(&audience);
        let now = Instant::now();
        let session = Session::new(Client { role, ..CLIENT }, now);
        Self { views, reader, session, now, fresh: true, sites: Sites::default(), told: BTreeMap::new() }
    }

    fn publish(&self, upserts: Vec<Resource>, removals: &[(ResourceType, &str)]) {
        let changes = Publish {
            upserts: upserts.into_iter().map(Arc::new).collect(),
            removals: removals.iter().map(|(kind, name)| (*kind, (*name).into())).collect(),
        };
        self.reader.view().publish(self.views.next_seq(), Revision(1), changes);
    }

    fn request(&mut self, kind: ResourceType, names: &[&str], nonce: u64, error: Option<&str>) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let nonce = if nonce == 0 { String::new() } else { format!("{nonce:x}") };
        let request =
            Request { url: kind.url().into(), names, nonce, error: error.map(Into::into), ..Request::default() };
        self.session.on_request(&request, &self.reader.view().read(), self.now).unwrap();
    }

    fn poll(&mut self) -> Option<Response> {
        let view = Arc::clone(self.reader.view());
        let content = view.read();
        let watermarks = Watermarks::default();
        let moment = Moment { now: self.now, fresh: self.fresh, sites: &self.sites, watermarks: &watermarks };
        self.session.poll(&content, &moment)
    }

    /// The subscriptions have stood for long enough; from now on only what is due is a deadline.
    fn stands(&mut self) {
        self.pass(STOOD);
        self.quiet();
    }

    /// The next response, which is of that type and has these names.
    #[track_caller]
    fn sent(&mut self, kind: ResourceType, names: &[&str]) -> Response {
        let response = self.poll().unwrap_or_else(|| panic!("{names:?} of {kind:?} is awaited, nothing comes"));
        let got: Vec<_> = response.resources.iter().map(|r| r.name.to_string()).collect();
        assert_eq!((response.kind, got), (kind, names.iter().map(ToString::to_string).collect()));
        response
    }

    #[track_caller]
    fn quiet(&mut self) {
        assert!(self.poll().is_none_or(|response| panic!("{response:?}")));
        assert!(
            self.session.next_deadline().is_none_or(|at| at > self.now),
            "a time that is past is no time to wait for"
        );
    }

    /// Asks, is sent, acknowledges.
    #[track_caller]
    fn takes(&mut self, kind: ResourceType, ask: &[&str], names: &[&str]) -> Response {
        self.request(kind, ask, 0, None);
        let response = self.sent(kind, names);
        self.request(kind, ask, response.nonce, None);
        response
    }

    /// What feedback knows of a type.
    fn state(&mut self, kind: ResourceType) -> feedback::TypeState {
        self.told.extend(self.session.reports());
        self.told.get(&kind).cloned().unwrap_or_default()
    }

    fn seq(&self) -> Seq {
        self.reader.view().read().seq()
    }

    /// The first request of a type on a stream whose client says to have that version.
    fn report(&mut self, kind: ResourceType, version: &str, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let request = Request { url: kind.url().into(), version: version.into(), names, ..Request::default() };
        self.session.on_request(&request, &self.reader.view().read(), self.now).unwrap();
    }

    /// Where it is woken by what it follows now.
    fn seat(&self) -> Seat {
        let mut seat = self.reader.seat();
        seat.follow(self.session.follows(), &self.reader.view().read());
        woken(&seat);
        seat
    }

    /// So much time goes by, and nothing is sent before it is over.
    #[track_caller]
    fn pass(&mut self, time: Duration) {
        let (end, second) = (self.now + time, Duration::from_secs(1));
        while self.now + second < end {
            self.now += second;
            self.quiet();
        }
        self.now = end;
    }
}

#[test]
fn listeners_and_clusters_come_as_whole_sets_and_an_empty_one_is_answered_too() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1")]);
    world.takes(Cluster, &[], &["a", "b"]);
    world.takes(Listener, &[], &[]);
    world.quiet();
    world.publish(vec![cluster("b", "2")], &[]);
    let response = world.sent(Cluster, &["a", "b"]);
    world.publish(vec![cluster("c", "1")], &[]);
    world.quiet();
    world.request(Cluster, &[], response.nonce, None);
    let next = world.sent(Cluster, &["a", "b", "c"]);
    assert!(next.nonce != response.nonce && next.version != response.version);
}

#[test]
fn other_types_come_as_far_as_they_change_and_what_is_missing_is_silence() {
    let mut world = World::new(vec![resource(Endpoints, "a", "1"), resource(Endpoints, "b", "1")]);
    let ask = ["a", "b", "missing"];
    world.takes(Endpoints, &ask, &["a", "b"]);
    world.quiet();
    world.publish(vec![resource(Endpoints, "b", "2"), resource(Endpoints, "other", "1")], &[]);
    let response = world.sent(Endpoints, &["b"]);
    world.request(Endpoints, &ask, response.nonce, None);
    world.publish(vec![resource(Endpoints, "missing", "1")], &[(Endpoints, "a")]);
    world.sent(Endpoints, &["missing"]);
}

#[test]
fn an_answer_to_an_older_response_is_ignored_whole() {
    let mut world = World::new(vec![resource(Endpoints, "a", "1"), resource(Endpoints, "b", "1")]);
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.publish(vec![resource(Endpoints, "a", "2")], &[]);
    let second = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a", "b"], first.nonce, None);
    world.quiet();
    world.request(Endpoints, &["a", "b"], second.nonce, None);
    world.sent(Endpoints, &["b"]);
}

#[test]
fn a_foreign_nonce_at_the_start_and_two_requests_before_the_first_answer_do_no_harm() {
    let mut world = World::new(vec![resource(Endpoints, "a", "1"), resource(Endpoints, "b", "1")]);
    world.request(Endpoints, &["a"], 0xdead, None);
    world.request(Endpoints, &["a", "b"], 0, None);
    world.sent(Endpoints, &["a", "b"]);
}

#[test]
fn names_that_come_again_are_answered_again_with_the_same_nonce_too() {
    let mut world = World::new(vec![resource(Endpoints, "a", "1"), resource(Endpoints, "b", "1")]);
    let first = world.takes(Endpoints, &["a", "b"], &["a", "b"]);
    world.request(Endpoints, &["b"], first.nonce, None);
    world.quiet();
    world.request(Endpoints, &["a", "b"], first.nonce, None);
    world.sent(Endpoints, &["a"]);
}

#[test]
fn the_wildcard_ends_with_the_first_list_of_names() {
    let mut world = World::new(vec![resource(Cluster, "a", "1"), resource(Cluster, "b", "1")]);
    let first = world.takes(Cluster, &[], &["a", "b"]);
    world.request(Cluster, &["*", "a"], first.nonce, None);
    let both = world.sent(Cluster, &["a", "b"]);
    world.request(Cluster, &["a"], both.nonce, None);
    let one = world.sent(Cluster, &["a"]);
    world.request(Cluster, &[], one.nonce, None);
    world.quiet();
    // For the other types an empty list never was a wildcard.
    let mut world = World::new(vec![resource(Endpoints, "a", "1")]);
    world.request(Endpoints, &[], 0, None);
    world.quiet();
}

#[test]
fn refused_content_is_not_sent_again_until_it_changes() {
    let mut world = World::new(vec![cluster("bad", "1"), cluster("good", "1")]);
    world.request(Cluster, &[], 0, None);
    let refused = world.sent(Cluster, &["bad", "good"]);
    world.request(Cluster, &[], refused.nonce, Some("cluster bad: no"));
    world.quiet();
    let parked: Vec<_> = world
        .session
        .reports()
        .into_iter()
        .flat_map(|(_, state)| state.parked.keys().cloned().collect::<Vec<_>>())
        .collect();
    assert_eq!(parked, ["bad".into()]);
    world.publish(vec![cluster("bad", "2")], &[]);
    let next = world.sent(Cluster, &["bad", "good"]);
    world.request(Cluster, &[], next.nonce, None);
    world.quiet();
}

#[test]
fn assignments_and_secrets_follow_a_parent_that_changed() {
    let listener = |payload| Resource { children: vec![(Secret, "tls".into())], ..resource(Listener, "l", payload) };
    let mut world = World::new(vec![
        cluster("a", "1"),
        cluster("b", "1"),
        resource(Endpoints, "a", "1"),
        resource(Endpoints, "b", "1"),
        resource(Secret, "tls", "s"),
        listener("1"),
    ]);
    world.takes(Cluster, &[], &["a", "b"]);
    world.takes(Endpoints, &["a", "b"], &["a", "b"]);
    world.takes(Listener, &[], &["l"]);
    world.takes(Secret, &["tls"], &["tls"]);
    world.publish(vec![cluster("b", "2"), listener("2")], &[]);
    world.sent(Cluster, &["a", "b"]);
    world.sent(Endpoints, &["b"]);
    world.sent(Listener, &["l"]);
    world.sent(Secret, &["tls"]);
}

#[test]
fn a_route_waits_for_the_clusters_that_it_newly_needs() {
    let mut world = World::new(vec![cluster("a", "1"), naming(Route, "r", "1", &["a"])]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Route, &["r"], &["r"]);
    world.publish(vec![cluster("b", "1"), naming(Route, "r", "2", &["b"])], &[]);
    let clusters = world.sent(Cluster, &["a", "b"]);
    world.quiet();
    world.request(Cluster, &[], clusters.nonce, None);
    world.sent(Route, &["r"]);
}

#[test]
fn a_wait_for_clusters_ends() {
    let mut world = World::new(vec![cluster("a", "1"), naming(Route, "r", "1", &["a"])]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Route, &["r"], &["r"]);
    world.publish(vec![cluster("b", "1"), naming(Route, "r", "2", &["b"])], &[]);
    world.sent(Cluster, &["a", "b"]);
    world.quiet();
    world.pass(Duration::from_secs(14));
    world.quiet();
    let deadline = world.session.next_deadline().unwrap();
    world.pass(deadline - world.now);
    world.sent(Route, &["r"]);
}

#[test]
fn a_cluster_stays_until_nothing_names_it_and_requests_are_through() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1"), naming(Route, "r", "1", &["a"])]);
    world.takes(Cluster, &[], &["a", "b"]);
    world.takes(Listener, &[], &[]);
    world.takes(Route, &["r"], &["r"]);
    world.publish(vec![naming(Route, "r", "2", &["b"])], &[(Cluster, "a")]);
    let route = world.sent(Route, &["r"]);
    world.pass(Duration::from_secs(100));
    world.quiet();
    world.request(Route, &["r"], route.nonce, None);
    world.quiet();
    world.pass(LINGER - Duration::from_millis(1));
    world.quiet();
    world.pass(Duration::from_millis(1));
    world.sent(Cluster, &["b"]);
}

#[test]
fn a_client_that_comes_back_with_the_version_of_all_is_sent_nothing() {
    let mut world = World::new(vec![cluster("a", "1")]);
    let version = world.takes(Cluster, &[], &["a"]).version.to_string();
    let anew = |now| {
        let mut session = Session::new(CLIENT, now);
        session.trust(true);
        session
    };
    world.session = anew(world.now);
    let again = |version: &str, names: Vec<String>| Request {
        url: Cluster.url().into(),
        version: version.into(),
        names,
        ..Request::default()
    };
    let view = Arc::clone(world.reader.view());
    world.session.on_request(&again(&version, vec![]), &view.read(), world.now).unwrap();
    world.quiet();
    world.publish(vec![cluster("a", "2")], &[]);
    world.sent(Cluster, &["a"]);
    // Another version, or names of its own: it may lack what it asks for.
    for request in [again("0123456789abcdef", vec![]), again(&version, vec!["a".into()])] {
        world.session = anew(world.now);
        world.session.on_request(&request, &view.read(), world.now).unwrap();
        world.sent(Cluster, &["a"]);
    }
}

#[test]
fn what_the_wildcard_adds_while_a_response_is_on_its_way_is_not_told_as_taken() {
    for kind in [Cluster, Endpoints] {
        let mut world = World::new(vec![resource(kind, "a", "1"), resource(kind, "b", "1")]);
        world.takes(kind, &["b"], &["b"]);
        world.quiet();
        world.publish(vec![resource(kind, "b", "2")], &[]);
        let last = world.sent(kind, &["b"]).nonce;
        world.request(kind, &["b", "*"], 0, None);
        let taken = |world: &mut World| {
            let reports = world.session.reports();
            let (_, state) = reports.iter().find(|(of, _)| *of == kind).expect("something new");
            ["a", "b"].map(|name| state.acked(name, Seq(1)) == Acked::Acked)
        };
        assert_eq!(taken(&mut world), [false, false]);
        world.request(kind, &["b", "*"], last, None);
        assert_eq!(taken(&mut world), [false, true], "nothing went out meanwhile");
        let both: &[&str] = if kind == Cluster { &["a", "b"] } else { &["a"] };
        let next = world.sent(kind, both).nonce;
        world.request(kind, &["b", "*"], next, None);
        world.quiet();
        assert_eq!(taken(&mut world), [true, true]);
    }
}

#[test]
fn a_version_of_what_comes_in_parts_does_not_say_what_a_client_has() {
    let mut world = World::new(vec![cluster("a", "1"), naming(Route, "r", "1", &["a"]), resource(Route, "q", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Route, &["*"], &["q", "r"]);
    // One of them waits for its cluster, the other does not.
    let changed = vec![cluster("b", "1"), naming(Route, "r", "2", &["b"]), resource(Route, "q", "2")];
    world.publish(changed, &[]);
    world.sent(Cluster, &["a", "b"]);
    let version = world.sent(Route, &["q"]).version.to_string();
    world.session = Session::new(CLIENT, world.now);
    world.session.trust(true);
    let names = vec!["*".to_owned()];
    let again = Request { url: Route.url().into(), version, names, ..Request::default() };
    world.session.on_request(&again, &world.reader.view().read(), world.now).unwrap();
    world.sent(Route, &["q", "r"]);
}

#[test]
fn a_first_listener_waits_for_its_clusters_with_all_the_others() {
    let mut world =
        World::new(vec![cluster("a", "1"), resource(Listener, "x", "1"), naming(Listener, "y", "1", &["a"])]);
    world.request(Cluster, &[], 0, None);
    let clusters = world.sent(Cluster, &["a"]);
    world.request(Listener, &[], 0, None);
    world.quiet();
    world.request(Cluster, &[], clusters.nonce, None);
    world.sent(Listener, &["x", "y"]);
}

#[test]
fn a_client_that_has_something_waits_until_it_may_be_compared() {
    let mut world = World::new(vec![cluster("a", "1")]);
    let request = Request { url: Cluster.url().into(), version: "other".into(), ..Request::default() };
    let view = Arc::clone(world.reader.view());
    world.session.on_request(&request, &view.read(), world.now).unwrap();
    world.quiet();
    assert!(world.session.unsure());
    world.session.trust(false);
    world.quiet();
    assert!(world.session.stale());
    world.session = Session::new(CLIENT, world.now);
    world.session.on_request(&request, &view.read(), world.now).unwrap();
    world.session.trust(true);
    world.sent(Cluster, &["a"]);
}

#[test]
fn an_empty_list_of_a_grpc_client_is_never_everything() {
    let mut world = World::of(Role::Grpc, vec![cluster("a", "1"), cluster("b", "1")]);
    world.request(Cluster, &[], 0, None);
    world.request(Listener, &[], 0, None);
    world.quiet();
    let response = world.takes(Cluster, &["a", "missing"], &["a"]);
    world.request(Cluster, &[], response.nonce, None);
    world.quiet();
    world.publish(vec![cluster("a", "2")], &[]);
    world.quiet();
}

#[test]
fn names_that_went_and_came_back_are_followed_as_before() {
    let mut world = World::of(Role::Grpc, vec![resource(Endpoints, "a", "1")]);
    let first = world.takes(Endpoints, &["a"], &["a"]);
    world.request(Endpoints, &[], first.nonce, None);
    world.publish(vec![resource(Endpoints, "a", "2")], &[]);
    world.quiet();
    world.request(Endpoints, &["a"], first.nonce, None);
    let second = world.sent(Endpoints, &["a"]);
    world.request(Endpoints, &["a"], second.nonce, None);
    world.publish(vec![resource(Endpoints, "a", "3")], &[]);
    world.sent(Endpoints, &["a"]);
}

#[test]
fn a_cluster_set_is_whole_however_large_and_assignments_come_in_parts() {
    let large: &'static str = Box::leak("x".repeat(600 << 10).into_boxed_str());
    let names = ["a", "b", "c", "d", "e", "f"];
    let both = names.iter().flat_map(|name| [cluster(name, large), resource(Endpoints, name, large)]).collect();
    let mut world = World::of(Role::Grpc, both);
    world.takes(Cluster, &names, &names);
    let reported = world.session.reports();
    let set = |kind| reported.iter().find(|(known, _)| *known == kind).map(|(_, state)| state.set);
    assert!(set(Cluster).is_some_and(|bytes| bytes > feedback::LARGE_SET), "worth an alarm: {:?}", set(Cluster));
    world.request(Endpoints, &names, 0, None);
    for name in names {
        let part = world.sent(Endpoints, &[name]);
        assert!(!world.session.complete(&world.reader.view().read(), Some(Endpoints)), "the rest is to come");
        world.request(Endpoints, &names, part.nonce, None);
    }
    world.quiet();
    let content = Arc::clone(world.reader.view());
    assert!(world.session.reports().iter().all(|(_, state)| state.acked == content.read().seq()));
}

#[test]
fn scopes_are_whole_sets_filters_and_layers_are_not_and_virtual_hosts_are_unknown() {
    use ResourceType::{Extension, Runtime, ScopedRoute, VirtualHost};
    let all = [(ScopedRoute, "s1"), (ScopedRoute, "s2"), (Extension, "x"), (Runtime, "rt"), (VirtualHost, "r/h")];
    let mut world = World::new(all.map(|(kind, name)| resource(kind, name, "1")).into());
    world.request(VirtualHost, &["r/h"], 0, None);
    world.quiet();
    world.takes(ScopedRoute, &[], &["s1", "s2"]);
    world.takes(Extension, &["x"], &["x"]);
    world.takes(Runtime, &["rt"], &["rt"]);
    world.publish(vec![resource(Extension, "x", "2")], &[(ScopedRoute, "s1"), (Runtime, "rt")]);
    world.sent(Extension, &["x"]);
    world.sent(ScopedRoute, &["s2"]);
    world.quiet();
}

#[test]
fn a_missing_name_beside_others_is_told_once_and_never_answered_in_a_loop() {
    let mut world = World::new(vec![resource(Listener, "a", "1"), resource(Endpoints, "e", "1")]);
    world.request(Listener, &["a", "missing"], 0, None);
    let response = world.sent(Listener, &["a"]);
    assert_eq!(response.errors, [Absent::of(Listener, "missing".into(), true)]);
    world.request(Listener, &["a", "missing"], response.nonce, None);
    world.quiet();
    world.request(Endpoints, &["e", "x"], 0, None);
    let response = world.sent(Endpoints, &["e"]);
    assert_eq!(response.errors, [Absent::of(Endpoints, "x".into(), true)]);
    world.request(Endpoints, &["e", "x"], response.nonce, None);
    world.quiet();
    world.publish(vec![resource(Endpoints, "x", "1"), resource(Listener, "missing", "1")], &[]);
    let there = world.sent(Endpoints, &["x"]);
    assert_eq!(there.errors, []);
    let there = world.sent(Listener, &["a", "missing"]);
    assert_eq!(there.errors, []);
}

#[test]
fn an_assignment_whose_cluster_is_there_is_to_come_and_not_missing() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.request(Endpoints, &["a"], 0, None);
    world.quiet();
    world.publish(vec![resource(Endpoints, "a", "1")], &[]);
    world.sent(Endpoints, &["a"]);
}

#[test]
fn a_collection_is_said_to_be_for_delta_only() {
    let mut world = World::new(vec![]);
    let glob = "xdstp://h/envoy.config.endpoint.v3.ClusterLoadAssignment/f/*";
    world.request(Endpoints, &[glob], 0, None);
    let response = world.sent(Endpoints, &[]);
    assert_eq!(response.errors, [Absent { name: glob.into(), why: Why::Collection }]);
    world.request(Endpoints, &[glob], response.nonce, None);
    world.quiet();
}

/// Corner case 23: one bad resource of three keeps no other away.
#[test]
fn a_refused_response_is_tried_again_in_parts_until_one_name_is_alone() {
    let secrets = |payload| ["a", "b", "c"].map(|name| resource(Secret, name, payload)).to_vec();
    let ask = ["a", "b", "c"];
    for error in ["something is wrong", "secret b is bad"] {
        let mut world = World::new(secrets("1"));
        world.request(Secret, &ask, 0, None);
        let mut taken = BTreeSet::new();
        while let Some(response) = world.poll() {
            let names: Vec<_> = response.resources.iter().map(|r| r.name.to_string()).collect();
            let bad = names.contains(&"b".to_owned());
            world.request(Secret, &ask, response.nonce, bad.then_some(error));
            if !bad {
                taken.extend(names);
            }
            assert!(response.nonce < 10, "a hot loop");
        }
        assert_eq!(taken, ["a".to_owned(), "c".to_owned()].into());
        world.publish(vec![resource(Secret, "b", "2")], &[]);
        world.sent(Secret, &["b"]);
    }
}

#[test]
fn a_name_is_blamed_as_a_word_only() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("bad", "1")]);
    world.request(Cluster, &[], 0, None);
    let refused = world.sent(Cluster, &["a", "bad"]);
    world.request(Cluster, &[], refused.nonce, Some("cluster bad has faults"));
    let state = world.session.reports().remove(0).1;
    assert_eq!(state.parked.keys().cloned().collect::<Vec<_>>(), ["bad".into()]);
}

#[test]
fn a_response_to_whoever_asks_for_nothing_any_more_holds_nothing_up() {
    let mut world = World::new(vec![cluster("a", "1"), naming(Route, "r", "1", &["a"])]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Listener, &[], &[]);
    let route = world.takes(Route, &["r"], &["r"]);
    world.publish(vec![naming(Route, "r", "2", &["a"])], &[]);
    world.sent(Route, &["r"]);
    // It drops the type; the response on its way is never answered (O12).
    world.request(Route, &[], route.nonce + 1, None);
    world.publish(vec![], &[(Cluster, "a"), (Route, "r")]);
    world.quiet();
    world.pass(LINGER);
    world.sent(Cluster, &[]);
}

#[test]
fn a_cluster_that_nothing_names_goes_without_anything_else_happening() {
    let mut world = World::new(vec![cluster("a", "1"), cluster("b", "1")]);
    world.takes(Cluster, &[], &["a", "b"]);
    world.takes(Listener, &[], &[]);
    world.request(Route, &["r"], 0, None);
    while let Some(response) = world.poll() {
        world.request(response.kind, &["r"], response.nonce, None);
    }
    world.stands();
    world.publish(vec![], &[(Cluster, "a")]);
    world.quiet();
    assert_eq!(world.session.next_deadline(), Some(world.now + LINGER));
}

#[test]
fn what_has_a_time_to_live_is_sent_again_whole_and_in_its_wrapper() {
    let ttl = Duration::from_secs(30);
    let mut world = World::new(vec![resource(Endpoints, "a", "1").lasting(ttl), resource(Endpoints, "b", "1")]);
    world.request(Endpoints, &["a", "b"], 0, None);
    let mut response = world.sent(Endpoints, &["a", "b"]);
    assert!(response.wraps);
    world.stands();
    for _ in 0..3 {
        world.request(Endpoints, &["a", "b"], response.nonce, None);
        world.quiet();
        let deadline = world.session.next_deadline().unwrap();
        assert!(deadline < world.now + ttl / 2);
        world.pass(deadline - world.now);
        response = world.sent(Endpoints, &["a"]);
    }
    // A set is whole with it too: a response without the rest would delete that.
    let mut world = World::new(vec![resource(Cluster, "a", "1").lasting(ttl), resource(Cluster, "b", "1")]);
    let response = world.takes(Cluster, &[], &["a", "b"]);
    world.stands();
    world.pass(world.session.next_deadline().unwrap() - world.now);
    assert_eq!(world.sent(Cluster, &["a", "b"]).version, response.version);
    // Whoever does not read the wrapper is told of no time, and not reminded.
    let mut world = World::new(vec![resource(Endpoints, "a", "1").lasting(ttl)]);
    world.session = Session::new(Client { unwraps: false, ..CLIENT }, world.now);
    assert!(!world.takes(Endpoints, &["a"], &["a"]).wraps);
    world.pass(10 * ttl);
    world.quiet();
}
