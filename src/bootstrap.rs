//! An Envoy bootstrap: the one part of a proxy's configuration that xDS cannot change later. And that of a gRPC client,
//! which is much less.

mod grpc;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use serde_json::{Value, json};

use crate::model::Role;

/// The key of Tidegate's part of the node metadata, a struct of `cohort` (string, rollout cohort) and `drain_time_s`
/// (number, the `--drain-time-s` that the proxy runs with). Nothing else is read from the metadata.
pub const METADATA_KEY: &str = "tidegate.dev";

/// Name of the static cluster of the control planes. No compiled resource bears it.
pub use crate::model::XDS_CLUSTER;

/// An address of a control plane: a host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// DNS name, or IP address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The text is not `HOST:PORT`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT (an IPv6 address stands in brackets)")]
pub struct HostPortError(String);

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let error = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let is_v6 = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
        let name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
        if is_v6 != bracketed.is_some() || host.is_empty() || !(is_v6 || host.bytes().all(name)) {
            return Err(error());
        }
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self { host: host.to_owned(), port }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Mutual TLS towards the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// SPIFFE trust domain: only `spiffe://<it>/control-plane/…` is taken for a control plane, so that no proxy of
    /// the fleet can play one.
    pub trust_domain: String,
    /// Where the proxy's certificate comes from.
    pub source: TlsSource,
}

/// Where a proxy finds its certificate; relative paths start at Envoy's working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// By file SDS from `identity/identity.yaml` and `identity/trust.yaml`, as on the backbone: files that are
    /// replaced take effect at once.
    Identity,
    /// By files that Envoy reads once, when it starts.
    Files {
        /// Whom the proxy trusts.
        ca: String,
        /// The proxy's certificate.
        cert: String,
        /// Its key.
        key: String,
    },
}

/// What a bootstrap is made of. [`Options::new`] fills in the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Node id, unique in the fleet.
    pub id: String,
    /// Name of the `Site`; becomes `locality.sub_zone`.
    pub site: String,
    /// Role of that site, or `grpc` for a client at a core; becomes the node's cluster.
    pub role: Role,
    /// `locality.region`; may be empty.
    pub region: String,
    /// `locality.zone`; may be empty.
    pub zone: String,
    /// All control planes.
    pub servers: Vec<HostPort>,
    /// Without, the proxy proves nothing: it is believed on loopback only, and is served no Secret.
    pub tls: Option<Tls>,
    /// Where the admin interface listens: loopback, for it can stop the proxy. Default `127.0.0.1:9901`.
    pub admin: SocketAddr,
    /// Rollout cohort; default empty.
    pub cohort: String,
    /// What `--drain-time-s` says, at least 1 s; default 600 s. Envoy takes it from its command line alone: the
    /// control plane learns it here.
    pub drain_time: Duration,
    /// Heap in bytes at which the proxy refuses work; default 2 GiB.
    pub max_heap_bytes: u64,
    /// Most connections of clients; default 50,000.
    pub max_connections: u32,
    /// Authorities of services that speak TLS, for a gRPC client; default the system's.
    pub service_ca: String,
}

impl Options {
    /// Options for proxy `id` of `site`, with all defaults.
    pub fn new(id: &str, site: &str, role: Role, servers: Vec<HostPort>) -> Self {
        Self {
            id: id.to_owned(),
            site: site.to_owned(),
            role,
            region: String::new(),
            zone: String::new(),
            servers,
            tls: None,
            admin: (Ipv4Addr::LOCALHOST, 9901).into(),
            cohort: String::new(),
            drain_time: Duration::from_secs(600),
            max_heap_bytes: 2 << 30,
            max_connections: 50_000,
            service_ca: "/etc/ssl/certs/ca-certificates.crt".to_owned(),
        }
    }
}

