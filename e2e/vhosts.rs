//! Virtual hosts that are served one by one (VHDS), with real Envoys.

use std::net::Ipv4Addr;

use crate::{
    forms::of_one_type,
    harness::{Backend, Link, Load, Request, Response, wait_for},
    world::{
        HTTP, SOON, World, certificate_yaml, https_gateway_yaml, route_yaml, service_yaml, start_edited_envoy,
        start_envoy_at,
    },
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

/// How often the edge has taken virtual hosts of a port.
fn reloads(world: &World, port: u16) -> u64 {
    world.edge.stats(&format!("vhds\\.streamed/http/{port}\\.config_reload")).values().sum()
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
    let before = (reloads(&world, HTTP), world.edge.stats("rds\\.streamed.*update_success"));
    world.apply(&route_yaml(
        "b-example",
        "b.example",
        "[{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, hostname: a.example}}]}]",
    ));
    assert_eq!(world.get("b.example", "/").status, 301);
    assert_eq!(reloads(&world, HTTP), before.0 + 1, "one edit is one update of virtual hosts");
    assert_eq!(
        world.edge.stats("rds\\.streamed.*update_success"),
        before.1,
        "the route configuration is not sent again"
    );
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

/// What an edit of one route among many costs on the wire: one host, or all of them.
#[test]
fn an_edit_among_many_hosts_costs_one_on_the_wire_where_they_are_streamed() {
    let mut world = World::start("memory");
    let backend = world.backend("one");
    world.apply(&(service_yaml("web", "", &[("core1", &backend)]) + &gateway(true, &[])));
    let hosts: Vec<String> = (0..200).map(|n| format!("h{n}.example")).collect();
    for chunk in hosts.chunks(50) {
        world.apply(&routes(&chunk.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let link = Link::to(world.control.xds());
    world.edge = start_envoy_at(link.address(), world.certs.path(), "edge1", "edge");
    world.edge.wait_ready(SOON);
    let cost = |status: u16| {
        let before = link.bytes().1;
        let rules = format!("[{{filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: {status}}}}}]}}]");
        world.apply(&route_yaml("h7-example", "h7.example", &rules));
        assert_eq!(world.get("h7.example", "/").status, status);
        link.bytes().1 - before
    };
    let streamed = cost(301);
    world.apply(&gateway(false, &[]));
    let whole = cost(302);
    eprintln!("one edit among 200 hosts: {streamed} bytes streamed, {whole} whole");
    assert!(streamed < 5_000 && whole > 20 * streamed, "{streamed} bytes streamed, {whole} whole");
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
        world.apply(&route_yaml(
            "h0-example",
            "h0.example",
            &rules("web").replacen("[{", "[{timeouts: {request: 9s}, ", 1),
        ));
        world.apply(&routes(&["h0.example"]));
        wait_for("the listener goes over", SOON, || {
            let dump = world.edge.config_dump("dynamic_listeners").to_string();
            if dump.contains("streamed/http/8080") == streamed { Ok(()) } else { Err("not yet") }
        });
    }
    wait_for("the old filter chains have drained", SOON, || {
        match world.edge.stat("listener_manager.total_filter_chains_draining") {
            0 => Ok(()),
            draining => Err(draining),
        }
    });
    let seconds = start.elapsed().as_secs();
    let (report, secure) = (load.stop(), secure_load.stop());
    eprintln!("{} and {} requests in {seconds} s, {} connections closed", report.ok, secure.ok, report.closings);
    secure.flawless(u64::from(RATE) / 4 * seconds * 9 / 10);
    report.flawless(u64::from(RATE) * seconds * 9 / 10);
    assert_eq!(world.edge.stats("update_rejected").values().sum::<u64>(), 0);
}

/// The same Gateway, whole for a client that cannot be streamed its hosts, and streamed beside its other types.
#[test]
fn edges_that_speak_another_form_of_xds_serve_the_same_hosts() {
    let mut world = World::start("memory");
    let backend = world.backend("one");
    let service = service_yaml("web", "", &[("core1", &backend)]);
    world.apply(&(service + &gateway(true, &[]) + &routes(&["a.example"])));
    for streamed in [false, true] {
        let form = if streamed { of_one_type } else { state_of_the_world };
        world.edge = start_edited_envoy(world.control.xds(), world.certs.path(), ("edge1", "edge"), form);
        world.edge.wait_ready(SOON);
        assert_eq!(world.get("a.example", "/").status, 200);
        assert_eq!(world.edge.config_dump("dynamic_listeners").to_string().contains("streamed/"), streamed);
        world.apply(&route_yaml("more", "more.example", &rules("web")));
        assert_eq!(world.get("more.example", "/").status, 200);
        world.control.run(&["delete", "httproute", "more", "-n", "shop"]).ok();
    }
}

fn state_of_the_world(bootstrap: String) -> String {
    bootstrap.replace("api_type: DELTA_GRPC", "api_type: GRPC")
}

/// Ports of listeners that the test gives the edge, which ask for hosts and for clusters on demand.
const ASKS_HOSTS: u16 = 8090;
const ASKS_CLUSTERS: u16 = 8091;

fn asking(bootstrap: String, ip: Ipv4Addr) -> String {
    let listener = |port: u16, routes: &str, filter: &str| {
        format!(
            "  - name: asks-{port}
    address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: asks-{port}
          {routes}
          http_filters:
          - name: envoy.filters.http.on_demand
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand{filter}}}
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
        )
    };
    let ads = "{ads: {}, resource_api_version: V3}";
    let rds = format!("rds: {{route_config_name: streamed/http/{HTTP}, config_source: {ads}}}");
    let header = "route_config: {virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, \
                  route: {cluster_header: x-cluster}}]}]}";
    let listeners = listener(ASKS_HOSTS, &rds, "")
        + &listener(ASKS_CLUSTERS, header, &format!(", odcds: {{source: {ads}, timeout: 20s}}"));
    let edited = bootstrap.replace("static_resources:\n", &format!("static_resources:\n  listeners:\n{listeners}"));
    assert_ne!(edited, bootstrap);
    edited
}

/// A world whose edge asks on demand, and its link to the control plane.
fn asking_world() -> (World, Backend, Link) {
    let mut world = World::start("memory");
    let backend = world.backend("one");
    let service = service_yaml("web", "", &[("core1", &backend)]);
    world.apply(&(service + &gateway(true, &[]) + &routes(&["a.example", "*.wide.example"])));
    let link = Link::to(world.control.xds());
    let edit = |bootstrap| asking(bootstrap, world.edge_ip);
    world.edge = start_edited_envoy(link.address(), world.certs.path(), ("edge1", "edge"), edit);
    world.edge.wait_ready(SOON);
    (world, backend, link)
}

/// Sends a request that the edge cannot answer before it hears from the control plane; answers what came then.
fn answered_later(world: &World, link: &Link, port: u16, request: Request) -> Response {
    let asks = std::thread::spawn(move || request.send().unwrap());
    wait_for("the edge holds the request back", SOON, || {
        match world.edge.stat(&format!("http.asks-{port}.downstream_rq_active")) {
            1 => Ok(()),
            active => Err(active),
        }
    });
    link.open();
    asks.join().unwrap()
}

#[test]
fn a_first_request_to_a_host_that_the_proxy_does_not_know_yet_succeeds() {
    let (world, _backend, link) = asking_world();
    let request = |host: &str| world.request(host, "/").to((world.edge_ip, ASKS_HOSTS)).within(SOON);
    for (host, status) in
        [("a.example", 200), ("x.wide.example", 200), ("nobody.example", 404), ("nobody.example:1", 404)]
    {
        assert_eq!(request(host).send().unwrap().status, status, "{host}");
    }
    for host in ["new.example", "newer.example"] {
        link.hold();
        world.control.apply(&routes(&[host]), &[]).ok();
        assert_eq!(world.get(host, "/").status, 404, "the proxy does not know it");
        assert_eq!(answered_later(&world, &link, ASKS_HOSTS, request(host)).status, 200, "{host}");
    }
    // What nobody knew comes to be.
    world.apply(&routes(&["nobody.example"]));
    assert_eq!(request("nobody.example").send().unwrap().status, 200);
    assert_eq!(world.edge.stats("update_rejected").values().sum::<u64>(), 0);
}

#[test]
fn a_first_request_to_a_cluster_that_the_proxy_does_not_know_yet_succeeds() {
    let (world, _backend, link) = asking_world();
    let far = world.backend("far");
    let request = |cluster: &str, service: &str| {
        let request = world.request("any.example", "/").to((world.edge_ip, ASKS_CLUSTERS)).within(SOON);
        request.header("x-cluster", cluster).header("x-tidegate-service", service)
    };
    assert_eq!(request("backbone/-/core1", "shop/web:80").send().unwrap().status, 200);
    for name in ["backbone/-/nowhere", "backbone/-/nobody"] {
        let began = std::time::Instant::now();
        assert_eq!(request(name, "shop/web:80").send().unwrap().status, 503, "{name}");
        assert!(began.elapsed().as_secs() < 10, "it is told at once that there is none, and waits for no time-out");
    }
    let services = [("far", vec![("core2", &far)]), ("both", vec![("core1", &far), ("core2", &far)])];
    for (service, at) in services {
        link.hold();
        let objects = service_yaml(service, "", &at) + &route_yaml(service, "far.example", &rules(service));
        world.control.apply(&objects, &[]).ok();
        let sites: Vec<&str> = at.iter().map(|(site, _)| *site).collect();
        // The edge asks past its routes, which would have waited for the cores.
        for (core, _) in world.cores.iter().zip(["core1", "core2"]).filter(|(_, site)| sites.contains(site)) {
            let is_it = |status: &serde_json::Value| {
                let hosts = status["host_statuses"].as_array().map_or(0, Vec::len);
                status["name"] == format!("shop/{service}:80") && hosts > 0
            };
            wait_for("the core has the service and its endpoint", SOON, || {
                let page = core.clusters();
                match page["cluster_statuses"].as_array().is_some_and(|all| all.iter().any(is_it)) {
                    true => Ok(()),
                    false => Err(page),
                }
            });
        }
        let request = request(&format!("backbone/-/{}", sites.join("+")), &format!("shop/{service}:80"));
        assert_eq!(answered_later(&world, &link, ASKS_CLUSTERS, request).status, 200, "{service}");
    }
}
