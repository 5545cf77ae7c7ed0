//! The main flow: manifests become traffic, on both stores and by both ways in; bad input harms nothing else.

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{Addresses, Etcd, Tidegate, wait_for},
    world::{SOON, World, route_yaml, service_yaml, start_edited_envoy, start_envoy},
};

#[test]
fn a_request_goes_from_edge_over_core_to_back_end() {
    let dir = TempDir::new().unwrap();
    let world = World::start(&format!("embedded:{}", dir.path().join("store.redb").display()));
    let (near, far) = (world.backend("near"), world.backend("far"));
    let service = service_yaml("web", "", &[("core1", &near), ("core2", &far)]);
    world.apply(&(service + &route_yaml("web", "shop.example", "[{backendRefs: [{name: web, port: 80}]}]")));

    let answer = world.get("shop.example", "/hello?x=1");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen: Value = answer.json();
    assert_eq!(seen["backend"], "near", "the nearest core serves");
    assert_eq!((&seen["path"], &seen["host"]), (&"/hello".into(), &"shop.example".into()));
    assert_eq!(seen["headers"]["x-tidegate-service"], Value::Null, "the core takes the service header away");
    assert_eq!(world.get("other.example", "/").status, 404, "a host of no route");

    let status = world.control.run(&["proxy", "status"]).ok().stdout;
    for proxy in ["edge1-a", "core1-a", "core2-a"] {
        assert!(status.contains(proxy), "{status}");
    }
    let described = world.control.run(&["describe", "httproute", "web", "-n", "shop"]).ok().stdout;
    assert!(described.contains("Programmed"), "{described}");
}

#[test]
fn etcdctl_and_the_command_line_change_the_fleet_alike() {
    let etcd = Etcd::start();
    let world = World::start(&format!("etcd:{}", etcd.url()));
    let backend = world.backend("b1");
    world.apply(&service_yaml("web", "", &[("core1", &backend)]));

    let key = "/tidegate/v1/objects/httproutes/shop/web";
    etcd.put(key, &route_yaml("web", "raw.example", "[{backendRefs: [{name: web, port: 80}]}]"));
    wait_for("the raw put is live", SOON, || match world.get("raw.example", "/").status {
        200 => Ok(()),
        other => Err(other),
    });
    world.apply(&route_yaml("cli", "cli.example", "[{backendRefs: [{name: web, port: 80}]}]"));
    assert_eq!(world.get("cli.example", "/").status, 200);

    let bad = "/tidegate/v1/objects/httproutes/shop/bad";
    etcd.put(bad, "{ this is: [no manifest");
    etcd.put("/tidegate/v1/objects/nonsense/x", "1");
    wait_for("garbage is named", SOON, || {
        let (_, page) = world.control.page("/readyz?verbose")?;
        if page.contains(bad) && page.contains("nonsense/x") { Ok(()) } else { Err(page) }
    });
    let both = (world.get("raw.example", "/").status, world.get("cli.example", "/").status);
    assert_eq!(both, (200, 200), "and harms nothing else");
    let got = world.control.run(&["describe", "httproute", "bad", "-n", "shop"]);
    assert!(format!("{}{}", got.stdout, got.stderr).contains(bad), "{got:#?}");

    etcd.delete("/tidegate/v1/objects/httproutes/shop/cli");
    // The leader's agreement, which nobody has to wait for.
    etcd.delete("/tidegate/v1/accepted/httproutes/shop/cli");
    wait_for("a raw deletion is live", SOON, || match world.get("cli.example", "/").status {
        404 => Ok(()),
        other => Err(other),
    });
}

