//! The corner cases in which control planes and their clients have failed each other, with real Envoys where they concern
//! Envoy. `docs/protocol.md` has the rules behind them; a test holds that the tests named here exist.
//!
//! | case | what went wrong elsewhere | held by |
//! | --- | --- | --- |
//! | 1 | a changed cluster without its assignment warms for 15 s | `a_changed_cluster_is_warm_at_once`, `a_changed_cluster_that_the_stream_has_gates_nothing_and_brings_its_endpoints` |
//! | 2 | a secret is missing after a restart of the control plane | `a_control_plane_killed_between_a_listener_and_its_secret_is_completed_by_its_successor` |
//! | 3 | clusters are never asked for after a refusal and a reconnect | `what_went_while_an_envoy_was_away_is_gone_and_a_refusal_is_mended`, `a_stream_without_clusters_has_no_gate` |
//! | 4 | assignments asked for of a deleted cluster hold everything up | `what_went_while_an_envoy_was_away_is_gone_and_a_refusal_is_mended`, `neither_a_missing_name_nor_one_that_nobody_asked_for_holds_anything_up` |
//! | 5 | an answer with a name too few or too many is dropped | `a_name_that_the_view_lacks_holds_up_no_other_and_comes_when_it_is_there`, `neither_a_missing_name_nor_one_that_nobody_asked_for_holds_anything_up` |
//! | 6 | a watch that cannot be answered now is lost | `a_name_that_the_view_lacks_holds_up_no_other_and_comes_when_it_is_there` |
//! | 7 | an absent name is answered and then forgotten | `every_subscribed_name_is_answered_and_created_ones_follow`, `a_name_that_comes_goes_and_comes_again_is_sent_each_time_that_it_is_there` |
//! | 8 | unsubscribed and subscribed again: nothing comes | `a_name_dropped_and_asked_for_again_is_sent_again_at_the_same_version` |
//! | 9 | what is deleted during a disconnect stays for ever | `what_went_while_an_envoy_was_away_is_gone_and_a_refusal_is_mended`, `a_reconnect_is_sent_what_differs_and_told_what_is_gone` |
//! | 10 | what is good in a refused response is not reported later | `what_was_good_in_a_refused_response_is_sent_again_and_is_gone_when_it_went` |
//! | 11 | a client reports an older version | `a_version_that_nobody_here_issued_is_another_version_and_no_newer_one` |
//! | 12 | the first request of a stream has the nonce of another | `a_first_request_with_the_nonce_of_another_stream_is_answered_as_a_first_one`, `a_foreign_nonce_at_the_start_and_two_requests_before_the_first_answer_do_no_harm` |
//! | 13 | names never take effect under steady pushes | `one_response_of_a_type_is_out_and_the_newest_content_and_names_gather_behind_it`, `a_stale_nonce_acknowledges_nothing_and_changes_subscriptions_all_the_same` |
//! | 14 | of two requests without a nonce the second is lost | `a_second_request_without_a_nonce_replaces_the_first_though_a_response_is_on_its_way` |
//! | 15 | watches are lost or leak | `streams_that_come_and_go_leave_nothing_and_the_next_is_served` |
//! | 16 | a refusal is answered by the same again, without end | `a_client_that_refuses_everything_is_sent_each_content_once_alone_and_then_nothing`, `a_refusal_may_change_the_names_and_its_content_does_not_come_again`, `a_proxy_that_refuses_for_ever_is_sent_each_version_once` |
//! | 17 | a named resource that is missing: a loop of answers | `named_clusters_come_as_far_as_they_exist_always_all_of_them_and_do_not_loop` |
//! | 18 | assignments go out before their clusters | `everything_at_once_goes_out_in_make_before_break_order` |
//! | 19 | an answer is sent though its names are unsubscribed | `what_is_unsubscribed_while_it_waits_for_its_turn_is_not_sent` |
//! | 20 | wildcard and names confuse each other | `wildcard_and_names_live_side_by_side`, `the_wildcard_outlives_names_and_ends_by_its_own_word_removing_nothing`, `the_wildcard_ends_with_the_first_list_of_names` |
//! | 21 | an empty first list is taken for a wildcard | `the_first_wildcard_is_answered_even_if_empty_and_an_empty_named_list_is_not`, `names_that_are_all_dropped_and_asked_for_again_go_on_as_before` |
//! | 22 | a second on-demand cluster never comes, or a full set wipes it | `a_first_request_to_a_cluster_that_the_proxy_does_not_know_yet_succeeds`, `clusters_that_are_asked_for_beside_the_wildcard_stand_in_every_set`, `wildcard_and_names_live_side_by_side` |
//! | 23 | one bad resource keeps good ones away | `without_a_named_culprit_halves_are_tried_until_one_is_parked`, `culprits_named_in_the_error_go_alone_and_the_rest_together` |
//! | 24 | an absent name is forgotten for a later one | `an_absent_name_is_not_forgotten_for_another_that_is_asked_for_later` |
//! | 25 | messages beyond 4 MiB | `sixty_thousand_names_of_a_reconnect_are_let_in`, `the_first_cds_response_is_whole_and_later_ones_are_split`, `a_cluster_set_is_whole_however_large_and_assignments_come_in_parts` |
//! | 26 | a client asks for children without their parent | `what_is_asked_for_without_its_parent_is_answered_as_absent_and_does_not_loop`, `what_went_while_an_envoy_was_away_is_gone_and_a_refusal_is_mended` |
//! | 27 | pushes of clusters starve one that warms | `a_new_service_serves_while_others_change_all_the_time` |
//! | 28 | all names dropped and asked for again: out of step | `assignments_that_are_all_dropped_and_asked_for_again_go_on_as_before`, `names_that_are_all_dropped_and_asked_for_again_go_on_as_before`, `a_service_that_goes_and_comes_back_takes_its_calls_along` |
//! | 29 | a half-open connection is kept for ever | `a_thousand_proxies_that_never_read_cost_little_delay_nobody_and_are_let_go` |
//! | 30 | a response of a type that nobody watches is waited for | `a_dropped_subscription_frees_its_slot` |
//! | 31 | two responses share a nonce | `no_nonce_comes_twice_on_a_stream`, `nonces_are_never_empty_and_come_once_in_a_stream_whatever_the_type_and_the_version` |
//! | 32 | heartbeats of what is not asked for, and none after a stall | pending: features |

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    harness::{Envoy, Link, wait_for},
    world::{SOON, World, route_yaml, service_yaml, start_edited_envoy, start_envoy_at},
};

