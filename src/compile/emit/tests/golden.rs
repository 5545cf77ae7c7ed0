//! What one plan of each kind compiles to, as a person reviews it. `UPDATE_GOLDEN=1` writes the files anew.

use std::{fs, path::Path};

use serde_json::Value;

use super::*;
use crate::xds::json::{redact_secrets, to_json, to_yaml};

fn rendered(resources: &[Resource]) -> String {
    let shown = |r: &Resource| {
        let mut json = to_json(full_name(r.kind), &r.payload).unwrap();
        redact_secrets(full_name(r.kind), &mut json);
        json
    };
    to_yaml(&Value::Array(resources.iter().map(shown).collect())).unwrap()
}

fn check(case: &str, resources: &[Resource]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/compile/testdata/{case}.yaml"));
    let text = rendered(resources);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "{case}.yaml differs; review `UPDATE_GOLDEN=1 cargo test` by git diff. Now:\n{text}");
}

#[test]
fn an_edge_is_told_this() {
    let entry = Entry { port: 80, tls: false };
    let hosts = [virtual_host(&routes::misdirected(), entry), virtual_host(&routes::every_feature(), entry)];
    check(
        "edge-listeners",
        &[
            edge_listener(&http_listener()),
            edge_listener(&https_listener(&[Some("*.example"), None])),
            secret("shop/site", &certificate(), &object(Kind::Certificate, "site")),
        ],
    );
    check("edge-routes", &[route_configuration("http/80", hosts.iter())]);
    let named = |plan: VirtualHostPlan| VirtualHostPlan { name: format!("streamed/http/80/{}", plan.name), ..plan };
    let hosts = [named(routes::misdirected()), named(routes::every_feature())].map(|plan| virtual_host(&plan, entry));
    let mut streamed =
        vec![streamed_route_configuration("streamed/http/80", hosts.iter().flat_map(|host| &host.requires))];
    streamed.extend(hosts.iter().map(streamed_host));
    check("edge-virtual-hosts", &streamed);
    check("edge-group", &[group_cluster(&group(), "tidegate.local"), group_endpoints(&group())]);
}

#[test]
fn a_core_is_told_this() {
    check("core-backbone", &[core_listener(&core()), core_route_configuration()]);
    check(
        "core-services",
        &[
            service_cluster(&full_service()),
            service_cluster(&service(AppProtocol::H2c)),
            service_endpoints(&endpoints(&["10.0.0.1:8080", "[2001:db8::1]:8080"])),
            service_endpoints(&endpoints(&[])),
        ],
    );
}

#[test]
fn a_grpc_client_is_told_this() {
    let source = object(Kind::Service, "cart");
    let listener = ApiListenerPlan {
        name: "cart.shop".into(),
        route_configuration: "cart.shop:50051".into(),
        source: source.clone(),
    };
    let route = ApiRoutePlan {
        name: "cart.shop:50051".into(),
        cluster: "shop/cart:50051".into(),
        request_timeout: Some(Duration::from_secs(30)),
        source,
    };
    let mut secure = service(AppProtocol::H2c);
    secure.spec.tls = full_service().spec.tls;
    let near = EndpointsPlan { site: "ber".into(), ..endpoints(&["10.0.1.1:8080", "10.0.1.2:8080"]) };
    let placed = ClientEndpointsPlan {
        name: "shop/web:80".into(),
        priorities: vec![vec![endpoints(&["10.0.0.1:8080"])], vec![near]],
        sources: vec![object(Kind::EndpointSet, "web-fra")],
    };
    let nowhere = ClientEndpointsPlan { priorities: Vec::new(), ..placed.clone() };
    let resources = [
        api_listener(&listener),
        api_route(&route),
        client_cluster(&service(AppProtocol::H2c)),
        client_cluster(&secure),
        client_endpoints(&placed),
        client_endpoints(&nowhere),
    ];
    for resource in &resources {
        assert_eq!(validate(full_name(resource.kind), &resource.payload), [], "{resource:?}");
    }
    check("grpc-client", &resources);
}
