//! The order between the tiers: routes at an edge wait for cores, clusters at a core for edges.

use std::collections::BTreeSet;

use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};

use super::{world::*, *};
use crate::{
    model::{Revision, Watermark},
    xds::{NeedAt, Resource, ServiceNeed},
};

const NOTHING: [&str; 0] = [];

/// A service by its name, its group, and the core sites with what they must have.
type Named<'a> = (&'a str, &'a str, &'a [(&'a str, u64)]);

/// A route configuration that names these services.
fn route(name: &str, payload: &str, services: &[Named<'_>]) -> Resource {
    let mut route = resource(Route, name, payload);
    route.requires = vec![(Cluster, "a".into())];
    let need = |(service, group, sites): &Named<'_>| ServiceNeed {
        service: (*service).into(),
        group: (*group).into(),
        sites: sites.iter().map(|(s, r)| NeedAt { site: (*s).into(), revision: Revision(*r) }).collect(),
    };
    route.services = services.iter().map(need).collect();
    route
}

fn at(revision: u64, connected: bool, except: &[&str]) -> Watermark {
    let except: BTreeSet<String> = except.iter().map(ToString::to_string).collect();
    Watermark { revision: Revision(revision), except, connected }
}

/// An edge that serves, and two cores of which one is connected and up to revision 5.
fn edge() -> World {
    let mut world = World::running();
    world.publish(vec![route("r", "old", &[("s/old:80", "g", &[("ams", 1)])])], &[]);
    world.settle();
    world.site("ams", Role::Core, at(5, true, &[]));
    world.site("fra", Role::Core, at(5, true, &[]));
    world
}

const BOTH: &[(&str, u64)] = &[("ams", 7), ("fra", 7)];

#[test]
fn a_route_waits_for_one_core_without_limit_and_then_fifteen_seconds_for_the_others() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/new:80", "g", BOTH)]), route("other", "1", &[])], &[]);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(100_000), NOTHING);
    assert!(world.session.awaits_watermarks());
    world.site("fra", Role::Core, at(7, true, &[]));
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(14), NOTHING);
    assert!(world.session.next_deadline().is_some_and(|at| at <= world.now + Duration::from_secs(1)));
    assert_eq!(world.after(1), ["RDS +r"]);
    assert!(!world.session.awaits_watermarks());
}

#[test]
fn a_service_that_is_written_on_and_on_is_waited_for_as_it_was_when_the_wait_began() {
    let mut world = edge();
    for write in 7..20 {
        let sites = [("ams", write), ("fra", write)];
        world.publish(vec![route("r", &format!("content {write}"), &[("s/new:80", "g", &sites)])], &[]);
        assert_eq!(world.out(), NOTHING);
    }
    // Both have what stood at the first write, and neither what stands now.
    world.site("ams", Role::Core, at(7, true, &[]));
    world.site("fra", Role::Core, at(7, true, &[]));
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn a_route_is_looked_at_again_when_what_it_waits_for_changes_though_its_content_does_not() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/new:80", "g", BOTH)])], &[]);
    assert_eq!(world.out(), NOTHING);
    let seat = world.seat();
    world.publish(vec![route("r", "2", &[("s/new:80", "g", &[("ams", 5)])])], &[]);
    assert!(woken(&seat));
    assert_eq!(world.settle(), ["RDS +r"]);
    world.after(1);
    let seat = world.seat();
    world.publish(vec![route("r", "2", &[("s/new:80", "g", BOTH)])], &[]);
    assert!(!woken(&seat), "who holds nothing back is not woken");
}

/// What is told of routes: everything up to here, but for what is pending, which is taken up to there.
fn told(world: &mut World) -> (u64, Option<u64>, Vec<String>) {
    let reports = world.session.reports();
    let (_, state) = reports.into_iter().find(|(kind, _)| *kind == Route).expect("something new of routes");
    (state.acked.0, state.behind.map(|seq| seq.0), state.pending.iter().map(ToString::to_string).collect())
}

