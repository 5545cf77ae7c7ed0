//! The bootstrap of a gRPC client (gRFC A27, with the certificates of A29 and A65), in the words that C-core, Go, Java and
//! Node share.

use serde_json::{Value, json};

use super::{BootstrapError, METADATA_KEY, Options, TlsSource};

/// The certificate provider with the authorities of services; compiled clusters name it.
pub(super) const SERVICE_AUTHORITIES: &str = "services";

/// How often files are looked at.
const REFRESH: &str = "60s";

pub(super) fn bootstrap(options: &Options) -> Result<String, BootstrapError> {
    let credentials = match options.tls.as_ref().map(|tls| &tls.source) {
        None => json!({"type": "insecure"}),
        Some(TlsSource::Identity) => return Err(BootstrapError::NoSds),
        Some(TlsSource::Files { ca, cert, key }) => json!({"type": "tls", "config": {
            "ca_certificate_file": ca,
            "certificate_file": cert,
            "private_key_file": key,
            "refresh_interval": REFRESH,
        }}),
    };
    let document = json!({
        "xds_servers": servers(options, &credentials),
        "node": {
            "id": options.id,
            "cluster": options.role.as_str(),
            "locality": {"region": options.region, "zone": options.zone, "sub_zone": options.site},
            "metadata": {METADATA_KEY: {"cohort": options.cohort}},
        },
        "certificate_providers": {
            SERVICE_AUTHORITIES: {
                "plugin_name": "file_watcher",
                "config": {"ca_certificate_file": options.service_ca, "refresh_interval": REFRESH},
            },
        },
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// gRPC asks the first server that answers, so the id decides where the list begins: a fleet spreads over the replicas.
fn servers(options: &Options, credentials: &Value) -> Vec<Value> {
    let mut servers: Vec<Value> = options
        .servers
        .iter()
        .map(|server| {
            json!({
                "server_uri": server.to_string(),
                "channel_creds": [credentials],
                "server_features": ["xds_v3"],
            })
        })
        .collect();
    let first = options.id.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let first = first.checked_rem(servers.len()).unwrap_or(0);
    servers.rotate_left(first);
    servers
}