#[test]
fn etcd_away_costs_nothing_and_loses_nothing() {
    let mut etcd = Etcd::start();
    let world = World::start(&format!("etcd:{}", etcd.url()));
    let backend = world.backend("b1");
    let route = |host: &str| route_yaml("web", host, "[{backendRefs: [{name: web, port: 80}]}]");
    world.apply(&(service_yaml("web", "", &[("core1", &backend)]) + &route("one.example")));
    etcd.stop();
    wait_for("readyz says that the store is away", SOON, || {
        let (_, page) = world.control.page("/readyz?verbose").unwrap();
        if page.contains("stale") { Ok(()) } else { Err(page) }
    });
    assert_eq!(world.get("one.example", "/").status, 200);
    let refused = world.control.apply(&route("two.example"), &[]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("store"), "{refused:#?}");
    etcd.start_again();
    etcd.put("/tidegate/v1/objects/httproutes/shop/web", &route("two.example"));
    wait_for("the change after the outage is live", SOON, || match world.get("two.example", "/").status {
        200 => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_broken_manifest_is_refused_with_its_place_and_nothing_is_stored() {
    let world = World::start("memory");
    let bad = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bad, namespace: shop}
spec:
  parentRefs: [{name: web}]
  rulez: []
  hostnames: [not_a_host]
";
    let refused = world.control.apply(bad, &[]);
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.stderr.contains("-:6:3"), "line and column: {}", refused.stderr);
    assert!(refused.stderr.contains("rules"), "a suggestion: {}", refused.stderr);
    assert!(refused.stderr.contains("-:7:"), "all faults at once: {}", refused.stderr);
    let routes = world.control.run(&["get", "httproutes", "-n", "shop", "-o", "name"]).ok().stdout;
    assert!(!routes.contains("bad"), "{routes}");
}

#[test]
fn a_proxy_whose_claim_its_certificate_does_not_bear_out_gets_nothing() {
    let world = World::start("memory");
    // The certificate of edge1 with the claim of core1.
    let server = world.control.xds().to_string();
    let bootstrap = crate::harness::tidegate(&[
        "proxy",
        "bootstrap",
        "--site",
        "core1",
        "--id",
        "liar",
        "--server",
        &server,
        "--role",
        "core",
        "--ca",
        "ca.crt",
        "--cert",
        "tls.crt",
        "--key",
        "tls.key",
        "--admin-port",
        "0",
    ])
    .ok()
    .stdout;
    let dir = crate::world::site_dir(world.certs.path(), "edge", "edge1");
    let liar = crate::harness::Envoy::start("liar", &bootstrap, &dir);
    wait_for("the refusal is named", SOON, || {
        let status = world.control.run(&["proxy", "status"]).ok();
        let text = format!("{}{}", status.stdout, status.stderr);
        if text.contains("liar") && text.contains("edge1") { Ok(()) } else { Err(text) }
    });
    assert_eq!(liar.stat("listener_manager.lds.update_success"), 0);
}

#[test]
fn a_killed_control_plane_drops_nothing_and_sends_nothing_again() {
    let dir = TempDir::new().unwrap();
    let mut world = World::start(&format!("embedded:{}", dir.path().join("store.redb").display()));
    let backend = world.backend("b1");
    world.apply(
        &(service_yaml("web", "", &[("core1", &backend)])
            + &route_yaml("web", "shop.example", "[{backendRefs: [{name: web, port: 80}]}]")),
    );
    let filter = "(cds|lds)\\.update_success|rds\\..*update_success|cluster\\..*\\.update_success";
    let before = world.edge.stats(filter);
    world.control.process().kill();
    assert_eq!(world.get("shop.example", "/").status, 200);
    world.control.restart();
    wait_for("the proxies are connected again", SOON, || {
        let status = world.control.run(&["proxy", "status"]).ok().stdout;
        let all = ["edge1-a", "core1-a", "core2-a"].iter().all(|proxy| status.contains(proxy));
        if all { Ok(()) } else { Err(status) }
    });
    world.apply(&route_yaml("next", "next.example", "[{backendRefs: [{name: web, port: 80}]}]"));
    assert_eq!(world.get("next.example", "/").status, 200);
    let after = world.edge.stats(filter);
    let grown: Vec<_> = after.iter().filter(|(name, value)| before.get(*name).is_some_and(|old| old < value)).collect();
    assert!(grown.iter().all(|(name, _)| name.contains("rds.")), "only the changed route was sent: {grown:?}");
}

#[test]
fn a_restarted_envoy_is_served_everything_again() {
    let mut world = World::start("memory");
    let backend = world.backend("b1");
    world.apply(
        &(service_yaml("web", "", &[("core1", &backend)])
            + &route_yaml("web", "shop.example", "[{backendRefs: [{name: web, port: 80}]}]")),
    );
    world.edge.restart();
    world.edge.wait_ready(SOON);
    assert_eq!(world.get("shop.example", "/").status, 200);
    let again = start_envoy(&world.control, world.certs.path(), "core1", "core");
    drop(again);
}

#[test]
fn etcd_away_at_the_start_is_said_and_waited_for() {
    let mut etcd = Etcd::start();
    etcd.put(
        "/tidegate/v1/objects/namespaces/shop",
        "apiVersion: tidegate.dev/v1alpha1\nkind: Namespace\nmetadata: {name: shop}\n",
    );
    etcd.stop();
    let addresses = Addresses::next();
    let mut control = Tidegate::serve_unready(addresses.take(), &format!("etcd:{}", etcd.url()), &[]);
    wait_for("readyz says why", SOON, || match control.page("/readyz?verbose") {
        Ok((503, page)) if page.contains("cannot be reached") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_ne!(control.run(&["get", "namespaces"]).code, 0, "what cannot be read is not answered as empty");
    etcd.start_again();
    control.wait_ready(SOON);
    assert_eq!(control.run(&["get", "namespaces", "-o", "name"]).ok().stdout.trim(), "namespace/shop");
}

#[test]
fn of_conflicting_listeners_the_oldest_goes_on() {
    let world = World::start("memory");
    let backend = world.backend("b1");
    let gateway = |name: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec: {{gatewayClassName: tidegate, listeners: [{{name: http, port: 8080, protocol: HTTP, hostname: c.example}}]}}
"
        )
    };
    let route = |name: &str, gateway: &str, path: &str| {
        let rules = format!(
            "[{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], backendRefs: [{{name: web, port: 80}}]}}]"
        );
        route_yaml(name, "c.example", &rules).replace("[{name: web}]", &format!("[{{name: {gateway}}}]"))
    };
    world.apply(
        &(service_yaml("web", "", &[("core1", &backend)]) + &gateway("zz-first") + &route("one", "zz-first", "/one")),
    );
    let late = world.control.apply(&(gateway("aa-second") + &route("two", "aa-second", "/two")), &["--wait"]);
    assert!(late.code == 3 && late.stderr.contains("older"), "stored, but not served, and it is said: {late:?}");
    assert_eq!(world.get("c.example", "/one").status, 200);
    assert_eq!(world.get("c.example", "/two").status, 404);
    let described = world.control.run(&["describe", "gateway", "aa-second", "-n", "shop"]).ok().stdout;
    assert!(described.contains("Conflict"), "{described}");
    world.control.run(&["delete", "gateway", "zz-first", "-n", "shop"]).ok();
    wait_for("the younger listener takes over", SOON, || match world.get("c.example", "/two").status {
        200 => Ok(()),
        other => Err(other),
    });
}

/// An Envoy that takes less than admission allows stands for every reason why a proxy may refuse what we think is good.
#[test]
fn a_refusal_is_told_on_the_object_that_caused_it_and_costs_nothing_else() {
    let mut world = World::start("memory");
    let backend = world.backend("b1");
    world.apply(
        &(service_yaml("web", "", &[("core1", &backend)])
            + &route_yaml("good", "good.example", "[{backendRefs: [{name: web, port: 80}]}]")),
    );
    world.edge = start_edited_envoy(world.control.xds(), world.certs.path(), ("edge1", "edge"), |bootstrap| {
        let limited = bootstrap.replace("error_level: 1000000", "error_level: 50");
        assert_ne!(limited, bootstrap);
        limited
    });
    world.edge.wait_ready(SOON);
    let bad = "[{matches: [{path: {type: RegularExpression, value: '/[a-z]{1,40}x'}}], backendRefs: [{name: web, port: 80}]}]";
    let refused = world.control.apply(&route_yaml("bad", "bad.example", bad), &["--wait"]);
    assert_eq!(refused.code, 3, "{refused:#?}");
    assert!(refused.stderr.contains("regex") && refused.stderr.contains("edge1-a"), "{}", refused.stderr);
    assert_eq!(world.get("good.example", "/").status, 200, "what was served is served on");
    let described = |name: &str| world.control.run(&["describe", "httproute", name, "-n", "shop"]).ok().stdout;
    assert!(described("bad").contains("program size"), "{}", described("bad"));
    assert!(!described("good").contains("program size"), "{}", described("good"));
    let status = world.control.run(&["proxy", "status"]).ok();
    assert!(status.stdout.contains("NACKED"), "{}", status.stdout);

    world.apply(&route_yaml("bad", "bad.example", "[{backendRefs: [{name: web, port: 80}]}]"));
    assert_eq!(world.get("bad.example", "/").status, 200, "mended content is sent again");
}