#[test]
fn a_name_that_changes_twice_while_it_is_held_is_told_as_taken_before_the_first_change() {
    let mut world = edge();
    assert_eq!(told(&mut world).1, None);
    let before = world.reader.view().read().seq().0;
    for payload in ["2", "3"] {
        world.publish(vec![route("r", payload, &[("s/new:80", "g", BOTH)])], &[]);
        assert_eq!(world.out(), NOTHING);
    }
    assert_eq!(told(&mut world), (before + 2, Some(before), vec!["r".to_owned()]));
    for site in ["ams", "fra"] {
        world.site(site, Role::Core, at(7, true, &[]));
    }
    assert_eq!(world.settle(), ["RDS +r"]);
    assert_eq!(told(&mut world), (before + 2, None, vec![]));
}

#[test]
fn a_name_that_is_newly_asked_for_is_told_as_taken_before_it_was_there() {
    let mut world = edge();
    world.publish(vec![route("more", "1", &[])], &[]);
    let created = world.reader.view().read().seq().0;
    world.publish(vec![route("more", "2", &[])], &[]);
    world.settle();
    world.subscribe(Route, &["more"]);
    assert_eq!(world.out(), ["RDS +more"]);
    assert_eq!(told(&mut world), (created + 1, Some(created - 1), vec!["more".to_owned()]));
}

#[test]
fn a_route_goes_as_soon_as_every_connected_core_is_there() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/new:80", "g", BOTH)])], &[]);
    assert_eq!(world.out(), NOTHING);
    world.site("ams", Role::Core, at(9, true, &[]));
    assert_eq!(world.out(), NOTHING);
    world.site("fra", Role::Core, at(5, false, &[]));
    assert_eq!(world.out(), ["RDS +r"]);
    world.ack(Route);
    // One that is there already is waited for by nobody.
    world.publish(vec![route("r", "3", &[("s/new:80", "g", BOTH), ("s/more:80", "g", &[("ams", 9)])])], &[]);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn cores_that_are_away_or_refuse_the_service_hold_a_route_for_fifteen_seconds_only() {
    let refusals = ["CDS/s/new:80", "EDS/s/new:80", Watermark::MORE].map(|refused| at(9, true, &[refused]));
    let away = refusals.into_iter().chain([at(5, false, &[])]);
    for watermark in away {
        let mut world = edge();
        world.site("ams", Role::Core, watermark);
        world.site("fra", Role::Core, at(5, false, &[]));
        world.publish(vec![route("r", "2", &[("s/new:80", "g", BOTH)])], &[]);
        assert_eq!(world.after(0), NOTHING);
        assert_eq!(world.after(14), NOTHING);
        assert_eq!(world.after(1), ["RDS +r"]);
    }
    let mut world = edge();
    world.site("ams", Role::Core, at(9, true, &["CDS/s/another:80"]));
    world.publish(vec![route("r", "2", &[("s/new:80", "g", &[("ams", 7)])])], &[]);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn nothing_waits_without_a_core_nor_where_nobody_tells_how_far_they_are() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/new:80", "none", &[])])], &[]);
    assert_eq!(world.out(), ["RDS +r"]);
    world.ack(Route);
    world.watermarks.clear();
    world.publish(vec![route("r", "3", &[("s/newer:80", "g", BOTH)])], &[]);
    assert_eq!(world.out(), ["RDS +r"]);
}

