//! What can be written on the command line, with its help.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    server_args::{EtcdArgs, ServeArgs},
    values::{LogFormat, LogOptions, NamedSite, parse_duration, parse_role},
};
use crate::model::Role;

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 differs or not ready, 4 conflict, 5 out of time.";

/// What a command does, then how it is used in practice, then all the rest.
const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// The control plane of a global edge
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Control plane to ask
    #[arg(long, global = true, env = "TIDEGATE_SERVER", default_value = "http://127.0.0.1:18001", value_name = "URL")]
    pub server: String,
    /// Authority that signed the control plane's certificate (PEM)
    #[arg(long = "ca", global = true, env = "TIDEGATE_CA", value_name = "FILE", id = "client_ca")]
    pub ca: Option<PathBuf>,
    /// Your operator certificate (PEM)
    #[arg(long = "cert", global = true, env = "TIDEGATE_CERT", value_name = "FILE", id = "client_cert")]
    pub cert: Option<PathBuf>,
    /// Key of your certificate (PEM)
    #[arg(long = "key", global = true, env = "TIDEGATE_KEY", value_name = "FILE", id = "client_key")]
    pub key: Option<PathBuf>,
    /// Name that the control plane's certificate must bear [default: the host of --server]
    #[arg(long, global = true, env = "TIDEGATE_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,
    /// How long a control plane may take to answer
    #[arg(long, global = true, env = "TIDEGATE_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub request_timeout: Duration,
    /// Format of what is printed
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Format of the log [default: text on a terminal, else json]
    #[arg(long, global = true, env = "TIDEGATE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, e.g. info or tidegate=debug; RUST_LOG is read where this is missing
    #[arg(long, global = true, env = "TIDEGATE_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
}

impl Global {
    /// How the log is to be written.
    pub fn log_options(&self) -> LogOptions {
        LogOptions { format: self.log_format, filter: self.log_level.clone() }
    }
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// One `kind/namespace/name` per line.
    Name,
    /// A table with more columns.
    Wide,
}

/// Every command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a control plane
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate serve\n  tidegate serve --store etcd:http://10.0.0.5:2379 --xds-listen 0.0.0.0:18000 \\\n      --xds-cert cp.pem --xds-key cp.key --xds-ca ca.pem"
    )]
    Serve(Box<ServeArgs>),
    /// Check manifests and store them
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate apply -f shop.yaml --wait\n  tidegate apply -f manifests/ --dry-run\n  cat shop.yaml | tidegate apply -f -"
    )]
    Apply(ApplyArgs),
    /// Show objects
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate get httproutes -A\n  tidegate get service/web -n shop -o yaml\n  tidegate get all -o wide"
    )]
    Get(GetArgs),
    /// Show one object with its conditions, its proxies and its problems
    #[command(help_template = TEMPLATE, before_help = "Examples:\n  tidegate describe httproute web -n shop\n  tidegate describe site/fra1")]
    Describe(DescribeArgs),
    /// Delete objects
    #[command(help_template = TEMPLATE, before_help = "Examples:\n  tidegate delete httproute web -n shop\n  tidegate delete -f shop.yaml")]
    Delete(DeleteArgs),
    /// Show what applying manifests would change; exits 3 when something would
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate diff -f shop.yaml\n  tidegate diff -f manifests/ && echo nothing to do"
    )]
    Diff(DiffArgs),
    /// Compile manifests to Envoy resources, without a control plane
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate translate -f manifests/ --site fra1\n  tidegate translate -f shop.yaml -f sites.yaml --site fra1 -o json"
    )]
    Translate(TranslateArgs),
    /// Wait until every connected proxy that sees an object has acknowledged it
    #[command(help_template = TEMPLATE, before_help = "Examples:\n  tidegate wait httproute/web -n shop --for programmed --timeout 1m")]
    Wait(WaitArgs),
    /// Look at the proxies
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// Show the load that the proxies report, the busiest first
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate top\n  tidegate top edge1 -o wide\n  tidegate top --watch"
    )]
    Top(TopArgs),
    /// Speak about the store itself
    #[command(subcommand)]
    Store(StoreCommand),
    /// Ask the replica on this host whether it is ready; exits 3 when it is not
    #[command(help_template = TEMPLATE, before_help = "Examples:\n  tidegate ready\n  tidegate ready --address 127.0.0.1:18002")]
    Ready(ReadyArgs),
    /// Announce an endpoint and keep it alive until stopped
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate register --service shop/web --site core1 --id web-1 --address 10.0.0.7:8080\n  tidegate register --service shop/web --site core1 --id web-1 --address 10.0.0.7:8080 --etcd http://10.0.0.5:2379"
    )]
    Register(RegisterArgs),
    /// Make a certificate authority and certificates for trials and tests
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate dev-certs certs/ --site edge1:edge --site core1:core --operator ann --control-plane cp1"
    )]
    DevCerts(DevCertsArgs),
    /// Run a small edge on this machine and show a change going live
    #[command(help_template = TEMPLATE, before_help = "Examples:\n  tidegate demo\n  tidegate demo --once")]
    Demo(DemoArgs),
    /// Show the versions of this program and of the control plane
    Version,
    /// Print a completion script for a shell
    #[command(help_template = TEMPLATE, before_help = "Examples:\n  source <(tidegate completion bash)")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `tidegate apply`.
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// File, folder (its *.yaml, *.yml and *.json, recursively) or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// Check everything on the control plane, store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Return when every connected proxy has acknowledged the change
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// How long --wait waits
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: Duration,
}

