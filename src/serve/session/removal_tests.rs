//! Clusters that went: what holds their removal up, what does not, and in which order they go.

use ResourceType::{Cluster, Endpoints, Listener, Route};

use super::{world::*, *};
use crate::xds::Resource;

const NOTHING: [&str; 0] = [];

#[test]
fn a_cluster_stays_while_the_route_that_let_go_of_it_is_held_back_and_until_that_is_acknowledged() {
    let mut world = World::running();
    world.publish(vec![cluster("c", "1"), rds("2", &["c"])], &[(Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.out(), ["CDS +c"]);
    assert_eq!(world.after(10), NOTHING);
    world.ack(Cluster);
    // The cursor is behind the removal; the route is sent apart from it.
    assert_eq!(world.out(), ["RDS +r"]);
    assert_eq!(world.after(30), NOTHING);
    world.ack(Route);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(5), ["CDS -a"]);
}

#[test]
fn a_route_that_was_never_there_holds_nothing_up_though_a_listener_names_it() {
    let mut world = World::running();
    world.subscribe(Route, &["x"]);
    assert_eq!(world.settle(), ["RDS -x"]);
    let mut listener = resource(Listener, "m", "1");
    listener.requires = vec![(Route, "x".into())];
    world.publish(vec![listener], &[]);
    assert_eq!(world.settle(), ["LDS +m"]);
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.settle(), ["RDS +r"]);
    assert_eq!(world.after(5), ["CDS -a"]);
}

#[test]
fn a_type_of_which_nothing_is_asked_holds_nothing_up_though_it_is_not_compared() {
    let mut world = World::running();
    world.reconnect_unsure();
    world.subscribe(Cluster, &[]);
    world.subscribe(Listener, &[]);
    let initial = [("x".to_owned(), "1".to_owned())].into_iter().collect();
    world.request(Route, Request { unsubscribe: owned(&["x"]), initial, ..Request::default() });
    world.settle();
    world.publish(vec![], &[(Cluster, "b"), (Endpoints, "b")]);
    assert_eq!(world.settle(), NOTHING);
    assert!(world.session.unsure());
    assert_eq!(world.after(5), ["CDS -b"]);
}

#[test]
fn a_removal_is_a_response_like_others_and_waits_for_one_of_four_to_be_answered() {
    let mut world = World::running();
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.settle();
    for payload in ["2", "3", "4", "5"] {
        world.publish(vec![resource(Cluster, "b", payload)], &[]);
        assert_eq!(world.out(), ["CDS +b"]);
    }
    assert_eq!(world.after(30), NOTHING);
    world.ack(Cluster);
    assert_eq!(world.out(), ["CDS -a"]);
}

#[test]
fn what_is_remembered_of_removals_is_a_few_seconds_under_churn() {
    let mut world = World::running();
    let names: Vec<String> = (0..60).map(|n| format!("c{n}")).collect();
    world.publish(names.iter().map(|name| resource(Cluster, name, "1")).collect(), &[]);
    world.settle();
    let mut gone = Vec::new();
    for name in &names {
        world.publish(vec![], &[(Cluster, name)]);
        gone.extend(world.settle());
        world.now += Duration::from_millis(200);
        assert!(world.session.marks.len() < 10, "{:?}", world.session.marks);
    }
    for _ in 0..7 {
        world.now += Duration::from_secs(1);
        gone.extend(world.settle());
    }
    assert_eq!(gone.concat().matches('-').count(), names.len(), "{gone:?}");
}

#[test]
fn a_removal_that_waits_wakes_the_stream_when_it_is_due_and_not_before() {
    let mut world = World::running();
    world.after(2);
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    assert_eq!(world.settle(), ["RDS +r"]);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.session.next_deadline(), Some(world.now + Duration::from_secs(5)));
}

/// A route that is asked for again is answered again; a cluster that is still in use is not called absent for that.
#[test]
fn a_cluster_that_is_to_go_and_is_asked_for_or_let_go_of_by_name_goes_in_its_order_all_the_same() {
    let (asked, dropped) = (owned(&["a"]), owned(&["a"]));
    let requests =
        [Request { subscribe: asked, ..Request::default() }, Request { unsubscribe: dropped, ..Request::default() }];
    for request in requests {
        let mut world = World::running();
        world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
        assert_eq!(world.out(), ["RDS +r"]);
        world.request(Cluster, request);
        assert_eq!(world.after(30), NOTHING);
        world.ack(Route);
        assert_eq!(world.out(), NOTHING);
        assert_eq!(world.after(5), ["CDS -a"]);
    }
}

#[test]
fn a_listener_that_goes_while_it_is_asked_for_by_name_is_removed_though_the_wildcard_comes_before_its_turn() {
    let mut world = World::new();
    world.publish(vec![lds("1"), resource(Listener, "m", "1")], &[]);
    world.subscribe(Listener, &["l"]);
    world.settle();
    world.publish(vec![Resource { name: "l".into(), ..lds("2") }], &[]);
    assert_eq!(world.out(), ["LDS +l"]);
    world.publish(vec![], &[(Listener, "l")]);
    assert_eq!(world.out(), NOTHING, "one response is on its way");
    world.subscribe(Listener, &["*"]);
    world.ack(Listener);
    assert_eq!(world.settle(), ["LDS +m -l"]);
}
