//! Bad input over good objects: the accepted copy serves on, on a control plane that is started afterwards too.

use crate::{
    harness::{Etcd, wait_for},
    world::{SOON, World, route_yaml, service_yaml},
};

const ROUTE: &str = "/tidegate/v1/objects/httproutes/shop/web";
const COPY: &str = "/tidegate/v1/accepted/httproutes/shop/web";

fn live(world: &World, host: &str, status: u16) {
    wait_for(&format!("{host} answers {status}"), SOON, || match world.get(host, "/").status {
        got if got == status => Ok(()),
        other => Err(other),
    });
}

/// What `/readyz?verbose`, the metrics, `get` and `describe` say of the route, once they say it.
fn told(world: &World, fault: &str) {
    let control = &world.control;
    wait_for("readyz names key, fault and what is served instead", SOON, || {
        let (code, page) = control.page("/readyz?verbose")?;
        let line = page.lines().find(|line| line.contains(ROUTE)).unwrap_or_default();
        let named = line.contains("InvalidObject") && line.contains(fault) && line.contains("accepted copy");
        if code == 200 && named { Ok(()) } else { Err(page) }
    });
    let metrics = control.page("/metrics").unwrap().1;
    let metric = metrics.lines().find(|line| line.starts_with("tidegate_problem{") && line.contains(ROUTE));
    assert!(metric.is_some_and(|line| line.contains("InvalidObject")), "{metrics}");
    let described = control.run(&["describe", "httproute", "web", "-n", "shop"]).ok().stdout;
    let all = [ROUTE, fault, "accepted copy"];
    assert!(all.iter().all(|part| described.contains(part)), "{described}");
    let got = control.run(&["get", "httproute", "web", "-n", "shop", "-o", "yaml"]).ok().stdout;
    assert!(all.iter().all(|part| got.contains(part)), "{got}");
}

#[test]
fn garbage_over_a_good_route_costs_nothing_even_after_a_restart_and_is_told_of_everywhere() {
    let etcd = Etcd::start();
    let mut world = World::start(&format!("etcd:{}", etcd.url()));
    let backend = world.backend("b1");
    let route = |host: &str| route_yaml("web", host, "[{backendRefs: [{name: web, port: 80}]}]");
    world.apply(&(service_yaml("web", "", &[("core1", &backend)]) + &route("shop.example")));
    assert_eq!(world.get("shop.example", "/").status, 200);
    let filter = "rds\\..*(update_success|config_reload)$|lds.update_success";
    let before = world.edge.stats(filter);

    etcd.put(ROUTE, "{ this is: [no manifest");
    told(&world, "1:");
    assert_eq!(world.get("shop.example", "/").status, 200);
    world.control.restart();
    told(&world, "1:");
    // What comes later reaches the proxy by the new control plane: so it has answered by then.
    world.apply(&route_yaml("next", "next.example", "[{backendRefs: [{name: web, port: 80}]}]"));
    live(&world, "next.example", 200);
    assert_eq!(world.get("shop.example", "/").status, 200);
    let after = world.edge.stats(filter);
    let grown: Vec<_> =
        after.iter().filter(|(name, value)| before.get(*name).is_none_or(|old| old != *value)).collect();
    assert!(grown.iter().all(|(name, value)| name.contains("rds.") && before[*name] + 1 >= **value), "{grown:?}");

    // Valid, but with a field that nobody knows: admission would refuse it.
    etcd.put(ROUTE, &route("odd.example").replace("spec:", "spec:\n  rulez: []"));
    told(&world, "rulez");
    assert_eq!((world.get("shop.example", "/").status, world.get("odd.example", "/").status), (200, 404));

    world.apply(&route("mended.example"));
    live(&world, "mended.example", 200);
    assert!(!world.control.page("/readyz?verbose").unwrap().1.contains(ROUTE));
}

#[test]
fn a_route_that_is_gone_with_its_accepted_copy_is_gone() {
    let etcd = Etcd::start();
    let world = World::start(&format!("etcd:{}", etcd.url()));
    let backend = world.backend("b1");
    let route = route_yaml("web", "shop.example", "[{backendRefs: [{name: web, port: 80}]}]");
    world.apply(&(service_yaml("web", "", &[("core1", &backend)]) + &route));
    assert!(etcd.get(COPY).is_some_and(|copy| copy.starts_with("# accepted; age ")));
    world.control.run(&["delete", "httproute", "web", "-n", "shop"]).ok();
    assert_eq!((etcd.get(ROUTE), etcd.get(COPY)), (None, None), "one delete takes both");
    live(&world, "shop.example", 404);
}