/// Which namespaces a command looks at.
#[derive(Args, Clone, Debug, Default)]
pub struct NamespaceArgs {
    /// Namespace of the objects
    #[arg(short, long, env = "TIDEGATE_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub namespace: String,
}

/// `tidegate get`.
#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// KIND, KIND NAME…, KIND/NAME… or all
    #[arg(required = true, value_name = "KIND[/NAME]")]
    pub targets: Vec<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// `tidegate describe`.
#[derive(Args, Clone, Debug)]
pub struct DescribeArgs {
    /// KIND NAME or KIND/NAME
    #[arg(required = true, value_name = "KIND/NAME")]
    pub targets: Vec<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

/// `tidegate delete`.
#[derive(Args, Clone, Debug)]
pub struct DeleteArgs {
    /// KIND NAME… or KIND/NAME…
    #[arg(required_unless_present = "files", conflicts_with = "files", value_name = "KIND/NAME")]
    pub targets: Vec<String>,
    /// Delete the objects that these manifests name
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Succeed when an object does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// `tidegate diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// File, folder or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
}

/// `tidegate translate`.
#[derive(Args, Clone, Debug)]
pub struct TranslateArgs {
    /// File, folder or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// The site whose proxies are asked about
    #[arg(long, value_name = "NAME")]
    pub site: String,
}

/// What `tidegate wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Acknowledged by every connected proxy that sees it.
    Programmed,
}

/// `tidegate wait`.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND/NAME")]
    pub targets: Vec<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// What to wait for
    #[arg(long = "for", default_value = "programmed")]
    pub condition: WaitFor,
    /// How long to wait
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub timeout: Duration,
}

/// `tidegate top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Only this site
    #[arg(value_name = "SITE")]
    pub site: Option<String>,
    /// Show it again with each interval of reports, until stopped
    #[arg(short, long)]
    pub watch: bool,
}

/// `tidegate proxy …`.
#[derive(Subcommand, Debug)]
pub enum ProxyCommand {
    /// Show which proxies are connected and what they have acknowledged
    #[command(
        visible_alias = "ps",
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate proxy status\n  tidegate proxy status fra1-envoy-1 -o yaml"
    )]
    Status(ProxyStatusArgs),
    /// Show what a proxy is served, secrets redacted
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate proxy config fra1-envoy-1\n  tidegate proxy config fra1-envoy-1 rds -o yaml"
    )]
    Config(ProxyConfigArgs),
    /// Print an Envoy bootstrap
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate proxy bootstrap --site fra1 --id fra1-envoy-1 --server 10.0.0.1:18000,10.0.0.2:18000 > envoy.yaml"
    )]
    Bootstrap(Box<BootstrapArgs>),
}

