//! What a stream may ask for at most, and what is told of it.

use super::*;

fn ask(url: &str, names: Vec<String>) -> Request {
    Request { url: url.into(), names, ..Request::default() }
}

#[test]
fn names_and_types_are_taken_up_to_their_limits_and_no_further() {
    let world = World::new(vec![]);
    let request = |url: &str, names: Vec<String>| {
        let mut session = Session::new(CLIENT, world.now);
        session.on_request(&ask(url, names), &world.reader.view().read(), world.now)
    };
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(request(Endpoints.url(), vec!["x".repeat(MAX_NAME)]), Ok(()));
    assert_eq!(request(Endpoints.url(), vec!["x".repeat(MAX_NAME + 1)]), Err(Violation::LongName));
    assert_eq!(request(Endpoints.url(), many(MAX_NAMES)), Ok(()));
    assert_eq!(request(Endpoints.url(), many(MAX_NAMES + 1)), Err(Violation::TooManyNames));
    assert_eq!(request(&"x".repeat(MAX_NAME), vec![]), Ok(()));
    for more in [1, 2, 1000] {
        assert_eq!(request(&"x".repeat(MAX_NAME + more), vec![]), Err(Violation::LongType));
    }
    assert_eq!(request("", vec![]), Err(Violation::NoType));
}

#[test]
fn a_session_is_unsure_only_while_something_reported_waits_for_a_word() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.takes(Cluster, &[], &["a"]);
    assert!(!world.session.unsure());
    let reported = Request { version: "other".into(), ..ask(Listener.url(), vec![]) };
    let view = Arc::clone(world.reader.view());
    world.session.on_request(&reported, &view.read(), world.now).unwrap();
    world.quiet();
    assert!(world.session.unsure());
    world.session.trust(true);
    assert!(!world.session.unsure() && !world.session.stale());
    world.sent(Listener, &[]);
}

fn complete(world: &World, only: Option<ResourceType>) -> bool {
    world.session.complete(&world.reader.view().read(), only)
}

#[test]
fn a_client_is_complete_when_it_has_asked_for_and_taken_everything() {
    let mut world = World::new(vec![cluster("a", "1"), naming(Route, "r", "1", &["a"])]);
    assert!(!complete(&world, None), "nothing is asked for");
    world.takes(Cluster, &[], &["a"]);
    assert!(!complete(&world, None), "no listeners are asked for");
    assert!(complete(&world, Some(Cluster)) && !complete(&world, Some(Listener)));
    world.request(Listener, &[], 0, None);
    let listeners = world.sent(Listener, &[]);
    world.quiet();
    assert!(!complete(&world, None), "listeners are on their way");
    world.request(Listener, &[], listeners.nonce, None);
    world.quiet();
    assert!(complete(&world, None));
    world.takes(Route, &["r"], &["r"]);
    world.quiet();
    assert!(complete(&world, None));
    world.publish(vec![cluster("b", "1"), naming(Route, "r", "2", &["b"])], &[]);
    assert!(!complete(&world, None), "it has not been looked at");
    let clusters = world.sent(Cluster, &["a", "b"]);
    world.quiet();
    assert!(!complete(&world, None), "the route is held back");
    world.request(Cluster, &[], clusters.nonce, None);
    let route = world.sent(Route, &["r"]);
    world.request(Route, &["r"], route.nonce, None);
    world.quiet();
    assert!(complete(&world, None));
    world.session.trust(false);
    assert!(!complete(&world, None) && !complete(&world, Some(Cluster)), "it may have been left with something older");
}

#[test]
fn the_cursor_of_what_is_acknowledged_moves_with_the_answer_and_not_before() {
    let mut world = World::new(vec![cluster("a", "1")]);
    let told = |world: &mut World| {
        let reports = world.session.reports();
        let (_, state) = reports.into_iter().find(|(kind, _)| *kind == Cluster).expect("something new");
        (state.sent, state.acked)
    };
    world.request(Cluster, &[], 0, None);
    let response = world.sent(Cluster, &["a"]);
    let seq = world.reader.view().read().seq();
    assert_eq!(told(&mut world), (seq, Seq(0)));
    world.request(Cluster, &[], response.nonce, None);
    assert_eq!(told(&mut world), (seq, seq));
}

#[test]
fn a_new_listener_that_waits_holds_back_no_other_once_the_first_set_is_out() {
    let mut world = World::new(vec![cluster("a", "1"), resource(Listener, "x", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Listener, &[], &["x"]);
    world.publish(vec![cluster("b", "1"), resource(Listener, "x", "2"), naming(Listener, "y", "1", &["b"])], &[]);
    let clusters = world.sent(Cluster, &["a", "b"]);
    let listeners = world.sent(Listener, &["x"]);
    world.request(Listener, &[], listeners.nonce, None);
    world.quiet();
    world.request(Cluster, &[], clusters.nonce, None);
    world.sent(Listener, &["x", "y"]);
}

#[test]
fn types_that_are_never_requested_hold_removals_for_fifteen_seconds_after_the_first_ack() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.publish(vec![], &[(Cluster, "a")]);
    world.quiet();
    world.pass(UNREQUESTED - Duration::from_millis(1));
    world.quiet();
    assert_eq!(world.session.next_deadline(), Some(world.now + Duration::from_millis(1)));
    world.pass(Duration::from_millis(1));
    world.quiet();
    world.pass(LINGER - Duration::from_millis(1));
    world.quiet();
    world.pass(Duration::from_millis(1));
    world.sent(Cluster, &[]);
}

#[test]
fn a_client_that_acknowledges_nothing_holds_removals_for_a_minute() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.request(Cluster, &[], 0, None);
    let first = world.sent(Cluster, &["a"]);
    world.publish(vec![], &[(Cluster, "a")]);
    world.pass(4 * UNREQUESTED - Duration::from_secs(1));
    world.quiet();
    // Its answer comes late: from then on it is as for any other.
    world.request(Cluster, &[], first.nonce, None);
    world.quiet();
    world.pass(UNREQUESTED - Duration::from_millis(1));
    world.quiet();
    world.pass(Duration::from_millis(1));
    world.quiet();
    world.pass(LINGER);
    world.sent(Cluster, &[]);
}

#[test]
fn a_stream_has_passed_a_removal_when_it_has_looked_at_every_set_that_is_whole() {
    let mut world = World::new(vec![cluster("a", "1"), naming(Listener, "l", "1", &["a"])]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Listener, &[], &["l"]);
    world.quiet();
    let passed = |world: &World| {
        let content = world.reader.view().read();
        (world.session.passed(&content), content.seq())
    };
    let (before, seq) = passed(&world);
    assert_eq!(before, seq);
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(passed(&world), (before, Seq(seq.0 + 1)));
    world.sent(Listener, &[]);
    assert_eq!(passed(&world).0, Seq(seq.0 + 1));
}
