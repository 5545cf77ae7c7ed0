//! What a stream may ask for at most, and what is told of it.

use ResourceType::{Cluster, Endpoints, Listener, Route};

use super::{world::*, *};

const NOTHING: [&str; 0] = [];

#[test]
fn names_and_types_are_taken_up_to_their_limits_and_no_further() {
    let world = World::running();
    let url = || Endpoints.url().to_owned();
    let request = |request: Request| {
        let mut session = session(Role::Edge, world.now);
        session.on_request(request, &world.reader.view().read(), world.now)
    };
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    let (full, long) = ("x".repeat(MAX_NAME), "x".repeat(MAX_NAME + 1));
    let subscribe = |names: Vec<String>| Request { url: url(), subscribe: names, ..Request::default() };
    let unsubscribe = |names: Vec<String>| Request { url: url(), unsubscribe: names, ..Request::default() };
    let report = |names: Vec<String>| {
        let initial = names.into_iter().map(|name| (name, String::new())).collect();
        Request { url: url(), initial, ..Request::default() }
    };
    for form in [&subscribe as &dyn Fn(Vec<String>) -> Request, &unsubscribe, &report] {
        assert_eq!(request(form(vec![full.clone()])), Ok(()));
        assert_eq!(request(form(vec![long.clone()])), Err(Violation::LongName));
    }
    for form in [&subscribe as &dyn Fn(Vec<String>) -> Request, &report] {
        assert_eq!(request(form(many(MAX_NAMES))), Ok(()));
        assert_eq!(request(form(many(MAX_NAMES + 1))), Err(Violation::TooManyNames));
    }
    let initial = std::iter::once((&b"\xff"[..], &b""[..])).collect();
    assert_eq!(request(Request { url: url(), initial, ..Request::default() }), Err(Violation::NotText));
    let mut world = World::running();
    let mut again = |initial| {
        let request = Request { url: url(), initial, ..Request::default() };
        world.session.on_request(request, &world.reader.view().read(), world.now)
    };
    assert_eq!(again(Reported::default()), Ok(()));
    assert_eq!(
        again([(long.as_str(), "")].into_iter().collect()),
        Err(Violation::LongName),
        "though it does not count"
    );
    assert_eq!(again(vec![bytes::Bytes::from_static(b"\x0a\x05few")].into()), Err(Violation::NoEntry));
    let unknown = |url: &str, names: Vec<String>| Request { url: url.into(), subscribe: names, ..Request::default() };
    assert_eq!(request(unknown(&full, vec![])), Ok(()));
    assert_eq!(request(unknown(&long, vec![])), Err(Violation::LongType));
    assert_eq!(request(unknown("x", many(MAX_NAMES))), Ok(()));
    assert_eq!(request(unknown("x", many(MAX_NAMES + 1))), Err(Violation::TooManyNames));
    assert_eq!(request(unknown("", vec![])), Err(Violation::NoType));
}

#[test]
fn names_of_unknown_types_are_counted_over_all_of_them_until_they_are_answered() {
    let mut world = World::running();
    let half = || (0..MAX_NAMES / 2).map(|n| n.to_string()).collect::<Vec<_>>();
    let mut ask = |url: &str, subscribe: Vec<String>| {
        let request = Request { url: url.into(), subscribe, ..Request::default() };
        world.session.on_request(request, &world.reader.view().read(), world.now)
    };
    assert_eq!(ask("one", half()), Ok(()));
    assert_eq!(ask("two", half()), Ok(()));
    assert_eq!(ask("three", vec!["more".into()]), Err(Violation::TooManyNames));
}

#[test]
fn a_stream_has_passed_a_removal_when_it_has_taken_it_over() {
    let mut world = World::running();
    let (before, seq) = world.passed();
    assert_eq!(before, seq);
    world.publish(vec![], &[(Cluster, "a"), (Listener, "l")]);
    assert_eq!(world.passed().0, before);
    world.out();
    assert_eq!(world.passed(), (Seq(seq.0 + 1), Seq(seq.0 + 1)));
    // Not while it may not remove: the tombstone is all that will tell it.
    world.fresh = false;
    world.publish(vec![], &[(Listener, "l"), (Route, "r")]);
    world.out();
    let (passed, seq) = world.passed();
    assert!(passed <= seq);
}

