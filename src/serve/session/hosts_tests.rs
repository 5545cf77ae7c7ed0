//! Virtual hosts that come one by one: behind their route configuration, whole at first, and as careful as routes after.

use ResourceType::{Cluster, Endpoints, Listener, Route, Runtime, VirtualHost};

use super::{hosts::answering, world::*, *};
use crate::{
    model::{Revision, Watermark},
    xds::{NeedAt, Resource, ServiceNeed},
};

const NOTHING: [&str; 0] = [];

fn host(name: &str, payload: &str, clusters: &[&str]) -> Resource {
    let mut host = resource(VirtualHost, name, payload);
    host.requires = clusters.iter().map(|c| (Cluster, (*c).into())).collect();
    host
}

fn routes(name: &str) -> Resource {
    Resource { name: name.into(), ..resource(Route, name, "vhds") }
}

fn listener(name: &str, routes: &str, payload: &str) -> Resource {
    let mut listener = resource(Listener, name, payload);
    listener.requires = vec![(Route, routes.into())];
    listener
}

/// An edge that has the hosts `x` and `y`, and what they need.
fn streaming() -> World {
    let mut world = World::new();
    let parents = vec![cluster("a", "1"), eds("a", "1"), listener("l", "r", "1"), routes("r")];
    world.publish([parents, vec![host("r/x", "1", &["a"]), host("r/y", "1", &["a"])]].concat(), &[]);
    world.subscribe(Cluster, &[]);
    world.settle();
    world.subscribe(Endpoints, &["a"]);
    world.subscribe(Listener, &[]);
    world.subscribe(Route, &["r"]);
    world.settle();
    world.subscribe(VirtualHost, &[]);
    assert_eq!(world.settle(), ["VHDS +r/x +r/y"]);
    world
}

#[test]
fn an_edit_costs_one_host_and_its_removal_is_told_at_once() {
    let mut world = streaming();
    world.publish(vec![host("r/y", "2", &["a"]), routes("r")], &[]);
    assert_eq!(world.settle(), ["VHDS +r/y"]);
    world.publish(vec![host("r/z", "1", &["a"])], &[(VirtualHost, "r/x")]);
    assert_eq!(world.settle(), ["VHDS +r/z -r/x"]);
    world.publish(vec![resource(Route, "r", "other settings")], &[]);
    assert_eq!(world.settle(), ["RDS +r"], "the proxy keeps its hosts");
}

#[test]
fn a_host_that_names_a_new_cluster_waits_for_it_and_the_others_do_not() {
    let mut world = streaming();
    let news = vec![cluster("c", "1"), eds("c", "1"), host("r/x", "2", &["c"]), host("r/new", "1", &["c"])];
    world.publish([news, vec![host("r/y", "2", &["a"])]].concat(), &[]);
    assert_eq!(world.out(), ["CDS +c", "VHDS +r/y"]);
    world.ack(VirtualHost);
    assert_eq!(world.after(14), NOTHING);
    world.ack(Cluster);
    assert_eq!(world.out(), ["VHDS +r/new +r/x"]);
}

#[test]
fn a_host_waits_for_its_services_at_the_cores() {
    let mut world = streaming();
    let at = |revision| Watermark { revision: Revision(revision), connected: true, except: [].into() };
    world.site("core", Role::Core, at(1));
    let sites = vec![NeedAt { site: "core".into(), revision: Revision(5) }];
    let need = ServiceNeed { service: "a/s:80".into(), group: "a".into(), sites };
    world.publish(vec![Resource { services: vec![need], ..host("r/new", "1", &["a"]) }], &[]);
    assert_eq!(world.out(), NOTHING);
    world.site("core", Role::Core, at(5));
    assert_eq!(world.out(), ["VHDS +r/new"]);
}

