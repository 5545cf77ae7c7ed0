//! HTTPS at the edge: certificates by SDS, one chain per hostname, misdirected requests, rotation.

use tempfile::TempDir;

use crate::{
    harness::wait_for,
    world::{SOON, World, certificate_yaml, https_gateway_yaml, route_yaml, service_yaml},
};

#[test]
fn https_is_served_by_sni_and_misdirected_hosts_are_told_so() {
    let dir = TempDir::new().unwrap();
    let world = World::start(&format!("embedded:{}", dir.path().join("store.redb").display()));
    let backend = world.backend("b1");
    let (cert_a, ca_a) = certificate_yaml("a", "a.example");
    let (cert_b, ca_b) = certificate_yaml("b", "b.example");
    let to_web = "[{backendRefs: [{name: web, port: 80}]}]";
    world.apply(
        &(service_yaml("web", "", &[("core1", &backend)])
            + &cert_a
            + &cert_b
            + &https_gateway_yaml(&[("a.example", "a"), ("b.example", "b")], "")
            + &route_yaml("a", "a.example", to_web)
            + &route_yaml("b", "b.example", to_web)),
    );
    let status = |ca: &str, sni: &str, host: &str| world.tls_request(ca, sni, host, "/").send().map(|a| a.status);
    assert_eq!(status(&ca_a, "a.example", "a.example"), Ok(200));
    assert_eq!(status(&ca_b, "b.example", "b.example"), Ok(200));
    assert_eq!(status(&ca_a, "a.example", "b.example"), Ok(421), "the host of another HTTPS listener");
    assert_eq!(status(&ca_a, "a.example", "c.example"), Ok(404), "a host of none");
    assert!(status(&ca_a, "c.example", "a.example").is_err(), "an SNI of no listener is refused in the handshake");
    let h2 = world.tls_request(&ca_a, "a.example", "a.example", "/").http2().send().unwrap();
    assert_eq!(h2.status, 200);

    let (new, ca_new) = certificate_yaml("a", "a.example");
    world.apply(&new);
    wait_for("the new certificate serves", SOON, || match status(&ca_new, "a.example", "a.example") {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let config = world.control.run(&["proxy", "config", "edge1-a", "sds", "-o", "yaml"]).ok().stdout;
    assert!(config.contains("redacted") && !config.contains("PRIVATE KEY"), "{config}");
    let got = world.control.run(&["get", "certificate", "a", "-n", "shop", "-o", "yaml"]).ok().stdout;
    assert!(!got.contains("PRIVATE KEY"), "{got}");
}