#[test]
fn only_services_that_the_stream_did_not_name_in_that_group_are_waited_for() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/old:80", "g", &[("ams", 99)])])], &[]);
    assert_eq!(world.settle(), ["RDS +r"]);
    let covered: Named<'_> = ("s/there:80", "g", &[("ams", 5)]);
    world.publish(vec![route("r", "2b", &[("s/old:80", "g", &[("ams", 99)]), covered])], &[]);
    assert_eq!(world.settle(), ["RDS +r"]);
    world.publish(vec![route("r", "3", &[("s/old:80", "h", BOTH)])], &[]);
    assert_eq!(world.settle(), NOTHING);
    // Newer content of a route that waits, still with the service.
    world.publish(vec![route("r", "4", &[("s/old:80", "h", BOTH)])], &[]);
    assert_eq!(world.settle(), NOTHING);
    world.publish(vec![route("r", "5", &[("s/old:80", "g", &[("ams", 99)])])], &[]);
    assert_eq!(world.settle(), NOTHING, "it went and came again, so it is new");
    world.site("ams", Role::Core, at(99, true, &[]));
    assert_eq!(world.settle(), ["RDS +r"]);
}

#[test]
fn a_service_that_the_last_acknowledged_version_came_to_name_is_not_waited_for_beside_a_new_one() {
    let mut world = edge();
    let named: [Named<'_>; 2] = [("s/old:80", "g", &[("ams", 99)]), ("s/there:80", "g", &[("ams", 5)])];
    world.publish(vec![route("r", "2", &named)], &[]);
    assert_eq!(world.settle(), ["RDS +r"]);
}

#[test]
fn a_refused_route_names_its_services_anew_in_its_next_version() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/new:80", "g", &[("ams", 5)])])], &[]);
    assert_eq!(world.out(), ["RDS +r"]);
    world.nack(Route, "no good");
    assert_eq!(world.out(), NOTHING);
    world.site("ams", Role::Core, at(4, true, &[]));
    world.publish(vec![route("r", "3", &[("s/new:80", "g", &[("ams", 5)])])], &[]);
    assert_eq!(world.after(100), NOTHING);
    world.site("ams", Role::Core, at(5, true, &[]));
    assert_eq!(world.settle(), ["RDS +r"]);
    world.site("ams", Role::Core, at(4, true, &[]));
    world.publish(vec![route("r", "4", &[("s/new:80", "g", &[("ams", 5)])])], &[]);
    assert_eq!(world.settle(), ["RDS +r"], "acknowledged since");
}

#[test]
fn a_listener_waits_for_the_services_of_the_routes_that_it_brings_and_those_do_not() {
    let mut world = edge();
    let mut listener = lds("2");
    listener.requires.push((Route, "new".into()));
    world.publish(vec![listener, route("new", "1", &[("s/new:80", "g", &[("ams", 7)])])], &[]);
    assert_eq!(world.after(100), NOTHING);
    world.subscribe(Route, &["new"]);
    assert_eq!(world.settle(), ["RDS +new", "LDS +l"], "the proxy asks for it, so it lacks nothing then");
    let mut listener = lds("3");
    listener.requires.push((Route, "newer".into()));
    world.publish(vec![listener, route("newer", "1", &[("s/newer:80", "g", &[("ams", 7)])])], &[]);
    assert_eq!(world.after(100), NOTHING);
    world.site("ams", Role::Core, at(7, true, &[]));
    assert_eq!(world.settle(), ["LDS +l"]);
}

#[test]
fn a_listener_without_an_older_version_waits_fifteen_seconds_at_most() {
    for (connected, wait) in [(true, 15), (false, 0)] {
        let mut world = edge();
        world.site("ams", Role::Core, at(5, connected, &[]));
        world.publish(vec![route("r", "2", &[("s/new:80", "g", &[("ams", 7)])])], &[]);
        world.reconnect();
        world.subscribe(Cluster, &[]);
        world.settle();
        world.subscribe(Listener, &[]);
        if wait > 0 {
            assert_eq!(world.out(), NOTHING);
            assert_eq!(world.after(wait - 1), NOTHING);
            world.now += Duration::from_secs(1);
        }
        assert_eq!(world.settle(), ["LDS +l"]);
        world.subscribe(Route, &["r"]);
        assert_eq!(world.settle(), ["RDS +r"]);
    }
}

