//! What is refused, what counts as taken all the same, and what the client may have of it.

use super::*;

fn parked(world: &mut World, kind: ResourceType) -> Vec<String> {
    world.state(kind).parked.keys().map(ToString::to_string).collect()
}

#[test]
fn of_a_set_that_is_refused_without_a_name_all_that_was_new_is_refused_until_it_is_taken() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.takes(Cluster, &[], &["a"]);
    world.publish(vec![cluster("b", "1"), cluster("c", "1")], &[]);
    let refused = world.sent(Cluster, &["a", "b", "c"]);
    world.request(Cluster, &[], refused.nonce, Some("something is wrong"));
    assert_eq!(parked(&mut world, Cluster), ["b", "c"]);
    let (seq, state) = (world.seq(), world.state(Cluster));
    assert_eq!(state.acked("b", seq), Acked::Refused("something is wrong".into()));
    world.quiet();
    world.publish(vec![cluster("b", "2")], &[]);
    let next = world.sent(Cluster, &["a", "b", "c"]);
    world.request(Cluster, &[], next.nonce, None);
    assert!(parked(&mut world, Cluster).is_empty());
}

#[test]
fn a_long_error_text_is_cut_where_a_letter_ends() {
    let mut world = World::new(vec![cluster("a", "1")]);
    world.request(Cluster, &[], 0, None);
    let refused = world.sent(Cluster, &["a"]);
    world.request(Cluster, &[], refused.nonce, Some(&format!("x{}", "é".repeat(1000))));
    let kept = Acked::Refused(format!("x{}", "é".repeat(511)).into());
    assert_eq!(world.state(Cluster).acked("a", Seq(1)), kept);
}

#[test]
fn what_is_blamed_is_tried_alone_behind_all_the_rest() {
    let all = ["a", "b", "c"];
    let mut world = World::new(all.map(|name| resource(Secret, name, "1")).into());
    world.request(Secret, &all, 0, None);
    let refused = world.sent(Secret, &all);
    world.request(Secret, &all, refused.nonce, Some("secret b is bad"));
    let good = world.sent(Secret, &["a", "c"]);
    world.request(Secret, &all, good.nonce, None);
    assert_eq!(world.state(Secret).acked("a", Seq(1)), Acked::Acked);
    assert_eq!(world.state(Secret).acked("b", Seq(1)), Acked::Pending, "its turn is to come");
    world.sent(Secret, &["b"]);
}

#[test]
fn a_name_that_is_dropped_is_not_tried_again_and_one_that_is_asked_for_again_is() {
    let all = ["a", "b", "c"];
    let mut world = World::new(all.map(|name| resource(Secret, name, "1")).into());
    world.request(Secret, &all, 0, None);
    let refused = world.sent(Secret, &all);
    world.request(Secret, &["a", "b"], refused.nonce, Some("something is wrong"));
    let pair = world.sent(Secret, &["a", "b"]);
    world.request(Secret, &["a", "b"], pair.nonce, Some("something is wrong"));
    let one = world.sent(Secret, &["a"]);
    world.request(Secret, &["a", "b"], one.nonce, Some("no"));
    let one = world.sent(Secret, &["b"]);
    world.request(Secret, &["a", "b"], one.nonce, None);
    world.quiet();
    assert_eq!(parked(&mut world, Secret), ["a"]);
    world.request(Secret, &["b"], one.nonce, None);
    world.quiet();
    world.request(Secret, &["a", "b"], one.nonce, None);
    world.sent(Secret, &["a"]);
}

/// O9
#[test]
fn what_is_good_in_a_refused_set_is_there_for_whoever_names_it() {
    let mut world = World::new(vec![cluster("a", "1"), naming(Route, "r", "1", &["a"])]);
    world.takes(Cluster, &[], &["a"]);
    world.takes(Route, &["r"], &["r"]);
    world.publish(vec![cluster("bad", "1"), cluster("good", "1")], &[]);
    let refused = world.sent(Cluster, &["a", "bad", "good"]);
    world.request(Cluster, &[], refused.nonce, Some("cluster bad: no"));
    world.quiet();
    world.publish(vec![naming(Route, "r", "2", &["good"])], &[]);
    world.sent(Route, &["r"]);
}

