//! What the command line says reaches the parts.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command, ProxyCommand};

fn bootstrap_of(more: &[&str]) -> String {
    let line = ["tidegate", "proxy", "bootstrap", "--site", "s", "--id", "s-a", "--server", "cp:18000"];
    match Cli::try_parse_from(line.iter().chain(more)).unwrap().command {
        Command::Proxy(ProxyCommand::Bootstrap(args)) => bootstrap_yaml(&args).unwrap(),
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