#[test]
fn a_reconnect_in_another_version_checks_every_service_and_one_in_an_equal_version_none() {
    for (has, uncovered) in [("2", vec!["RDS +r"]), ("1", vec![])] {
        let mut world = edge();
        world.publish(vec![route("r", "2", &[("s/old:80", "g", &[("ams", 9)])])], &[]);
        world.reconnect();
        world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
        world.report(Listener, &[], &[("l", "1")]);
        world.report(Route, &["r"], &[("r", has)]);
        assert_eq!(world.settle(), NOTHING);
        assert_eq!(world.session.awaits_watermarks(), has == "1");
        world.publish(vec![route("r", "3", &[("s/old:80", "g", &[("ams", 9)])])], &[]);
        assert_eq!(world.settle(), uncovered);
        world.site("ams", Role::Core, at(9, true, &[]));
        assert_eq!(world.settle().len(), usize::from(has == "1"));
    }
}

#[test]
fn a_reconnect_in_another_version_waits_fifteen_seconds_for_what_it_may_name_already() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/old:80", "g", &[("ams", 9)])])], &[]);
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
    world.report(Listener, &[], &[("l", "1")]);
    world.report(Route, &["r"], &[("r", "1")]);
    assert_eq!(world.settle(), NOTHING);
    assert_eq!(world.after(14), NOTHING);
    assert_eq!(world.after(1), ["RDS +r"]);
    world.ack(Route);
    // Once it is known what it has, a new name waits as long as it takes.
    world.publish(vec![route("r", "3", &[("s/new:80", "g", &[("ams", 9)])])], &[]);
    assert_eq!(world.after(1_000), NOTHING);
}

#[test]
fn a_changed_listener_does_not_wait_while_the_routes_of_a_reconnect_are_not_compared_yet() {
    let mut world = edge();
    world.publish(vec![route("r", "2", &[("s/old:80", "g", &[("ams", 9)])])], &[]);
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
    world.report(Listener, &[], &[("l", "0")]);
    world.report(Route, &["r"], &[("r", "2")]);
    assert_eq!(world.settle(), ["LDS +l"]);
}

/// A core whose cluster `a` went in the configuration 8.
fn core() -> World {
    let mut world = World::of(Role::Core);
    world.publish(vec![cluster("a", "1"), cluster("b", "1"), eds("a", "1"), eds("b", "1"), lds("1")], &[]);
    for kind in [Cluster, Listener] {
        world.subscribe(kind, &[]);
    }
    world.settle();
    world.subscribe(Endpoints, &["a", "b"]);
    world.subscribe(Secret, &["s"]);
    world.subscribe(Route, &["r"]);
    world.settle();
    world.site("ams", Role::Core, at(1, true, &[]));
    world.site("e1", Role::Edge, at(7, true, &[]));
    world.site("e2", Role::Edge, at(8, true, &[]));
    world.site("off", Role::Edge, at(1, false, &[]));
    world.out();
    world.after(60);
    world.publish(vec![rds("1", &[])], &[]);
    world.settle();
    world.revision = 8;
    world.publish(vec![], &[(Cluster, "a"), (Endpoints, "a")]);
    world.settle();
    world
}

#[test]
fn a_core_keeps_a_removed_cluster_until_every_connected_edge_has_taken_it_and_drained() {
    let mut world = core();
    assert_eq!(world.after(50), NOTHING);
    assert!(world.session.awaits_watermarks());
    world.site("e1", Role::Edge, at(8, true, &[]));
    assert_eq!(world.out(), NOTHING);
    assert!(!world.session.awaits_watermarks());
    // A watermark never goes back, and an edge that comes later never named it.
    world.site("e3", Role::Edge, at(1, true, &[]));
    assert_eq!(world.after(299), NOTHING);
    assert_eq!(world.after(1), ["CDS -a"]);
}

