//! Claims about state-of-the-world streams.

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};

use super::*;
use crate::{
    model::{Audience, Revision, Role, Sites, Watermarks},
    snapshot::{Publish, Reader, Views},
};

/// Knows everything.
const CLIENT: Client =
    Client { role: Role::Edge, proven: true, drain: Duration::from_secs(60), expires: true, unwraps: true };

struct World {
    views: Views,
    reader: Reader,
    session: Session,
    now: Instant,
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

impl World {
    fn new(upserts: Vec<Resource>) -> Self {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into() };
        let reader = views.open(&audience);
        let now = Instant::now();
        let world = Self { views, reader, session: Session::new(CLIENT, now), now };
        world.publish(upserts, &[]);
        world
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
        let (sites, watermarks) = (Sites::default(), Watermarks::default());
        let moment = Moment { now: self.now, fresh: true, sites: &sites, watermarks: &watermarks };
        self.session.poll(&content, &moment)
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
    }

    /// Asks, is sent, acknowledges.
    #[track_caller]
    fn takes(&mut self, kind: ResourceType, ask: &[&str], names: &[&str]) -> Response {
        self.request(kind, ask, 0, None);
        let response = self.sent(kind, names);
        self.request(kind, ask, response.nonce, None);
        response
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
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
