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
