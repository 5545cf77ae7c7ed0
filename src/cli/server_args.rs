//! The settings of `tidegate serve`: flag, else environment variable `TIDEGATE_…`, else default.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::Args;

/// Where the desired state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// In this process, on disk, in one file.
    Embedded(PathBuf),
    /// In etcd, at these URLs.
    Etcd(Vec<String>),
    /// In this process, gone when it ends.
    Memory,
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some(("embedded", path)) if !path.is_empty() => Ok(Self::Embedded(PathBuf::from(path))),
            Some(("etcd", urls)) if !urls.is_empty() => {
                urls.split(',').map(etcd_url).collect::<Result<_, _>>().map(Self::Etcd)
            }
            _ => Err(format!("{text:?} is no store; write embedded:PATH, etcd:URL,URL… or memory")),
        }
    }
}

fn etcd_url(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(text.to_owned()),
        Some(_) => Err(format!("{text:?}: an etcd URL begins with http:// or https://")),
        None if text.is_empty() => Err("an etcd URL is empty".to_owned()),
        None => Ok(format!("http://{text}")),
    }
}

/// How to reach etcd beyond its URLs.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdArgs {
    /// Certificate of the authority that signed etcd's certificates (PEM)
    #[arg(long, env = "TIDEGATE_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd (PEM)
    #[arg(long, env = "TIDEGATE_ETCD_CERT", value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, env = "TIDEGATE_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// User name for etcd
    #[arg(long, env = "TIDEGATE_ETCD_USER", value_name = "NAME", requires = "etcd_password_file")]
    pub etcd_user: Option<String>,
    /// File with the user's password (a flag would show it in the process list)
    #[arg(long, env = "TIDEGATE_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
}

/// Everything that a replica is told at its start.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ServeArgs {
    /// Where the desired state is kept: embedded:PATH, etcd:URL,URL… or memory [default: embedded:DATA_DIR/store.redb]
    #[arg(long, env = "TIDEGATE_STORE", value_name = "STORE")]
    pub store: Option<StoreUrl>,
    /// Folder of what this replica keeps on disk
    #[arg(long, env = "TIDEGATE_DATA_DIR", value_name = "DIR", default_value = "./tidegate-data")]
    pub data_dir: PathBuf,
    /// Where Envoys connect (xDS)
    #[arg(long, env = "TIDEGATE_XDS_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:18000")]
    pub xds_listen: SocketAddr,
    /// Where operators connect (gRPC API)
    #[arg(long, env = "TIDEGATE_API_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:18001")]
    pub api_listen: SocketAddr,
    /// Plain HTTP: /livez, /readyz and /metrics
    #[arg(long, env = "TIDEGATE_HTTP_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:18002")]
    pub http_listen: SocketAddr,
    /// Certificate of the xDS port (PEM); with --xds-key and --xds-ca it speaks mutual TLS
    #[arg(long, env = "TIDEGATE_XDS_CERT", value_name = "FILE", requires = "xds_key", requires = "xds_ca")]
    pub xds_cert: Option<PathBuf>,
    /// Key of the xDS port (PEM)
    #[arg(long, env = "TIDEGATE_XDS_KEY", value_name = "FILE", requires = "xds_cert")]
    pub xds_key: Option<PathBuf>,
    /// Authority that signs the proxies' certificates (PEM)
    #[arg(long, env = "TIDEGATE_XDS_CA", value_name = "FILE", requires = "xds_cert")]
    pub xds_ca: Option<PathBuf>,
    /// Certificate of the API port (PEM); with --api-key and --api-ca it speaks mutual TLS
    #[arg(long, env = "TIDEGATE_API_CERT", value_name = "FILE", requires = "api_key", requires = "api_ca")]
    pub api_cert: Option<PathBuf>,
    /// Key of the API port (PEM)
    #[arg(long, env = "TIDEGATE_API_KEY", value_name = "FILE", requires = "api_cert")]
    pub api_key: Option<PathBuf>,
    /// Authority that signs the operators' certificates (PEM)
    #[arg(long, env = "TIDEGATE_API_CA", value_name = "FILE", requires = "api_cert")]
    pub api_ca: Option<PathBuf>,
    /// Believe what proxies without a certificate claim, on any address (they still get no secrets)
    #[arg(long, env = "TIDEGATE_ALLOW_UNPROVEN")]
    pub allow_unproven: bool,
    /// Connections of proxies at a time; more are closed at once
    #[arg(long, env = "TIDEGATE_MAX_CONNECTIONS", value_name = "N", default_value_t = 20_000)]
    pub max_connections: usize,
    /// Prefix of all keys in the store
    #[arg(long, env = "TIDEGATE_PREFIX", value_name = "KEY", default_value = "/tidegate")]
    pub prefix: String,
    /// Name of this replica [default: the host name]
    #[arg(long, env = "TIDEGATE_REPLICA", value_name = "NAME")]
    pub replica: Option<String>,
    /// How etcd is reached, where it is the store.
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

impl ServeArgs {
    /// The store to open: the one that was named, else a file in the data folder.
    pub fn store_url(&self) -> StoreUrl {
        self.store.clone().unwrap_or_else(|| StoreUrl::Embedded(self.data_dir.join("store.redb")))
    }
}