/// Why there is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// No control plane was given.
    #[error("a bootstrap needs the address of at least one control plane")]
    NoServers,
    /// Node id or site is empty.
    #[error("a bootstrap needs a site and a node id")]
    Nameless,
    /// The admin interface would be open to others.
    #[error("the admin interface must listen on a loopback address, not on {0}")]
    AdminNotLoopback(SocketAddr),
    /// The limits allow nothing.
    #[error("heap limit, connection limit and drain time must be above zero")]
    ZeroLimit,
    /// A gRPC client with file SDS.
    #[error("a gRPC client reads no identity/ folder: give it --ca, --cert and --key")]
    NoSds,
    /// It could not be written as JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It could not be written as YAML.
    #[error("{0}")]
    Yaml(#[from] serde_saphyr::ser_error::Error),
}

/// The bootstrap as YAML, with a comment on how to run it; that of a gRPC client as JSON.
pub fn bootstrap(options: &Options) -> Result<String, BootstrapError> {
    if options.servers.is_empty() {
        return Err(BootstrapError::NoServers);
    }
    if options.id.is_empty() || options.site.is_empty() {
        return Err(BootstrapError::Nameless);
    }
    if options.role == Role::Grpc {
        return grpc::bootstrap(options);
    }
    if !options.admin.ip().is_loopback() {
        return Err(BootstrapError::AdminNotLoopback(options.admin));
    }
    let drain = options.drain_time.as_secs();
    if drain == 0 || options.max_heap_bytes == 0 || options.max_connections == 0 {
        return Err(BootstrapError::ZeroLimit);
    }
    // Long lines stay whole: a folded type URL is not found by a search.
    let style = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let yaml = serde_saphyr::to_string_with_options(&document(options), style)?;
    let head = "# An Envoy bootstrap by Tidegate: what xDS cannot change later. Run it in the folder that holds the\n\
                # site's certificates (`identity/`), with the drain time that it announces:\n";
    Ok(format!("{head}#   envoy -c bootstrap.yaml --drain-time-s {drain}\n{yaml}"))
}

fn document(options: &Options) -> Value {
    json!({
        "node": {
            "id": options.id,
            "cluster": options.role.as_str(),
            "locality": {"region": options.region, "zone": options.zone, "sub_zone": options.site},
            // Envoy lets a resource run out whose time to live is over, and does not say so by itself.
            "client_features": ["xds.config.supports-resource-ttl"],
            "metadata": {
                METADATA_KEY: {"cohort": options.cohort, "drain_time_s": options.drain_time.as_secs()},
            },
        },
        "admin": {
            "address": socket(&options.admin.ip().to_string(), options.admin.port()),
            // The way in must stay open when connections run out.
            "ignore_global_conn_limit": true,
        },
        "dynamic_resources": {
            // In here the word is DELTA_GRPC; the aggregated one makes Envoy exit.
            "ads_config": api("DELTA_GRPC"),
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        // Load reports exist in the state-of-the-world form only.
        "cluster_manager": {"load_stats_config": api("GRPC")},
        "static_resources": {"clusters": [xds_cluster(options)]},
        "bootstrap_extensions": [extension(
            "envoy.bootstrap.internal_listener",
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            json!({}),
        )],
        "layered_runtime": {"layers": [
            {"name": "tidegate", "static_layer": runtime(options.role)},
            // Last, so that an operator's hand on the admin interface wins.
            {"name": "admin", "admin_layer": {}},
        ]},
        "overload_manager": overload_manager(options),
    })
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn extension(name: &str, message: &str, mut config: Value) -> Value {
    if let Some(members) = config.as_object_mut() {
        members.insert("@type".into(), format!("type.googleapis.com/{message}").into());
    }
    json!({"name": name, "typed_config": config})
}

fn api(api_type: &str) -> Value {
    let mut source = json!({
        "api_type": api_type,
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {
            "cluster_name": XDS_CLUSTER,
            // A fleet that lost its control plane comes back in seconds; Envoy's own upper bound is 30 s. Jittered.
            "retry_policy": {"retry_back_off": {"base_interval": "0.25s", "max_interval": "5s"}},
        }}],
    });
    if api_type == "DELTA_GRPC" {
        // The node is 61 kB, and would else stand in every request.
        source["set_node_on_first_message_only"] = true.into();
    }
    source
}

