//! What a stock Envoy says, without traffic, to what admission lets through: bootstraps and regular expressions.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};
use tidegate::{certs::dev_certs, manifest::regex, model::Role};

use crate::harness::Envoy;

const CORPUS: &str = include_str!("data/regexes.txt");

/// A random expression of the syntax that manifests may use, and a little beyond: admission sorts out.
fn random_regex(rng: &mut fastrand::Rng, depth: u32) -> String {
    const ATOMS: [&str; 24] = [
        "a",
        "Z",
        "0",
        "/",
        "-",
        "_",
        ".",
        "%",
        "é",
        "漢",
        r"\.",
        r"\/",
        r"\d",
        r"\D",
        r"\w",
        r"\W",
        r"\s",
        r"\S",
        "[a-z]",
        "[^/]",
        r"[\w.-]",
        "[[:alpha:]]",
        r"\pL",
        r"\x41",
    ];
    const REPEATS: [&str; 12] = ["", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,}"];
    let mut text = String::new();
    for _ in 0..rng.u32(1..5) {
        let nested = depth > 0 && rng.u32(..4) == 0;
        if nested {
            let open = ["(", "(?:", "(?i:", "(?s-i:", "(?P<n>"][rng.usize(..5)];
            let inner = random_regex(rng, depth - 1);
            text.push_str(&format!("{open}{inner})"));
        } else {
            text.push_str(ATOMS[rng.usize(..ATOMS.len())]);
        }
        text.push_str(REPEATS[rng.usize(..REPEATS.len())]);
        if rng.u32(..8) == 0 {
            text.push('|');
        }
    }
    match rng.u32(..12) {
        0 => format!("^{text}$"),
        1 => format!(r"\A{text}\z"),
        2 => format!(r"{text}\b"),
        3 => format!("(?i){text}"),
        _ => text,
    }
}

/// A bootstrap with a route for each expression, with the limit on compiled programs of every bootstrap of ours.
fn bootstrap(regexes: &BTreeSet<String>) -> String {
    let routes: Vec<Value> = regexes
        .iter()
        .map(|regex| json!({ "match": { "safe_regex": { "regex": regex } }, "direct_response": { "status": 200 } }))
        .collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "regexes",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let listener = json!({
        "name": "regexes",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }],
    });
    let limit = json!({ "re2.max_program_size.error_level": program_size_limit() });
    json!({
        "layered_runtime": { "layers": [{ "name": "static", "static_layer": limit }] },
        "static_resources": { "listeners": [listener] },
    })
    .to_string()
}

/// As the bootstraps that people copy say it.
fn program_size_limit() -> u64 {
    let text = include_str!("../envoy-configs/edge.yaml");
    let line = text.lines().find_map(|line| line.split_once("re2.max_program_size.error_level"));
    let digits: String = line.expect("the bootstrap sets a limit").1.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn validate(regexes: &BTreeSet<String>) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bootstrap.json");
    fs::write(&path, bootstrap(regexes)).unwrap();
    Envoy::validate(&path, dir.path())
}

#[test]
fn envoy_accepts_every_regex_that_admission_accepts() {
    let mut rng = fastrand::Rng::with_seed(4);
    let mut regexes: BTreeSet<String> = CORPUS.lines().map(str::to_owned).collect();
    for known in &regexes {
        assert_eq!(regex::check(known), Ok(()), "{known}");
    }
    regexes.extend((0..4_000).map(|_| random_regex(&mut rng, 3)).filter(|text| regex::check(text).is_ok()));
    assert!(regexes.len() > 2_000, "most of them pass admission, else this shows little: {}", regexes.len());
    if let Err(refusal) = validate(&regexes) {
        panic!("{refusal}");
    }
}

#[test]
fn envoy_refuses_what_admission_refuses_for_its_sake() {
    // Each with the part that RE2 names.
    for (bad, part) in [(r"(a)\1", r"\1"), ("(?=a)", "(?="), ("a{1001}", "{1001}"), ("(", "missing )")] {
        assert!(regex::check(bad).is_err(), "{bad}");
        let refusal = validate(&BTreeSet::from([bad.to_owned()])).expect_err(bad);
        assert!(refusal.contains(part), "{bad}: {refusal}");
    }
}

#[test]
fn the_bootstraps_in_envoy_configs_pass_envoys_validation_as_they_are() {
    for (role, site) in [(Role::Edge, "edge-1"), (Role::Core, "core-1")] {
        let dir = tempfile::tempdir().unwrap();
        let sites = [(role, site.to_owned())];
        let folder = dev_certs(dir.path(), "tidegate.local", &sites, &[], &[]).unwrap().remove(0);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("envoy-configs/{}.yaml", role.as_str()));
        if let Err(refusal) = Envoy::validate(&path, &folder) {
            panic!("{}: {refusal}", path.display());
        }
    }
}
