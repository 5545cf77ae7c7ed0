//! The store goes away, stands still, is full, is compacted, goes back: what clients see of it is nothing.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    harness::{Backend, Etcd, Load, Output, Running, wait_for},
    world::{SOON, World, route_yaml, service_yaml, site_dir},
    xds_client::{Sent, XdsClient},
};

/// Within this an outage is noticed.
const NOTICED: Duration = Duration::from_secs(15);

/// A world on an etcd, with `shop.example` served by one back end at the near core.
fn world(etcd: &Etcd) -> (World, Backend) {
    let world = World::start(&format!("etcd:{}", etcd.url()));
    let backend = world.backend("b1");
    world.apply(&(service_yaml("web", "", &[("core1", &backend)]) + &route("shop")));
    (world, backend)
}

/// A route of the service `web` for `NAME.example`.
fn route(name: &str) -> String {
    route_yaml(name, &format!("{name}.example"), "[{backendRefs: [{name: web, port: 80}]}]")
}

fn load(world: &World) -> Running {
    Load::new([world.request("shop.example", "/"), world.request("shop.example", "/slow?delay=50")])
        .per_second(50)
        .connections(2, 2)
        .start()
}

fn readyz(world: &World) -> String {
    world.control.page("/readyz?verbose").map_or_else(|error| error, |(_, text)| text)
}

fn wait_for_ready(world: &World, limit: Duration, words: &str) -> String {
    wait_for(&format!("/readyz says {words:?}"), limit, || {
        let page = readyz(world);
        if page.contains(words) { Ok(page) } else { Err(page) }
    })
}

