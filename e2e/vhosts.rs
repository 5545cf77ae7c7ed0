//! Virtual hosts that are served one by one (VHDS), with real Envoys.

use std::time::Duration;

use crate::{
    harness::{Load, wait_for},
    world::{HTTP, SOON, World, certificate_yaml, https_gateway_yaml, route_yaml, service_yaml},
};

/// Requests a second under load.
const RATE: u32 = 200;
const STREAMED: &str = "metadata: {name: web, namespace: shop, annotations: {tidegate.dev/virtual-hosts: streamed}}";
const WHOLE: &str = "metadata: {name: web, namespace: shop}";

/// The Gateway of the world with its virtual hosts served one by one, or whole.
fn gateway(streamed: bool, https: &[(&str, &str)]) -> String {
    let yaml = https_gateway_yaml(https, "");
    if streamed { yaml.replace(WHOLE, STREAMED) } else { yaml }
}

fn rules(service: &str) -> String {
    format!("[{{backendRefs: [{{name: {service}, port: 80}}]}}]")
}

/// Routes to `web`, one for each host.
fn routes(hosts: &[&str]) -> String {
    let name = |host: &str| host.replace('*', "any").replace('.', "-");
    hosts.iter().map(|host| route_yaml(&name(host), host, &rules("web"))).collect()
}

/// What the edge has counted of a route configuration's virtual hosts.
fn vhds(world: &World, port: u16, stat: &str) -> u64 {
    world.edge.stat(&format!("http.gateway_{port}.vhds.streamed/http/{port}.{stat}"))
}

#[test]
fn virtual_hosts_come_whole_and_then_one_by_one() {
    let world = World::start("memory");
    let backend = world.backend("one");
    let service = service_yaml("web", "", &[("core1", &backend)]);
    world.apply(&(service + &gateway(true, &[]) + &routes(&["a.example", "b.example", "*.wide.example"])));
    for (host, status) in [
        ("a.example", 200),
        ("b.example", 200),
        ("x.wide.example", 200),
        ("x.y.wide.example", 200),
        ("a.example:8080", 200),
        ("wide.example", 404),
        ("c.example", 404),
    ] {
        assert_eq!(world.get(host, "/").status, status, "{host}");
    }
    let before = (vhds(&world, HTTP, "config_reload"), world.edge.stats("rds\\..*update_success"));
    world.apply(&route_yaml(
        "b-example",
        "b.example",
        "[{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, hostname: a.example}}]}]",
    ));
    assert_eq!(world.get("b.example", "/").status, 301);
    assert_eq!(vhds(&world, HTTP, "config_reload"), before.0 + 1, "one edit is one update of virtual hosts");
    assert_eq!(world.edge.stats("rds\\..*update_success"), before.1, "the route configuration is not sent again");
    world.control.run(&["delete", "httproute", "a-example", "-n", "shop"]).ok();
    wait_for("the host that is gone is not answered", SOON, || match world.get("a.example", "/").status {
        404 => Ok(()),
        status => Err(status),
    });
    assert_eq!(world.get("x.wide.example", "/").status, 200);
    assert_eq!(world.edge.stats("update_rejected").values().sum::<u64>(), 0);
}

#[test]
fn an_edge_that_comes_back_or_starts_anew_has_all_virtual_hosts() {
    let mut world = World::start("memory");
    let backend = world.backend("one");
    let service = service_yaml("web", "", &[("core1", &backend)]);
    world.apply(&(service + &gateway(true, &[]) + &routes(&["a.example", "b.example"])));
    assert_eq!(world.get("a.example", "/").status, 200);
    world.edge.restart();
    world.edge.wait_ready(SOON);
    assert_eq!(world.get("a.example", "/").status, 200, "a listener is not ready before its hosts are there");
}

/// Back and forth: a listener goes over to the other route configuration when all of that is there.
#[test]
fn the_annotation_changes_under_load_and_no_request_fails() {
    let world = World::start_alone("memory");
    let backend = world.backend("one");
    let (certificate, ca) = certificate_yaml("tls", "tls.example");
    let https = [("tls.example", "tls")];
    let hosts: Vec<String> = (0..50).map(|n| format!("h{n}.example")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).chain(["tls.example", "*.wide.example"]).collect();
    let service = service_yaml("web", "", &[("core1", &backend)]);
    world.apply(&(service + &certificate + &gateway(false, &https) + &routes(&hosts)));
    let plain = ["h0.example", "h49.example", "x.wide.example"].map(|host| world.request(host, "/?delay=20"));
    let secure = world.tls_request(&ca, "tls.example", "tls.example", "/");
    let load = Load::new(plain).per_second(RATE).connections(8, 4).start();
    let secure_load = Load::new([secure.clone(), secure.http2()]).per_second(RATE / 4).connections(4, 2).start();
    let start = std::time::Instant::now();
    for round in 0..6 {
        let streamed = round % 2 == 0;
        world.apply(&gateway(streamed, &https));
        world.apply(&route_yaml("h0-example", "h0.example", &rules("web").replace("[{", "[{name: again, ")));
        world.apply(&routes(&["h0.example"]));
        wait_for("the listener goes over", SOON, || {
            let dump = world.edge.config_dump("dynamic_listeners").to_string();
            if dump.contains("streamed/http/8080") == streamed { Ok(()) } else { Err("not yet") }
        });
    }
    // Connections of the old filter chains drain for 10 s.
    std::thread::sleep(Duration::from_secs(12));
    let seconds = start.elapsed().as_secs();
    let (report, secure) = (load.stop(), secure_load.stop());
    eprintln!("{} and {} requests in {seconds} s, {} connections closed", report.ok, secure.ok, report.closings);
    secure.flawless(u64::from(RATE) / 4 * seconds * 9 / 10);
    report.flawless(u64::from(RATE) * seconds * 9 / 10);
    assert_eq!(world.edge.stats("update_rejected").values().sum::<u64>(), 0);
}