/// An Envoy that lacks an assignment gives up after this: whatever takes as long has starved.
const STARVED: Duration = Duration::from_secs(15);
/// Services that are there before the one that comes.
const SERVICES: usize = 200;

fn to(service: &str) -> String {
    format!("[{{backendRefs: [{{name: {service}, port: 80}}]}}]")
}

/// What tells that an Envoy has waited for something in vain.
fn starved(envoy: &Envoy) -> u64 {
    envoy.stats("init_fetch_timeout|assignment_use_cached|assignment_stale").values().sum()
}

fn has_cluster(envoy: &Envoy, name: &str) -> bool {
    let page = envoy.clusters();
    page["cluster_statuses"].as_array().unwrap().iter().any(|status| status["name"] == name)
}

fn serves(world: &World, host: &str) {
    wait_for(&format!("{host} is served"), SOON, || match world.get(host, "/").status {
        200 => Ok(()),
        other => Err(other),
    });
}

/// 1
#[test]
fn a_changed_cluster_is_warm_at_once() {
    let world = World::start("memory");
    let backend = world.backend("b");
    world.apply(&(service_yaml("web", "", &[("core1", &backend)]) + &route_yaml("web", "web.example", &to("web"))));
    let core = &world.cores[0];
    let (before, updates) = (starved(core), core.stat("cluster_manager.cluster_modified"));
    for connections in 1..=5 {
        let change = format!(", circuitBreakers: {{maxConnections: {connections}00}}");
        let begin = Instant::now();
        world.apply(&service_yaml("web", &change, &[]));
        assert!(begin.elapsed() < STARVED, "{:?}", begin.elapsed());
        assert_eq!(core.stat("cluster_manager.warming_clusters"), 0);
        assert_eq!(world.get("web.example", "/").status, 200);
    }
    assert!(core.stat("cluster_manager.cluster_modified") >= updates + 5, "the cluster alone changed, each time");
    assert_eq!(starved(core), before, "it never waited for an assignment in vain");
}