#[test]
fn a_removal_is_passed_by_types_that_have_nothing_to_say_of_it_and_by_those_that_never_will() {
    let mut world = World::running();
    let passed = |world: &World| {
        let (passed, seq) = world.passed();
        passed == seq
    };
    world.publish(vec![], &[(Cluster, "a")]);
    world.out();
    assert!(passed(&world), "no listener went");
    world.publish(vec![eds("b", "2")], &[]);
    assert_eq!(world.out(), ["EDS +b"]);
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(world.out(), ["LDS -l"]);
    assert!(passed(&world), "of assignments that are asked for by name no removal is told");
}

#[test]
fn a_removal_that_an_open_response_holds_up_is_passed_only_where_the_stream_remembers_it() {
    let at = |id: &str| format!("xdstp://h/envoy.config.route.v3.RouteConfiguration/{id}");
    let (glob, one, two) = (at("f/*"), at("f/1"), at("f/2"));
    for (kind, asked, [stays, goes], remembers) in [
        (Cluster, vec![], ["a", "b"], true),
        (Listener, vec!["l", "m"], ["l", "m"], false),
        (Route, vec![glob.as_str()], [&one, &two], true),
    ] {
        let mut world = World::new();
        world.publish(vec![resource(kind, stays, "0"), resource(kind, goes, "0")], &[]);
        world.subscribe(kind, &asked);
        world.settle();
        // As many as may be on their way.
        for payload in ["1", "2", "3", "4"] {
            world.publish(vec![resource(kind, stays, payload)], &[]);
            world.out();
        }
        world.publish(vec![], &[(kind, goes)]);
        assert_eq!(world.out(), NOTHING);
        let (passed, seq) = world.passed();
        assert_eq!(passed == seq, remembers, "{}", kind.short());
    }
}

#[test]
fn a_stream_of_one_type_is_complete_when_that_is_taken() {
    let mut world = World::new();
    let complete = |world: &mut World| {
        let view = Arc::clone(world.reader.view());
        world.session.complete(&view.read(), Some(Endpoints))
    };
    world.subscribe(Endpoints, &["a"]);
    assert!(!complete(&mut world), "the view is not ready");
    world.publish(vec![eds("a", "1")], &[]);
    assert!(!complete(&mut world));
    assert_eq!(world.out(), ["EDS +a"]);
    assert!(!complete(&mut world), "not answered");
    world.ack(Endpoints);
    assert_eq!(world.out(), NOTHING);
    assert!(complete(&mut world));
    world.session.trust(false);
    assert!(!complete(&mut world), "it may have been left with something older");
    // What is published after it was asked about first is not waited for.
    let mut world = World::new();
    world.subscribe(Endpoints, &["a"]);
    world.publish(vec![eds("a", "1")], &[]);
    assert_eq!(world.out(), ["EDS +a"]);
    assert!(!complete(&mut world));
    world.publish(vec![eds("a", "2")], &[]);
    world.ack(Endpoints);
    assert_eq!(world.out(), ["EDS +a"]);
    assert!(complete(&mut world), "though something is on its way");
}

#[test]
fn of_the_words_of_a_refusal_a_kibibyte_is_kept_and_no_half_letter() {
    for (words, kept) in [("é".repeat(1_000), 1_024), (format!("x{}", "é".repeat(1_000)), 1_023)] {
        let mut world = World::running();
        world.publish(vec![cluster("a", "2")], &[]);
        world.out();
        world.nack(Cluster, &words);
        let reports = world.session.reports();
        let (_, state) = reports.iter().find(|(kind, _)| *kind == Cluster).unwrap();
        assert_eq!(state.parked["a"].error.len(), kept);
    }
}

#[test]
fn collections_are_few() {
    let world = World::running();
    let globs = |from: usize, to: usize| (from..to).map(|n| format!("xdstp:///t/{n}/*")).collect::<Vec<_>>();
    let mut session = session(Role::Edge, world.now);
    let mut request = |subscribe: Vec<String>, unsubscribe: Vec<String>| {
        let request = Request { url: Endpoints.url().to_owned(), subscribe, unsubscribe, ..Request::default() };
        session.on_request(request, &world.reader.view().read(), world.now)
    };
    assert_eq!(request(vec!["xdstp:///t/*".to_owned(); MAX_GLOBS + 1], vec![]), Err(Violation::TooManyGlobs));
    assert_eq!(request(vec![], vec!["xdstp:///t/%2a".to_owned(); MAX_GLOBS + 1]), Err(Violation::TooManyGlobs));
    assert_eq!(request(globs(0, MAX_GLOBS), vec![]), Ok(()));
    assert_eq!(request(globs(0, 1), globs(0, 1)), Ok(()));
    assert_eq!(request(globs(200, 202), vec![]), Err(Violation::TooManyGlobs), "one had gone, two came");
}