#[test]
fn hosts_of_a_route_configuration_that_the_proxy_does_not_have_follow_it() {
    let mut world = streaming();
    world.publish(vec![listener("m", "s", "1"), routes("s"), host("s/x", "1", &["a"]), host("r/y", "2", &["a"])], &[]);
    assert_eq!(world.settle(), ["LDS +m", "VHDS +r/y"]);
    world.subscribe(Route, &["s"]);
    assert_eq!(world.settle(), ["RDS +s", "VHDS +s/x"]);
    // A provider that begins anew has nothing.
    world.unsubscribe(Route, &["s"]);
    world.subscribe(Route, &["s"]);
    assert_eq!(world.settle(), ["RDS +s", "VHDS +s/x"]);
    world.subscribe(Route, &["s"]);
    assert_eq!(world.settle(), ["RDS +s", "VHDS +s/x"]);
    // Nor does one that has ended.
    world.unsubscribe(Route, &["s"]);
    world.publish(vec![host("s/x", "2", &["a"])], &[]);
    assert_eq!(world.settle(), NOTHING);
}

/// A proxy serves as soon as the first has come: one that is late is a 404.
#[test]
fn hosts_that_come_with_their_route_configuration_wait_for_nothing() {
    let mut world = streaming();
    let routes = Resource { requires: vec![(VirtualHost, "s/x".into())], ..routes("s") };
    world.publish(vec![cluster("c", "1"), listener("m", "s", "1"), routes, host("s/x", "1", &["c"])], &[]);
    assert_eq!(world.out(), ["CDS +c"], "the listener waits");
    world.subscribe(Route, &["s"]);
    assert_eq!(world.out(), ["RDS +s", "VHDS +s/x"]);
}

#[test]
fn a_host_that_changes_as_its_route_configuration_is_asked_for_is_no_update_of_what_the_proxy_has() {
    let mut world = streaming();
    world.publish(vec![listener("m", "s", "1"), routes("s"), host("s/x", "1", &["a"])], &[]);
    assert_eq!(world.settle(), ["LDS +m"]);
    world.publish(vec![cluster("c", "1"), host("s/x", "2", &["c"])], &[]);
    world.subscribe(Route, &["s"]);
    assert_eq!(world.out(), ["CDS +c", "RDS +s", "VHDS +s/x"]);
}

#[test]
fn only_hosts_that_are_asked_for_follow_their_route_configuration() {
    let mut world = streaming();
    world.reconnect();
    world.subscribe(VirtualHost, &["r/x"]);
    assert_eq!(world.settle(), ["VHDS +r/x"]);
    world.subscribe(Route, &["r"]);
    assert_eq!(world.settle(), ["RDS +r", "VHDS +r/x"]);
}

#[test]
fn hosts_wait_for_a_route_configuration_that_came_without_any_to_come_again() {
    let mut world = World::running();
    world.subscribe(VirtualHost, &[]);
    assert_eq!(world.settle(), ["VHDS"]);
    for (round, new) in ["c", "d"].into_iter().enumerate() {
        let payload = format!("hosts {round}");
        world.publish(vec![cluster(new, "1"), rds(&payload, &[new]), host("r/x", "1", &["a"])], &[]);
        assert_eq!(world.out(), [format!("CDS +{new}")], "the route configuration waits, and its host for that");
        world.ack(Cluster);
        assert_eq!(world.settle(), ["RDS +r", "VHDS +r/x"]);
        world.publish(vec![rds(&format!("none {round}"), &["a"])], &[(VirtualHost, "r/x")]);
        assert_eq!(world.settle(), ["RDS +r", "VHDS -r/x"]);
    }
}

#[test]
fn hosts_wait_for_their_route_configuration_whatever_else_the_stream_begins_to_ask_for() {
    let mut world = World::running();
    world.subscribe(VirtualHost, &[]);
    assert_eq!(world.settle(), ["VHDS"]);
    world.publish(vec![host("r/x", "1", &["a"])], &[]);
    world.subscribe(Runtime, &["rt"]);
    assert_eq!(world.settle(), ["RTDS -rt"]);
    world.publish(vec![rds("hosts", &["a"])], &[]);
    assert_eq!(world.settle(), ["RDS +r", "VHDS +r/x"]);
}