#[test]
fn an_edge_that_does_not_come_on_holds_a_core_for_sixty_seconds_and_the_drain_time() {
    let mut world = core();
    assert_eq!(world.after(60), NOTHING);
    assert_eq!(world.after(299), NOTHING);
    assert_eq!(world.after(1), ["CDS -a"]);
}

#[test]
fn an_edge_whose_gateways_go_is_waited_for_as_long_as_one_that_does_not_come_on() {
    let mut world = core();
    assert_eq!(world.after(20), NOTHING);
    world.site("e1", Role::Edge, at(7, false, &[]));
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(40), NOTHING);
    assert_eq!(world.after(299), NOTHING);
    assert_eq!(world.after(1), ["CDS -a"]);
    // It is missed once: what goes later does not wait for it.
    world.publish(vec![], &[(Cluster, "b"), (Endpoints, "b")]);
    world.settle();
    assert_eq!(world.after(300), ["CDS -b"]);
}

#[test]
fn a_core_looks_again_when_an_edge_has_been_away_for_long_enough() {
    let mut world = core();
    let passes = |world: &World| world.session.next_deadline().map(|at| (at - world.now).as_secs());
    world.site("e1", Role::Edge, at(8, true, &[]));
    assert_eq!(world.out(), NOTHING);
    assert_eq!(world.after(300), ["CDS -a"]);
    world.ack(Cluster);
    world.site("e1", Role::Edge, at(8, false, &[]));
    assert_eq!(world.out(), NOTHING);
    assert_eq!(passes(&world), None, "nothing waits for it");
    world.now += Duration::from_secs(20);
    world.revision = 9;
    world.site("e2", Role::Edge, at(9, true, &[]));
    world.publish(vec![], &[(Cluster, "b"), (Endpoints, "b")]);
    world.settle();
    assert_eq!(passes(&world), Some(5), "no request is under way any more");
    world.now += Duration::from_secs(5);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(passes(&world), Some(35), "a minute since it went");
    world.now += Duration::from_secs(35);
    assert_eq!(world.out(), NOTHING);
    assert_eq!(passes(&world), Some(300), "what was under way there has drained by then");
}

#[test]
fn an_edge_that_comes_back_and_goes_again_is_missed_anew() {
    let mut world = core();
    for (connected, seconds) in [(false, 40), (true, 1), (false, 40)] {
        world.site("e1", Role::Edge, at(8, connected, &[]));
        world.out();
        world.now += Duration::from_secs(seconds);
    }
    world.site("e2", Role::Edge, at(9, true, &[]));
    world.revision = 9;
    world.publish(vec![], &[(Cluster, "b"), (Endpoints, "b")]);
    world.settle();
    assert!(world.session.awaits_watermarks());
}

#[test]
fn a_cluster_that_went_while_a_core_was_away_waits_for_the_edges_too() {
    let mut world = core();
    world.watermarks.remove("off");
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1"), ("b", "1")]);
    world.report(Endpoints, &["a", "b"], &[("a", "1"), ("b", "1")]);
    world.report(Listener, &[], &[("l", "1")]);
    world.report(Route, &["r"], &[("r", "1")]);
    // A name that went before the view was there: all that the view has must have come to the edges.
    assert_eq!(world.settle(), NOTHING);
    world.site("e1", Role::Edge, at(8, true, &[]));
    assert_eq!(world.after(0), NOTHING);
    assert_eq!(world.after(299), NOTHING);
    assert_eq!(world.after(1), ["CDS -a", "EDS -a"]);
}

#[test]
fn an_edge_removes_its_clusters_whatever_the_watermarks_say() {
    let mut world = World::running();
    world.site("e1", Role::Edge, at(0, true, &[]));
    world.publish(vec![rds("2", &["b"])], &[(Cluster, "a"), (Endpoints, "a")]);
    world.settle();
    assert!(!world.session.awaits_watermarks());
    assert_eq!(world.after(5), ["CDS -a"]);
}
