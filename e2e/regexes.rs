//! What admission lets through as a regular expression compiles in Envoy too: one that does not is a NACK for a fleet.

use std::{fmt::Write as _, fs};

use tempfile::TempDir;

use crate::harness::Envoy;

const CORPUS: &str = include_str!("data/regexes.txt");

#[test]
fn stock_envoy_takes_every_regex_that_admission_takes() {
    let refused = validate(CORPUS.lines());
    assert_eq!(refused, Ok(()));
    assert!(validate(["(?=a)"].into_iter()).is_err(), "this test can fail");
}

/// Puts each pattern into a route of a bootstrap for Envoy to check.
fn validate<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut yaml = String::from(BOOTSTRAP);
    for pattern in patterns {
        let pattern = serde_json::to_string(pattern).unwrap();
        writeln!(
            yaml,
            "                - {{match: {{safe_regex: {{regex: {pattern}}}}}, direct_response: {{status: 200}}}}"
        )
        .unwrap();
    }
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("bootstrap.yaml");
    fs::write(&file, yaml).unwrap();
    Envoy::validate(&file, dir.path())
}

/// Up to its list of routes; the limit is the one of our bootstraps.
const BOOTSTRAP: &str = r#"
layered_runtime:
  layers:
  - name: static
    static_layer: {re2.max_program_size.error_level: 1000000}
static_resources:
  listeners:
  - name: regexes
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: regexes
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: regexes
            virtual_hosts:
            - name: regexes
              domains: ["*"]
              routes:
"#;
