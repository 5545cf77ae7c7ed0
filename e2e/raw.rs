//! EnvoyResources: what is written in Envoy's own words reaches a real Envoy, changes under load, and goes.

use std::{
    fmt::Display,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidegate::xds::ResourceType;

use crate::{
    failover::stored,
    harness::{Load, Request, wait_for},
    world::{SOON, World, site_dir, start_edited_envoy},
    xds_client::XdsClient,
};

const PORT: u16 = 8090;
const RATE: u32 = 100;

/// An EnvoyResource, as JSON, which is YAML.
fn raw(name: &str, kind: &str, resource: &Value) -> String {
    let manifest = json!({
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "EnvoyResource",
        "metadata": {"name": name},
        "spec": {"type": kind, "sites": "continent=europe", "resource": resource},
    });
    format!("---\n{manifest}\n")
}

fn any(message: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("type.googleapis.com/envoy.extensions.filters.{message}").into();
    fields
}

/// Scopes by the header `x-tenant`; one filter comes by ECDS.
fn listener(ip: Ipv4Addr) -> String {
    let ads = json!({"ads": {}, "resourceApiVersion": "V3"});
    let fragment = json!({"headerValueExtractor": {"name": "x-tenant", "element": {"key": "id", "separator": "="}, "elementSeparator": ";"}});
    let manager = any(
        "network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "statPrefix": "raw",
            "scopedRoutes": {
                "name": "raw-scopes",
                "scopeKeyBuilder": {"fragments": [fragment]},
                "rdsConfigSource": ads,
                "scopedRds": {"scopedRdsConfigSource": ads},
            },
            "httpFilters": [
                {"name": "stamp", "configDiscovery": {
                    "configSource": ads,
                    "typeUrls": ["type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"],
                }},
                {"name": "router", "typedConfig": any("http.router.v3.Router", json!({}))},
            ],
        }),
    );
    raw(
        "listener",
        "listener",
        &json!({
            "name": "raw",
            "address": {"socketAddress": {"address": ip, "portValue": PORT}},
            "filterChains": [{"filters": [{"name": "manager", "typedConfig": manager}]}],
        }),
    )
}