/// Clusters `a` and `b`, and that of that kind which names `b`; the client has all of it.
fn named(kind: ResourceType, names: &[&str]) -> World {
    let mut all = vec![cluster("a", "1"), cluster("b", "1")];
    all.extend(names.iter().map(|name| naming(kind, name, "1", &["b"])));
    let mut world = World::new(all);
    world.takes(Cluster, &[], &["a", "b"]);
    world.takes(Listener, &[], if kind == Listener { names } else { &[] });
    world.takes(Route, if kind == Route { names } else { &["none"] }, if kind == Route { names } else { &[] });
    while let Some(response) = world.poll() {
        world.request(response.kind, &["none"], response.nonce, None);
    }
    world
}

#[test]
fn a_cluster_that_only_something_refused_names_stays_until_something_else_is_taken() {
    for kind in [Listener, Route] {
        let mut world = named(kind, &["x"]);
        let ask: &[&str] = if kind == Route { &["x"] } else { &[] };
        world.publish(vec![naming(kind, "x", "2", &["a"])], &[]);
        let refused = world.sent(kind, &["x"]);
        world.request(kind, ask, refused.nonce, Some("no"));
        world.publish(vec![], &[(Cluster, "a")]);
        world.pass(Duration::from_secs(100));
        world.quiet();
        world.publish(vec![naming(kind, "x", "3", &["b"])], &[]);
        let next = world.sent(kind, &["x"]);
        world.request(kind, ask, next.nonce, None);
        world.quiet();
        world.pass(LINGER);
        world.sent(Cluster, &["b"]);
    }
}

#[test]
fn a_cluster_that_a_response_refused_as_a_whole_names_stays_until_the_names_are_dropped() {
    let mut world = named(Route, &["q", "r"]);
    world.publish(["q", "r"].map(|name| naming(Route, name, "2", &["a"])).into(), &[]);
    let refused = world.sent(Route, &["q", "r"]);
    world.request(Route, &["q", "r"], refused.nonce, Some("no"));
    world.publish(vec![], &[(Cluster, "a"), (Route, "q"), (Route, "r")]);
    world.pass(Duration::from_secs(100));
    world.quiet();
    world.request(Route, &["none"], refused.nonce, None);
    let none = world.sent(Route, &[]);
    world.request(Route, &["none"], none.nonce, None);
    world.quiet();
    world.pass(LINGER);
    world.sent(Cluster, &["b"]);
}

#[test]
fn a_cluster_that_is_refused_and_gone_goes_back_to_what_was_accepted_until_it_may_go() {
    let mut world = named(Route, &["r"]);
    world.publish(vec![cluster("b", "2")], &[]);
    let refused = world.sent(Cluster, &["a", "b"]);
    world.request(Cluster, &[], refused.nonce, Some("no"));
    world.quiet();
    world.publish(vec![], &[(Cluster, "b")]);
    assert_eq!(world.sent(Cluster, &["a", "b"]).resources[1].payload, "1");
}

#[test]
fn a_removal_that_is_refused_is_not_tried_again_until_something_changes() {
    let mut world = named(Route, &["r"]);
    world.publish(vec![], &[(Cluster, "a")]);
    world.quiet();
    world.pass(LINGER);
    let refused = world.sent(Cluster, &["b"]);
    world.request(Cluster, &[], refused.nonce, Some("no"));
    world.pass(Duration::from_secs(100));
    world.quiet();
    world.publish(vec![cluster("c", "1")], &[]);
    let clusters = world.sent(Cluster, &["a", "b", "c"]);
    world.request(Cluster, &[], clusters.nonce, None);
    world.sent(Cluster, &["b", "c"]);
}