fn metric(world: &World, name: &str) -> f64 {
    let page = world.control.page("/metrics").unwrap().1;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("tidegate_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

fn wait_for_status(world: &World, host: &str, status: u16) {
    wait_for(&format!("{host} answers {status}"), SOON, || match world.request(host, "/").send() {
        Ok(answer) if answer.status == status => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// A change goes live, which shows that all works again.
fn goes_live(world: &World, name: &str) {
    wait_for(&format!("{name} can be applied"), SOON, || {
        let done = world.control.apply(&route(name), &["--wait"]);
        if done.code == 0 { Ok(()) } else { Err(done.stderr) }
    });
    wait_for_status(world, &format!("{name}.example"), 200);
}

fn wait_for_copy(world: &World) {
    let revision = metric(world, "store_revision");
    wait_for("the copy is as new as the store", SOON, || {
        let page = world.control.page("/metrics").unwrap().1;
        let copied = page.lines().find_map(|line| line.strip_prefix("tidegate_last_known_good_revision "));
        match copied.and_then(|text| text.parse::<f64>().ok()) {
            Some(copied) if copied >= revision => Ok(()),
            other => Err(format!("{other:?} of {revision}")),
        }
    });
}

fn refused_in_words(done: &Output, words: &[&str]) {
    assert_eq!(done.code, 1, "{done:#?}");
    for word in words {
        assert!(done.stderr.contains(word), "{word:?} is missing: {done:#?}");
    }
}

#[test]
fn without_etcd_the_load_goes_on_restarts_are_served_and_writes_are_refused_in_words() {
    let mut etcd = Etcd::start();
    let (mut world, _backend) = world(&etcd);
    wait_for_copy(&world);
    let running = load(&world);
    etcd.stop();
    let page = wait_for_ready(&world, NOTICED, "ok (stale");
    assert!(page.contains("cannot be reached"), "{page}");
    assert_eq!((metric(&world, "store_fresh"), metric(&world, "store_frozen")), (0.0, 0.0));
    let asked = Instant::now();
    let done = world.control.apply(&route("refused"), &[]);
    refused_in_words(&done, &["the store is away", "nothing was written", "try again"]);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    let done = world.control.run(&["get", "httproutes", "-n", "shop"]).ok();
    assert!(done.stdout.contains("shop.example"), "what is served is shown: {done:#?}");
    refused_in_words(&world.control.run(&["store", "accept"]), &["nothing to accept"]);

    // Both forget everything, one after the other; the load goes on by way of what the others hold.
    world.control.restart();
    let page = wait_for_ready(&world, SOON, "serving the last-known-good copy of 20");
    assert!(page.starts_with("ok (stale") && page.contains("last-known-good copy: revision"), "{page}");
    running.stop().flawless(1);
    world.edge.restart();
    world.edge.wait_ready(SOON);
    wait_for_status(&world, "shop.example", 200);
    assert_eq!(world.get("refused.example", "/").status, 404);

    let running = load(&world);
    etcd.start_again();
    wait_for_ready(&world, NOTICED, "store: fresh");
    goes_live(&world, "back");
    running.stop().flawless(1);
}

#[test]
fn an_etcd_restored_from_a_backup_freezes_until_an_operator_accepts_it_also_after_a_restart() {
    let mut etcd = Etcd::start();
    let (mut world, _backend) = world(&etcd);
    let backup = etcd.snapshot("before");
    world.apply(&route("later"));
    wait_for_status(&world, "later.example", 200);
    wait_for_copy(&world);
    let running = load(&world);
    etcd.restore(&backup);
    let frozen = wait_for_ready(&world, NOTICED, "ok (frozen");
    assert!(frozen.contains("tidegate store accept"), "{frozen}");
    assert_eq!((metric(&world, "store_fresh"), metric(&world, "store_frozen")), (0.0, 1.0));
    refused_in_words(&world.control.apply(&route("refused"), &[]), &["another one, or an older state", "proxies keep"]);
    assert!(!etcd.keys("/tidegate/v1/objects/httproutes/").join(" ").contains("refused"), "nothing is written to it");
    etcd.put("/tidegate/v1/objects/httproutes/shop/unseen", &route("unseen"));
    world.control.restart();
    wait_for_ready(&world, SOON, "ok (frozen");
    running.stop().flawless(1);
    world.edge.restart();
    world.edge.wait_ready(SOON);
    wait_for_status(&world, "later.example", 200);
    assert_eq!(world.get("unseen.example", "/").status, 404, "nothing is taken from it");

    let running = load(&world);
    let done = world.control.run(&["store", "accept"]).ok();
    assert!(done.stdout.contains("goes on with the store"), "{done:#?}");
    wait_for_ready(&world, SOON, "store: fresh");
    assert_eq!(metric(&world, "store_frozen"), 0.0);
    wait_for_status(&world, "later.example", 404);
    goes_live(&world, "after");
    running.stop().flawless(1);
    refused_in_words(&world.control.run(&["store", "accept"]), &["nothing to accept"]);
    wait_for_copy(&world);
    etcd.stop();
    world.control.restart();
    let page = wait_for_ready(&world, SOON, "serving the last-known-good copy");
    assert!(page.starts_with("ok (stale"), "the copy is of the store that was accepted: {page}");
}

#[test]
fn an_etcd_that_stands_still_is_noticed_in_time_and_found_again() {
    let mut etcd = Etcd::start();
    let (world, _backend) = world(&etcd);
    let running = load(&world);
    etcd.process().pause();
    let paused = Instant::now();
    let done = world.control.apply(&route("refused"), &[]);
    refused_in_words(&done, &["the store cannot be reached"]);
    assert!(paused.elapsed() < Duration::from_secs(7), "no call hangs: {:?}", paused.elapsed());
    wait_for_ready(&world, NOTICED, "ok (stale");
    assert!(paused.elapsed() < NOTICED + Duration::from_secs(1), "{:?}", paused.elapsed());
    wait_for("20 s of it", SOON, || match paused.elapsed() {
        long if long >= Duration::from_secs(20) => Ok(()),
        short => Err(format!("{short:?}")),
    });
    etcd.process().resume();
    wait_for_ready(&world, NOTICED, "store: fresh");
    goes_live(&world, "back");
    running.stop().flawless(50 * 15);
}

#[test]
fn a_full_etcd_costs_no_request_and_the_operator_is_told_the_way_out() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes", "4194304"]);
    let (world, _backend) = world(&etcd);
    let running = load(&world);
    let filler = "x".repeat(100_000);
    wait_for("etcd is full", SOON, || {
        let put = etcd.try_ctl(&["put", &format!("/filler/{}", fastrand::u64(..)), &filler]);
        if put.as_ref().is_err_and(|why| why.contains("database space exceeded")) {
            Ok(())
        } else {
            Err(format!("{put:?}"))
        }
    });
    let done = world.control.apply(&route("refused"), &[]);
    refused_in_words(&done, &["out of space", "compact", "defrag", "alarm disarm"]);
    wait_for_status(&world, "shop.example", 200);
    etcd.ctl(&["del", "--prefix", "/filler"]);
    etcd.compact();
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    goes_live(&world, "after");
    running.stop().flawless(10);
}

#[test]
fn what_was_deleted_and_compacted_while_the_control_plane_stood_still_vanishes_and_nothing_else_moves() {
    let etcd = Etcd::start();
    let (mut world, _backend) = world(&etcd);
    world.apply(&(route("gone") + &route("stays")));
    let identity = site_dir(world.certs.path(), "core", "core1");
    let mut unchanged = XdsClient::new(world.control.xds(), "core1", "core1-counting", &identity);
    unchanged.session();
    let updates = "(cds|eds|lds|rds).*update_success";
    let before = world.cores[0].stats(updates);
    for round in 0..3 {
        let name = format!("passing{round}");
        world.apply(&route(&name));
        wait_for_status(&world, &format!("{name}.example"), 200);
        world.control.process().pause();
        assert!(etcd.delete(&format!("/tidegate/v1/objects/httproutes/shop/{name}")));
        forget_accepted(&etcd, &name);
        if round == 0 {
            assert!(etcd.delete("/tidegate/v1/objects/httproutes/shop/gone"));
            forget_accepted(&etcd, "gone");
        }
        etcd.compact();
        world.control.process().resume();
        wait_for_status(&world, &format!("{name}.example"), 404);
    }
    wait_for_status(&world, "gone.example", 404);
    wait_for_status(&world, "stays.example", 200);
    assert_eq!(world.cores[0].stats(updates), before, "nothing was pushed to a core");
    assert_eq!(unchanged.session(), Sent::new(), "a core sees no route: it is sent nothing");
}

/// Deletes an object's accepted copy too, as the leader or the API would: it is the deletion that is under test.
fn forget_accepted(etcd: &Etcd, name: &str) {
    etcd.delete(&format!("/tidegate/v1/accepted/httproutes/shop/{name}"));
}

#[test]
fn without_etcd_and_without_a_copy_the_reason_is_said() {
    let mut etcd = Etcd::start();
    let (mut world, _backend) = world(&etcd);
    wait_for_copy(&world);
    etcd.stop();
    for copy in fs::read_dir(world.control.data_dir().join("last-known-good")).unwrap() {
        fs::write(copy.unwrap().path(), "").unwrap();
    }
    world.control.restart_unready();
    let page = wait_for_ready(&world, SOON, "there is no last-known-good copy to serve");
    assert!(page.starts_with("starting") && page.contains("it is empty; remove it"), "{page}");
    wait_for_status(&world, "shop.example", 200);
    etcd.start_again();
    goes_live(&world, "back");
}
