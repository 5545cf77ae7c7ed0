//! Tests of the bootstrap, the stock Envoy's word included.

use std::{fs, path::Path, path::PathBuf, process::Command};

use clap::Parser;

use super::*;
use crate::{
    certs::dev_certs,
    cli::{Cli, Command as CliCommand, ProxyCommand},
    xds::{json::from_json, validate::validate},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The examples in `envoy-configs/`.
fn example(role: Role) -> Options {
    let site = if role == Role::Edge { "edge-1" } else { "core-1" };
    let servers = ["127.0.0.1:18000".parse().unwrap()].to_vec();
    let files = || TlsSource::Files { ca: "ca.crt".into(), cert: "tls.crt".into(), key: "tls.key".into() };
    let (source, what) = if role == Role::Grpc { (files(), "client") } else { (TlsSource::Identity, "envoy") };
    Options {
        region: "local".into(),
        zone: "a".into(),
        tls: Some(Tls { trust_domain: "tidegate.local".into(), source }),
        ..Options::new(&format!("{site}-{what}-1"), site, role, servers)
    }
}

/// The stock Envoy that `scripts/setup.sh` puts in `.tools/`, or another: `$TIDEGATE_ENVOY`.
fn envoy() -> PathBuf {
    let other = std::env::var_os("TIDEGATE_ENVOY").map(PathBuf::from);
    let envoy = other.unwrap_or_else(|| Path::new(ROOT).join(".tools/bin/envoy"));
    assert!(envoy.exists(), "{} is not there: run scripts/setup.sh", envoy.display());
    envoy
}

/// Panics unless Envoy accepts `yaml`, in a folder that holds the site's certificates.
fn accepted(envoy: &Path, role: Role, yaml: &str) {
    let dir = tempfile::tempdir().unwrap();
    let site = vec![(role, "site".to_owned())];
    let folder = dev_certs(dir.path(), "tidegate.local", &site, &[], &[]).unwrap().remove(0);
    fs::write(folder.join("bootstrap.yaml"), yaml).unwrap();
    let output = Command::new(envoy)
        .args(["--mode", "validate", "-l", "warning", "--disable-hot-restart", "-c", "bootstrap.yaml"])
        .current_dir(&folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{yaml}");
    assert!(!text.to_lowercase().contains("deprecated"), "{text}");
}

#[test]
fn the_files_in_envoy_configs_are_what_the_function_writes() {
    for (role, file) in [(Role::Edge, "edge.yaml"), (Role::Core, "core.yaml"), (Role::Grpc, "grpc-client.json")] {
        let path = Path::new(ROOT).join("envoy-configs").join(file);
        let yaml = bootstrap(&example(role)).unwrap();
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            fs::write(&path, &yaml).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(stored, yaml, "TIDEGATE_BLESS=1 writes {}", path.display());
    }
}

#[test]
fn stock_envoy_accepts_each_bootstrap() {
    let envoy = envoy();
    for role in [Role::Edge, Role::Core] {
        let example = example(role);
        accepted(&envoy, role, &bootstrap(&example).unwrap());
        let servers = vec!["xds.example:18000".parse().unwrap(), "[::1]:18000".parse().unwrap()];
        let source = TlsSource::Files { ca: "ca.crt".into(), cert: "tls.crt".into(), key: "tls.key".into() };
        let files = Options { tls: Some(Tls { trust_domain: "t".into(), source }), ..example.clone() };
        accepted(&envoy, role, &bootstrap(&files).unwrap());
        let other = Options { tls: None, servers, cohort: "canary: 1".into(), id: "#!\"'".into(), ..example };
        accepted(&envoy, role, &bootstrap(&other).unwrap());
    }
}

#[test]
fn a_grpc_client_is_told_where_it_is_and_spreads_over_the_replicas() {
    let servers: Vec<HostPort> = ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"].iter().map(|s| s.parse().unwrap()).collect();
    let written = |id: &str| -> Value {
        let options = Options { id: id.into(), servers: servers.clone(), ..example(Role::Grpc) };
        serde_json::from_str(&bootstrap(&options).unwrap()).unwrap()
    };
    let first = |id: &str| written(id)["xds_servers"][0]["server_uri"].as_str().unwrap().to_owned();
    assert_eq!(["a", "b", "c"].map(first).into_iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    let one = written("a");
    assert_eq!(one["node"]["locality"]["sub_zone"], "core-1");
    assert_eq!(one["xds_servers"][2]["channel_creds"][0]["config"]["certificate_file"], "tls.crt");
    assert!(one["certificate_providers"][grpc::SERVICE_AUTHORITIES]["config"]["ca_certificate_file"].is_string());
    let identity = Some(Tls { trust_domain: "t".into(), source: TlsSource::Identity });
    let refused = bootstrap(&Options { tls: identity, ..example(Role::Grpc) });
    assert!(matches!(refused, Err(BootstrapError::NoSds)), "{refused:?}");
}

#[test]
fn only_a_core_lifts_the_limit_of_early_resets() {
    let limit = |role| {
        document(&example(role))["layered_runtime"]["layers"][0]["static_layer"]
        ["overload.premature_reset_total_stream_count"].clone()
    };
    assert_eq!(limit(Role::Core), 4_294_967_295_u32);
    assert_eq!(limit(Role::Edge), Value::Null);
}

#[test]
fn names_are_resolved_and_addresses_are_not() {
    let kind = |servers: &[&str]| {
        let servers = servers.iter().map(|s| s.parse().unwrap()).collect();
        document(&Options { servers, ..example(Role::Edge) })["static_resources"]["clusters"][0]["type"].clone()
    };
    assert_eq!(kind(&["10.0.0.1:1", "[2001:db8::1]:2"]), "STATIC");
    assert_eq!(kind(&["10.0.0.1:1", "xds.example:2"]), "STRICT_DNS");
}

#[test]
fn what_cannot_work_is_refused() {
    let refused = |change: fn(&mut Options)| {
        let mut options = example(Role::Edge);
        change(&mut options);
        bootstrap(&options).unwrap_err().to_string()
    };
    assert!(refused(|o| o.servers.clear()).contains("at least one control plane"));
    assert!(refused(|o| o.admin = ([0, 0, 0, 0], 9901).into()).contains("loopback"));
    assert!(refused(|o| o.id.clear()).contains("node id"));
    assert!(refused(|o| o.drain_time = Duration::ZERO).contains("above zero"));
    for text in ["", "host", "host:", "host:0", ":1", "::1:1", "[::1]", "[host]:1", "a b:1", "h:70000"] {
        assert!(text.parse::<HostPort>().is_err(), "{text}");
    }
    for text in ["localhost:18000", "10.0.0.1:1", "[::1]:65535"] {
        assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
    }
}

#[test]
fn each_bootstrap_obeys_the_rules_of_envoys_own_descriptors() {
    const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
    for role in [Role::Edge, Role::Core] {
        let files = TlsSource::Files { ca: "a".into(), cert: "b".into(), key: "c".into() };
        for source in [TlsSource::Identity, files] {
            let tls = Some(Tls { trust_domain: "t".into(), source });
            let bytes = from_json(BOOTSTRAP, &document(&Options { tls, ..example(role) })).unwrap();
            assert_eq!(validate(BOOTSTRAP, &bytes), []);
        }
    }
}

/// What the command line prints for these flags.
fn bootstrap_of(more: &[&str]) -> String {
    let line = ["tidegate", "proxy", "bootstrap", "--site", "s", "--id", "s-a", "--server", "cp:18000"];
    match Cli::try_parse_from(line.iter().chain(more)).unwrap().command {
        CliCommand::Proxy(ProxyCommand::Bootstrap(args)) => crate::app::bootstrap_yaml(&args).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bootstrap_takes_its_limits_and_its_identity_from_the_command_line() {
    let plain = bootstrap_of(&[]);
    assert!(plain.contains("max_heap_size_bytes: 2147483648"), "{plain}");
    assert!(plain.contains("max_active_downstream_connections: 50000"), "{plain}");
    assert!(!plain.contains("tls_certificate"), "{plain}");
    let given = bootstrap_of(&["--max-heap", "384", "--max-connections", "7", "--identity"]);
    assert!(given.contains("max_heap_size_bytes: 402653184"), "{given}");
    assert!(given.contains("max_active_downstream_connections: 7"), "{given}");
    assert!(given.contains("path: identity/identity.yaml") && given.contains("path: identity/trust.yaml"), "{given}");
    let files = bootstrap_of(&["--ca", "ca.pem", "--cert", "a.pem", "--key", "a.key"]);
    assert!(files.contains("filename: a.pem") && !files.contains("path: identity"), "{files}");
}