#[test]
fn hosts_of_which_a_part_is_under_way_come_again_behind_a_route_configuration_that_is_asked_for_anew() {
    let mut world = streaming();
    let large = |name| host(name, &"x".repeat(700_000), &["a"]);
    world.publish(vec![large("r/u"), large("r/v")], &[]);
    assert_eq!(world.out(), ["VHDS +r/u"]);
    world.subscribe(Route, &["r"]);
    assert_eq!(world.settle(), ["RDS +r", "VHDS +r/v", "VHDS +r/u +r/v +r/x +r/y"]);
}

#[test]
fn hosts_that_are_to_follow_are_told_as_pending_and_as_taken_before_they_were_there() {
    let mut world = streaming();
    world.publish(vec![listener("m", "s", "1"), routes("s"), host("s/x", "1", &["a"])], &[]);
    let created = world.reader.view().read().seq();
    world.settle();
    world.publish(vec![host("r/y", "2", &["a"])], &[]);
    assert_eq!(world.out(), ["VHDS +r/y"]);
    world.session.reports();
    world.subscribe(Route, &["s"]);
    assert_eq!(world.out(), ["RDS +s"], "one response with hosts is on its way");
    let reports = world.session.reports();
    let (_, told) = reports.iter().find(|(kind, _)| *kind == VirtualHost).expect("news of hosts");
    assert_eq!((told.pending.as_slice(), told.behind), (&["s/x".into()][..], Some(Seq(created.0 - 1))));
}

#[test]
fn a_proxy_that_comes_back_is_sent_what_differs_and_told_what_went() {
    let mut world = streaming();
    world.reconnect();
    world.report(Cluster, &[], &[("a", "1")]);
    world.report(Listener, &[], &[("l", "1")]);
    world.report(Route, &["r"], &[("r", "vhds")]);
    world.report(VirtualHost, &[], &[("r/x", "1"), ("r/y", "0"), ("r/old", "1")]);
    assert_eq!(world.settle(), ["VHDS +r/y -r/old"]);
    world.publish(vec![cluster("c", "1"), host("r/new", "1", &["c"])], &[]);
    assert_eq!(world.out(), ["CDS +c"], "new among hosts that it has");
    world.ack(Cluster);
    assert_eq!(world.out(), ["VHDS +r/new"]);
}

#[test]
fn a_host_that_is_gone_and_asked_for_on_demand_is_answered_at_a_reconnect_and_not_removed() {
    let mut world = streaming();
    world.reconnect();
    world.report(Route, &["r"], &[("r", "vhds")]);
    world.report(VirtualHost, &["*", "r/old"], &[("r/x", "1"), ("r/y", "1"), ("r/old", "1")]);
    assert_eq!(world.settle(), ["VHDS +r/old"]);
}

#[test]
fn hosts_that_the_proxy_says_it_has_without_their_route_configuration_are_sent_behind_it() {
    let mut world = streaming();
    world.reconnect();
    world.report(VirtualHost, &[], &[("r/x", "1"), ("r/y", "1")]);
    world.subscribe(Route, &["r"]);
    assert_eq!(world.settle(), ["RDS +r", "VHDS +r/x +r/y"]);
}

#[test]
fn hosts_that_were_asked_for_before_their_route_configuration_come_again_behind_it() {
    let mut world = streaming();
    world.reconnect();
    world.subscribe(VirtualHost, &[]);
    assert_eq!(world.settle(), ["VHDS +r/x +r/y"]);
    world.subscribe(Route, &["r"]);
    assert_eq!(world.settle(), ["RDS +r", "VHDS +r/x +r/y"]);
}