fn stamp(value: &str) -> String {
    let header =
        json!({"append": {"header": {"key": "x-stamp", "value": value}, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"}});
    let filter = any("http.header_mutation.v3.HeaderMutation", json!({"mutations": {"responseMutations": [header]}}));
    raw("stamp", "ECDS", &json!({"name": "stamp", "typedConfig": filter}))
}

fn scope(routes: &str) -> String {
    let key = json!({"fragments": [{"stringKey": "a"}]});
    raw("scope", "SRDS", &json!({"name": "tenant-a", "routeConfigurationName": routes, "key": key}))
}

fn routes(name: &str, cluster: &str) -> String {
    let header = json!({"header": {"key": "x-routes", "value": name}, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"});
    let host = json!({"name": "all", "domains": ["*"], "responseHeadersToAdd": [header],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]});
    raw(name, "route", &json!({"name": name, "virtualHosts": [host]}))
}

fn cluster(name: &str, at: std::net::SocketAddr, timeout: &str) -> String {
    let address = json!({"socketAddress": {"address": at.ip(), "portValue": at.port()}});
    let endpoints = json!([{"lbEndpoints": [{"endpoint": {"address": address}}]}]);
    raw(
        name,
        "cluster",
        &json!({
            "name": name,
            "type": "STATIC",
            "connectTimeout": timeout,
            "loadAssignment": {"clusterName": name, "endpoints": endpoints},
        }),
    )
}

fn runtime(value: u32) -> String {
    raw("runtime", "runtime", &json!({"name": "raw-layer", "layer": {"raw.test": value}}))
}

/// A world whose edge asks for a runtime layer, which our bootstrap does not.
fn world() -> World {
    let mut world = World::start_alone("memory");
    world.edge.process().kill();
    let layer = |bootstrap: String| {
        let mut bootstrap: Value = serde_saphyr::from_str(&bootstrap).unwrap();
        let layers = bootstrap["layered_runtime"]["layers"].as_array_mut().unwrap();
        let rtds = json!({"name": "raw-layer", "rtds_config": {"ads": {}, "resource_api_version": "V3"}});
        layers.insert(1, json!({"name": "raw", "rtds_layer": rtds}));
        bootstrap.to_string()
    };
    world.edge = start_edited_envoy(world.control.xds(), world.certs.path(), ("edge1", "edge"), layer);
    world.edge.wait_ready(SOON);
    world
}

fn request(world: &World) -> Request {
    let request = Request::get("http://raw.example/").header("x-tenant", "id=a");
    request.to((world.edge_ip, PORT)).within(Duration::from_secs(10))
}

/// Waits until a header of an answer has this value.
fn answers(world: &World, header: &str, value: &str) {
    wait_for(&format!("{header}: {value}"), SOON, || {
        let answer = request(world).send()?;
        let told = (answer.status, answer.header(header).map(str::to_owned));
        if told == (200, Some(value.to_owned())) { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

fn seen<E: Display>(what: &str, probe: impl FnMut() -> Result<(), E>) {
    wait_for(what, SOON * 2, probe);
}

fn runtime_says(world: &World, value: Option<u32>) {
    seen("the runtime layer", || {
        let all = world.edge.get("/runtime")?.json();
        let found = all["entries"]["raw.test"]["final_value"].as_str().map(str::to_owned);
        if found == value.map(|value| value.to_string()) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn every_raw_type_reaches_envoy_changes_under_load_and_goes() {
    let world = world();
    let (one, two) = (world.backend("one"), world.backend("two"));
    let all = runtime(1) + &stamp("1") + &scope("routes-1") + &routes("routes-1", "raw-1");
    world.apply(&(all + &cluster("raw-1", one.address(), "1s") + &listener(world.edge_ip)));
    answers(&world, "x-stamp", "1");
    runtime_says(&world, Some(1));
    let load = Load::new([request(&world)]).per_second(RATE).connections(4, 2).start();

    world.apply(&stamp("2"));
    answers(&world, "x-stamp", "2");
    world.apply(&cluster("raw-1", one.address(), "2s"));
    world.apply(&(cluster("raw-2", two.address(), "1s") + &routes("routes-2", "raw-2") + &scope("routes-2")));
    answers(&world, "x-routes", "routes-2");
    assert!(two.count() > 0, "the new scope leads to the new cluster");
    world.apply(&routes("routes-2", "raw-1"));
    world.apply(&runtime(2));
    runtime_says(&world, Some(2));
    world.control.run(&["delete", "envoyresource", "routes-1", "raw-2"]).ok();
    seen("the cluster that nothing names is gone", || {
        let clusters = world.edge.get("/clusters")?.text();
        if clusters.contains("raw-2::") { Err(clusters) } else { Ok(()) }
    });
    load.stop().flawless(u64::from(RATE) * 5);

    let shown = world.control.run(&["proxy", "config", "edge1-a", "srds", "-o", "yaml"]).ok().stdout;
    assert!(shown.contains("routeConfigurationName: routes-2"), "{shown}");
    let shown = world.control.run(&["proxy", "status"]).ok().stdout;
    assert!(["ECDS", "SRDS", "RTDS"].iter().all(|word| shown.contains(word)) && !shown.contains("VHDS"), "{shown}");

    world.control.run(&["delete", "envoyresource", "runtime", "scope", "listener", "stamp", "routes-2", "raw-1"]).ok();
    runtime_says(&world, None);
    seen("nothing of it is left", || {
        let listeners = world.edge.get("/listeners?format=json")?.text() + &world.edge.get("/clusters")?.text();
        if listeners.contains("raw") { Err(listeners) } else { Ok(()) }
    });
    assert_eq!(world.edge.stat("listener_manager.lds.update_rejected"), 0);
    assert_eq!(world.edge.stat("cluster_manager.cds.update_rejected"), 0);
}

#[test]
fn what_envoy_would_refuse_is_refused_and_secrets_are_shown_to_nobody() {
    let world = World::start("memory");
    let refused =
        world.control.apply(&cluster("raw", ([127, 0, 0, 1], 9).into(), "1s").replace("STATIC", "STATC"), &[]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains(":2:") && refused.stderr.contains("\"STATC\" is none of STATIC"), "{refused:?}");
    let taken = listener(world.edge_ip).replace(&PORT.to_string(), &crate::world::HTTP.to_string());
    let warned = world.control.apply(&taken, &[]).ok();
    assert!(warned.stderr.contains("Gateway shop/web listens on"), "{warned:?}");
    let hush = "a-token-that-nobody-sees";
    let secret = json!({"name": "token", "genericSecret": {"secret": {"inlineString": hush}}});
    world.control.apply(&raw("token", "secret", &secret), &[]).ok();
    for command in [
        &["get", "envoyresource", "token", "-o", "yaml"][..],
        &["describe", "envoyresource", "token"],
        &["proxy", "config", "edge1-a", "-o", "yaml"],
    ] {
        let shown = world.control.run(command).ok();
        assert!(!(shown.stdout + &shown.stderr).contains(hush), "{command:?}");
    }
    assert!(world.control.run(&["proxy", "config", "edge1-a", "sds"]).ok().stdout.contains("token"));
}

/// A time to live, the shortest.
const TTL: Duration = Duration::from_secs(10);

fn lasting(manifest: &str) -> String {
    manifest.replace("\"spec\":{", &format!("\"spec\":{{\"ttl\":\"{}s\",", TTL.as_secs()))
}

/// Whether the edge has each of two clusters.
fn has(world: &World, clusters: [&str; 2]) -> Result<[bool; 2], String> {
    let all = world.edge.get("/clusters")?.text();
    Ok(clusters.map(|name| all.contains(&format!("{name}::"))))
}

#[test]
fn what_has_a_time_to_live_stays_by_heartbeats_runs_out_without_a_control_plane_and_comes_back() {
    let (_dir, store) = stored();
    let mut world = World::start(&store);
    let backend = world.backend("one");
    let [short, long] = ["raw-short", "raw-long"].map(|name| cluster(name, backend.address(), "1s"));
    world.apply(&(lasting(&short) + &long));
    let clusters = ["raw-short", "raw-long"];
    assert_eq!(has(&world, clusters), Ok([true, true]));
    let since = Instant::now();
    wait_for("it outlives its time twice", SOON, || {
        assert_eq!(has(&world, clusters), Ok([true, true]), "after {:?}", since.elapsed());
        if since.elapsed() > TTL * 2 { Ok(()) } else { Err("not yet") }
    });
    assert_eq!(world.edge.stat("cluster_manager.cds.update_rejected"), 0);
    world.control.process().kill();
    seen("it runs out, alone", || match has(&world, clusters)? {
        [false, true] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.control.restart();
    seen("it is back", || match has(&world, clusters)? {
        [true, true] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(world.edge.stat("cluster_manager.cds.update_rejected"), 0);
}

#[test]
fn times_to_live_and_heartbeats_are_for_those_alone_who_say_that_they_know_them() {
    let world = World::start("memory");
    world.apply(&lasting(&cluster("raw", ([127, 0, 0, 1], 9).into(), "1s")));
    let identity = site_dir(world.certs.path(), "edge", "edge1");
    let client = |id| XdsClient::new(world.control.xds(), "edge1", id, &identity);
    let mut knowing = client("knowing").expiring();
    (knowing.quiet, knowing.enough_lives) = (SOON, 3);
    let began = Instant::now();
    knowing.session();
    let came = |renews| ("raw".to_owned(), TTL, renews);
    assert_eq!(knowing.lives, [came(false), came(true), came(true)]);
    assert!(began.elapsed() < TTL * 3 / 2, "twice in that time");
    let mut other = client("other");
    other.quiet = TTL;
    other.session();
    assert!(other.versions()[&ResourceType::Cluster].contains_key("raw"));
    assert_eq!(other.lives, []);
}