/// `tidegate proxy status`.
#[derive(Args, Clone, Debug)]
pub struct ProxyStatusArgs {
    /// Only these proxies
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `tidegate proxy config`.
#[derive(Args, Clone, Debug)]
pub struct ProxyConfigArgs {
    /// The proxy's node id
    #[arg(value_name = "NAME")]
    pub name: String,
    /// cds, eds, sds, lds, ecds, srds, rds, vhds or rtds (or cluster, endpoint, secret, listener, extension,
    /// scoped_route, route, virtual_host, runtime)
    #[arg(value_name = "TYPE")]
    pub kind: Option<String>,
}

/// `tidegate proxy bootstrap`. `--server`, `--ca`, `--cert` and `--key` shadow the global flags of the same names (by
/// equal ids): here they are the proxy's, written into the bootstrap and not used.
#[derive(Args, Clone, Debug)]
pub struct BootstrapArgs {
    /// The proxy's site
    #[arg(long, value_name = "NAME")]
    pub site: String,
    /// The proxy's node id, unique in the fleet
    #[arg(long, value_name = "ID")]
    pub id: String,
    /// Control planes that the proxy connects to
    #[arg(id = "server", long = "server", required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub servers: Vec<String>,
    /// Authority of the control planes and of the backbone, as a path on the proxy's host
    #[arg(id = "client_ca", long = "ca", value_name = "FILE", requires = "client_cert")]
    pub ca: Option<PathBuf>,
    /// The proxy's certificate, as a path on its host
    #[arg(id = "client_cert", long = "cert", value_name = "FILE", requires = "client_key")]
    pub cert: Option<PathBuf>,
    /// Key of the proxy's certificate, as a path on its host
    #[arg(id = "client_key", long = "key", value_name = "FILE", requires = "client_ca")]
    pub key: Option<PathBuf>,
    /// Take both by file SDS from identity/ in Envoy's working directory, as the backbone does: files that are replaced take effect at once
    #[arg(long, conflicts_with_all = ["client_ca", "client_cert", "client_key"])]
    pub identity: bool,
    /// What it is there: a proxy of the site (edge or core), or a gRPC client at a core site (grpc), whose bootstrap is JSON and takes no setting of Envoy's
    #[arg(long, default_value = "edge", value_parser = parse_role, value_name = "ROLE")]
    pub role: Role,
    /// Region written into the node's locality
    #[arg(long, default_value = "", value_name = "NAME")]
    pub region: String,
    /// Zone written into the node's locality
    #[arg(long, default_value = "", value_name = "NAME")]
    pub zone: String,
    /// Port of Envoy's admin interface on loopback
    #[arg(long, default_value_t = 9901, value_name = "PORT")]
    pub admin_port: u16,
    /// Rollout cohort of the proxy
    #[arg(long, default_value = "", value_name = "NAME")]
    pub cohort: String,
    /// What Envoy's --drain-time-s says: the control plane can learn it only here
    #[arg(long, default_value = "600s", value_parser = parse_duration, value_name = "DURATION")]
    pub drain_time: Duration,
    /// Heap, in MiB, at which the proxy refuses work: below what its host or container allows it
    #[arg(long = "max-heap", default_value_t = 2048, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..1 << 30))]
    pub max_heap_mib: u64,
    /// Most connections of clients
    #[arg(long, default_value_t = 50_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Trust domain of the fleet's identities
    #[arg(long, default_value = "tidegate.local", value_name = "DOMAIN")]
    pub trust_domain: String,
    /// Authorities of the services that speak TLS, for a gRPC client, as a path on its host
    #[arg(long, default_value = SERVICE_CA, value_name = "FILE")]
    pub service_ca: String,
}

/// Where Debian keeps the public authorities.
const SERVICE_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// `tidegate store …`.
#[derive(Subcommand, Debug)]
pub enum StoreCommand {
    /// Tell a replica that froze to go on with the store that answers now; ask each replica in turn
    #[command(
        help_template = TEMPLATE, before_help = "Examples:\n  tidegate store accept\n  tidegate store accept --server http://10.0.0.1:18001"
    )]
    Accept,
}

/// `tidegate ready`.
#[derive(Args, Clone, Debug)]
pub struct ReadyArgs {
    /// Where it serves /readyz
    #[arg(long, env = "TIDEGATE_HTTP_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:18002")]
    pub address: SocketAddr,
}

/// `tidegate register`.
#[derive(Args, Clone, Debug)]
pub struct RegisterArgs {
    /// The service, as NAMESPACE/NAME (or NAME, in the namespace default)
    #[arg(long, value_name = "NS/NAME")]
    pub service: String,
    /// The site where the endpoint runs
    #[arg(long, value_name = "NAME")]
    pub site: String,
    /// Unique among the service's endpoints at the site
    #[arg(long, value_name = "ID")]
    pub id: String,
    /// Where the endpoint listens
    #[arg(long, value_name = "IP:PORT")]
    pub address: SocketAddr,
    /// Its share of the traffic, relative to the others
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub weight: u32,
    /// How long it lives on when it is no longer heard of
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub ttl: Duration,
    /// Write to etcd itself, at these URLs, and ask no control plane
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub etcd: Vec<String>,
    /// Prefix of all keys in etcd
    #[arg(long, env = "TIDEGATE_PREFIX", value_name = "KEY", default_value = "/tidegate")]
    pub prefix: String,
    /// How etcd is reached.
    #[command(flatten)]
    pub etcd_args: EtcdArgs,
}

impl RegisterArgs {
    /// The service's namespace and name.
    pub fn service_ref(&self) -> (&str, &str) {
        self.service.split_once('/').unwrap_or(("default", &self.service))
    }
}

/// `tidegate dev-certs`.
#[derive(Args, Clone, Debug)]
pub struct DevCertsArgs {
    /// Where the files go; an authority that is there already is used again
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// A site and its role; may be repeated
    #[arg(long = "site", value_name = "NAME:edge|core|grpc")]
    pub sites: Vec<NamedSite>,
    /// An operator; may be repeated
    #[arg(long = "operator", value_name = "NAME")]
    pub operators: Vec<String>,
    /// A control plane; may be repeated
    #[arg(long = "control-plane", value_name = "NAME")]
    pub control_planes: Vec<String>,
    /// A member of etcd; may be repeated
    #[arg(long = "etcd", value_name = "NAME")]
    pub etcds: Vec<String>,
    /// Trust domain of the identities
    #[arg(long, default_value = "tidegate.local", value_name = "DOMAIN")]
    pub trust_domain: String,
}

/// `tidegate demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Make the tour and exit
    #[arg(long)]
    pub once: bool,
    /// The Envoy program [default: the one in the project folder, else on the PATH]
    #[arg(long, env = "TIDEGATE_ENVOY", value_name = "FILE")]
    pub envoy: Option<PathBuf>,
    /// Where the demo keeps its files [default: a new temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