/// The listener goes over to another route configuration; connections of the old filter chain may still need the hosts.
#[test]
fn hosts_that_go_with_their_route_configuration_stay_until_the_proxy_lets_go_of_that() {
    let mut world = streaming();
    let gone = [(Route, "r"), (VirtualHost, "r/x"), (VirtualHost, "r/y")];
    world.publish(vec![listener("l", "w", "2"), resource(Route, "w", "1")], &gone);
    assert_eq!(world.settle(), ["LDS +l"]);
    world.subscribe(Route, &["w"]);
    assert_eq!(world.settle(), ["RDS +w"]);
    world.unsubscribe(Route, &["r"]);
    assert_eq!(world.settle(), ["VHDS -r/x -r/y"]);
}

#[test]
fn hosts_that_stay_with_their_route_configuration_stay_though_another_host_changes() {
    let mut world = streaming();
    world.publish(vec![listener("m", "s", "1"), routes("s"), host("s/x", "1", &["a"])], &[]);
    world.subscribe(Route, &["s"]);
    world.settle();
    let gone = [(Route, "r"), (VirtualHost, "r/x"), (VirtualHost, "r/y")];
    world.publish(vec![listener("l", "w", "2"), resource(Route, "w", "1"), host("s/x", "2", &["a"])], &gone);
    assert_eq!(world.settle(), ["LDS +l", "VHDS +s/x"]);
    world.unsubscribe(Route, &["r"]);
    assert_eq!(world.settle(), ["VHDS -r/x -r/y"]);
}

#[test]
fn hosts_wait_for_nothing_at_a_stream_that_has_none_yet() {
    let mut world = World::new();
    world.publish(vec![cluster("a", "1"), host("r/x", "1", &["a"])], &[]);
    world.subscribe(Cluster, &[]);
    world.subscribe(VirtualHost, &[]);
    assert_eq!(world.out(), ["CDS +a", "VHDS +r/x"]);
}

#[test]
fn new_hosts_come_to_a_proxy_that_brings_their_route_configuration_along_whichever_it_reports_first() {
    let mut world = streaming();
    world.reconnect();
    world.report(VirtualHost, &[], &[("r/x", "1"), ("r/y", "1")]);
    assert_eq!(world.out(), NOTHING);
    world.report(Route, &["r"], &[("r", "vhds")]);
    assert_eq!(world.out(), NOTHING);
    world.publish(vec![host("r/new", "1", &["a"])], &[]);
    assert_eq!(world.out(), ["VHDS +r/new"]);
}

#[test]
fn a_name_of_another_type_that_is_spelled_like_a_route_configuration_is_none() {
    let mut world = streaming();
    world.subscribe(Endpoints, &["r"]);
    world.settle();
    world.publish(vec![host("r/new", "1", &["a"])], &[]);
    assert_eq!(world.settle(), ["VHDS +r/new"]);
}

#[test]
fn a_host_that_is_asked_for_on_demand_is_answered_under_the_asked_name() {
    let mut world = streaming();
    world.publish(vec![host("r/*.wide", "1", &["a"]), host("r/*.x.wide", "1", &["a"])], &[]);
    world.settle();
    world.subscribe(VirtualHost, &["r/x"]);
    assert_eq!(world.settle(), ["VHDS +r/x"]);
    world.subscribe(VirtualHost, &["r/a.wide:8080"]);
    assert_eq!(world.settle(), ["VHDS +r/*.wide"]);
    world.subscribe(VirtualHost, &["r/*.wide", "r/b.wide", "r/c.wide"]);
    assert_eq!(world.settle(), ["VHDS +r/*.wide"], "once in a response, under all names");
    world.subscribe(VirtualHost, &["r/nobody"]);
    assert_eq!(world.settle(), ["VHDS +r/nobody"], "Envoy takes a removal for no answer");
    let view = world.reader.view().read();
    let found = |asked: &str| answering(asked, &view).map(|entry| entry.resource.name.to_string());
    for (asked, name) in [("r/x:80", "r/x"), ("r/b.x.wide", "r/*.x.wide"), ("r/x.wide", "r/*.wide")] {
        assert_eq!(found(asked).as_deref(), Some(name), "{asked}");
    }
    for asked in ["r/wide", "s/x", "r/x:", "x"] {
        assert_eq!(found(asked), None, "{asked}");
    }
}