fn xds_cluster(options: &Options) -> Value {
    let endpoints: Vec<_> = options
        .servers
        .iter()
        .map(|server| json!({"endpoint": {"address": socket(&server.host, server.port)}}))
        .collect();
    let by_address = options.servers.iter().all(|server| server.host.parse::<IpAddr>().is_ok());
    let mut cluster = json!({
        "name": XDS_CLUSTER,
        "type": if by_address { "STATIC" } else { "STRICT_DNS" },
        "connect_timeout": "1s",
        // Replicas are equal; chance spreads a fleet that starts at once.
        "lb_policy": "RANDOM",
        "load_assignment": {"cluster_name": XDS_CLUSTER, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {
                    // A dead control plane is noticed, and left, within 15 s.
                    "connection_keepalive": {"interval": "10s", "timeout": "5s"},
                }},
            },
        },
        "upstream_connection_options": {"tcp_keepalive": {}},
    });
    if !by_address {
        cluster["dns_lookup_family"] = "ALL".into();
    }
    if let Some(tls) = &options.tls {
        cluster["transport_socket"] = extension(
            "envoy.transport_sockets.tls",
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            upstream_tls(tls),
        );
    }
    cluster
}

fn upstream_tls(tls: &Tls) -> Value {
    let san = json!([{
        "san_type": "URI",
        "matcher": {"prefix": format!("spiffe://{}/control-plane/", tls.trust_domain)},
    }]);
    let mut context = json!({
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
    });
    match &tls.source {
        TlsSource::Identity => {
            let secret = |name: &str| {
                json!({"name": name, "sds_config": {
                    "path_config_source": {"path": format!("identity/{name}.yaml")},
                    "resource_api_version": "V3",
                }})
            };
            context["tls_certificate_sds_secret_configs"] = json!([secret("identity")]);
            context["combined_validation_context"] = json!({
                "default_validation_context": {"match_typed_subject_alt_names": san},
                "validation_context_sds_secret_config": secret("trust"),
            });
        }
        TlsSource::Files { ca, cert, key } => {
            context["tls_certificates"] =
                json!([{"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}]);
            context["validation_context"] =
                json!({"trusted_ca": {"filename": ca}, "match_typed_subject_alt_names": san});
        }
    }
    json!({"common_tls_context": context})
}

fn runtime(role: Role) -> Value {
    let mut layer = json!({
        // Regexes are limited where manifests are admitted; Envoy's own limit, 100, refuses plain ones. RE2 still has
        // its limit of memory, which is below this.
        "re2.max_program_size.error_level": 1_000_000,
        // Else a cluster without requests in an interval vanishes from load reports.
        "envoy.reloadable_features.report_load_for_non_zero_stats": true,
    });
    if role == Role::Core {
        // Services share connections from the edges: one's quick time-outs must not close them for all.
        layer["overload.premature_reset_total_stream_count"] = u32::MAX.into();
    }
    layer
}

fn overload_manager(options: &Options) -> Value {
    let heap = |trigger: Value| {
        let mut trigger = json!({ "trigger": trigger });
        trigger["trigger"]["name"] = "envoy.resource_monitors.fixed_heap".into();
        trigger["trigger"].take()
    };
    let at = |value: f64| heap(json!({"threshold": {"value": value}}));
    let action =
        |name: &str, trigger: Value| json!({"name": format!("envoy.overload_actions.{name}"), "triggers": [trigger]});
    json!({
        "refresh_interval": "0.25s",
        // Streams that hold 1 MiB and more are told apart by what they hold.
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "resource_monitors": [
            extension(
                "envoy.resource_monitors.fixed_heap",
                "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                json!({"max_heap_size_bytes": options.max_heap_bytes}),
            ),
            extension(
                "envoy.resource_monitors.global_downstream_max_connections",
                "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                json!({"max_active_downstream_connections": options.max_connections}),
            ),
        ],
        // The few who hold most go first, new work last.
        "actions": [
            action("reset_high_memory_stream", heap(json!({"scaled": {"scaling_threshold": 0.85, "saturation_threshold": 0.95}}))),
            action("shrink_heap", at(0.9)),
            action("disable_http_keepalive", at(0.95)),
            action("stop_accepting_requests", at(0.98)),
            action("stop_accepting_connections", at(0.99)),
        ],
    })
}

#[cfg(test)]
mod tests;