/// 27
#[test]
fn a_new_service_serves_while_others_change_all_the_time() {
    let world = World::start("memory");
    let backend = world.backend("b");
    let many: String = (0..SERVICES).map(|n| service_yaml(&format!("s{n}"), "", &[("core1", &backend)])).collect();
    world.apply(&(many + &route_yaml("s0", "s0.example", &to("s0"))));
    serves(&world, "s0.example");
    let before = starved(&world.cores[0]);
    let (stop, mut took) = (AtomicBool::new(false), Duration::ZERO);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for change in 1.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let breakers = format!(", circuitBreakers: {{maxConnections: {change}}}");
                world.control.apply(&service_yaml(&format!("s{}", change % SERVICES), &breakers, &[]), &[]).ok();
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        for round in 0..3 {
            let name = format!("new{round}");
            let host = format!("{name}.example");
            let objects = service_yaml(&name, "", &[("core1", &backend)]) + &route_yaml(&name, &host, &to(&name));
            let begin = Instant::now();
            let applied = world.control.apply(&objects, &[]);
            if applied.code == 0 {
                serves(&world, &host);
            }
            took = took.max(begin.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(took < STARVED, "{took:?} for one of the new services");
    assert_eq!(starved(&world.cores[0]), before, "nothing was waited for in vain");
}

/// 3, 4, 9, 26
#[test]
fn what_went_while_an_envoy_was_away_is_gone_and_a_refusal_is_mended() {
    let mut world = World::start("memory");
    let backend = world.backend("b");
    let link = Link::to(world.control.xds());
    world.edge.process().kill();
    world.cores[0].process().kill();
    // An edge that refuses a regular expression that admission takes.
    world.edge = start_edited_envoy(link.address(), world.certs.path(), ("edge1", "edge"), |bootstrap| {
        bootstrap.replace("error_level: 1000000", "error_level: 50")
    });
    world.cores[0] = start_envoy_at(link.address(), world.certs.path(), "core1", "core");
    world.edge.wait_ready(SOON);
    world.cores[0].wait_ready(SOON);
    let mut objects = String::new();
    for name in ["stays", "goes"] {
        objects += &service_yaml(name, "", &[("core1", &backend)]);
        objects += &route_yaml(name, &format!("{name}.example"), &to(name));
    }
    world.apply(&objects);
    serves(&world, "goes.example");
    let bad = "[{matches: [{path: {type: RegularExpression, value: '/[a-z]{1,40}x'}}], backendRefs: [{name: stays, port: 80}]}]";
    let refused = world.control.apply(&route_yaml("bad", "bad.example", bad), &["--wait"]);
    assert_eq!(refused.code, 3, "{refused:#?}");

    link.cut();
    let gone = ["httproute/shop/bad", "httproute/shop/goes", "endpointset/shop/goes-core1", "service/shop/goes"];
    world.control.run(&[&["delete"], &gone[..]].concat()).ok();
    assert!(has_cluster(&world.cores[0], "shop/goes:80"), "it cannot know");
    assert_eq!(world.get("goes.example", "/").status, 200, "what it has serves on");
    link.open();
    wait_for("the route is gone", 2 * SOON, || match world.get("goes.example", "/").status {
        404 => Ok(()),
        other => Err(other),
    });
    wait_for("the cluster is gone", 4 * SOON, || match has_cluster(&world.cores[0], "shop/goes:80") {
        false => Ok(()),
        true => Err("it is still there"),
    });
    // Whoever refused something and came back is served as before, clusters included.
    let added = service_yaml("added", "", &[("core1", &backend)]) + &route_yaml("added", "added.example", &to("added"));
    world.apply(&added);
    for host in ["stays.example", "added.example"] {
        assert_eq!(world.get(host, "/").status, 200, "{host}");
    }
    for envoy in [&world.edge, &world.cores[0]] {
        assert_eq!(envoy.stat("cluster_manager.warming_clusters"), 0);
        assert_eq!(envoy.stat("control_plane.connected_state"), 1);
        assert_eq!(envoy.stat("listener_manager.total_listeners_warming"), 0);
    }
}
