//! Builds every part, starts it, and stops it in order.

mod metrics;
mod tls;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    api::{self, HttpState, OperatorService},
    bootstrap::{HostPort, Options, Tls, TlsSource, bootstrap},
    catalog::Catalog,
    cli::{BootstrapArgs, EtcdArgs, RegisterArgs, ServeArgs, StoreUrl},
    feedback::Feedback,
    manifest,
    model::{Keyspace, Object, ObjectRef, Sites, StoreKey},
    pipeline::{Pipeline, State},
    rpc::operator_server::OperatorServer,
    serve::{
        intake::{self, Limits},
        service::{AggregatedDiscovery, Shared},
    },
    snapshot::Views,
    store::{self, Embedded, Etcd, EtcdConfig, LeaseId, Op, Store, StoreError, Transaction},
};

/// How many store events may wait for the pipeline.
const FEED: usize = 1_024;
/// Bytes of one API request: many manifests at once.
const API_REQUEST_MAX: usize = 64 << 20;
/// How long streams and calls get to end at a stop.
const STOP: Duration = Duration::from_secs(5);

/// A running control plane.
pub struct App {
    /// Where Envoys connect.
    pub xds: SocketAddr,
    /// Where operators connect.
    pub api: SocketAddr,
    /// Plain HTTP.
    pub http: SocketAddr,
    cancel: CancellationToken,
    tasks: JoinSet<Result<()>>,
}

impl App {
    /// Opens the store, binds the ports, starts every task.
    ///
    /// # Errors
    /// In words: a port that is taken, a store file that cannot be opened, a certificate that cannot be read. A store
    /// that is merely away is no error: `/readyz` says so, and it is tried again.
    pub async fn start(args: &ServeArgs) -> Result<Self> {
        let keyspace = Keyspace::new(&args.prefix);
        let replica: Arc<str> = args.replica.clone().unwrap_or_else(host_name).into();
        let store = open(args).await?;
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let (feed_in, feed) = mpsc::channel(FEED);
        let follow = store::follow(Arc::clone(&store), keyspace.watched(), cancel.clone(), feed_in);
        tasks.spawn(async move {
            follow.await;
            Ok(())
        });

        let views = Arc::new(Views::default());
        let feedback = Arc::new(Feedback::default());
        let (state_in, state) = watch::channel(Arc::new(State::starting()));
        let (sites_in, sites) = watch::channel(Arc::new(Sites::default()));
        let catalog = Catalog::new(keyspace.clone(), parse_stored, manifest::parse_endpoint);
        let pipeline = Pipeline { catalog, views: Arc::clone(&views), feed, state: state_in, sites: sites_in };
        let stop = cancel.clone();
        tasks.spawn(async move { pipeline.run(stop).await.map_err(anyhow::Error::msg) });

        let context = api::Context { store, keyspace, state, views, feedback, replica };
        let xds = start_xds(args, &context, sites, &cancel, &mut tasks).await?;
        let api = start_api(args, context.clone(), &cancel, &mut tasks).await?;
        let http = start_http(args, context, &cancel, &mut tasks).await?;
        tracing::info!(%xds, %api, %http, "serving");
        Ok(Self { xds, api, http, cancel, tasks })
    }

    /// Runs until a task ends by itself, which is a fault, or `stop` is done; then stops in order.
    ///
    /// # Errors
    /// Why a task ended.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let ended = tokio::select! {
            () = stop => None,
            ended = self.tasks.join_next() => ended,
        };
        let fault = match ended {
            None => Ok(()),
            Some(Ok(Ok(()))) => Err(anyhow!("a part of the control plane ended by itself")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(error.into()),
        };
        self.stop().await.and(fault)
    }

    /// Stops every task: streams are told, calls may end, what is left after five seconds is cut off.
    ///
    /// # Errors
    /// The first fault of a task on its way down.
    pub async fn stop(mut self) -> Result<()> {
        self.cancel.cancel();
        let ended = tokio::time::timeout(STOP, async {
            let mut first = Ok(());
            while let Some(ended) = self.tasks.join_next().await {
                let told = ended.map_err(anyhow::Error::from).and_then(|told| told);
                first = first.and(told);
            }
            first
        });
        // Whoever has not ended in time is aborted when the set is dropped.
        ended.await.unwrap_or(Ok(()))
    }
}

fn parse_stored(reference: &ObjectRef, bytes: &[u8]) -> Result<(Object, Vec<String>), Vec<String>> {
    manifest::parse_stored(reference, bytes).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "tidegate".to_owned() } else { name.trim().to_owned() }
}

async fn open(args: &ServeArgs) -> Result<Arc<dyn Store>> {
    match args.store_url() {
        StoreUrl::Memory => Ok(Embedded::in_memory()?),
        StoreUrl::Embedded(path) => {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            }
            Ok(Embedded::open(&path).with_context(|| format!("cannot open the store {}", path.display()))?)
        }
        StoreUrl::Etcd(endpoints) => Ok(Etcd::connect(etcd_config(endpoints, &args.etcd)?).await?),
    }
}

fn etcd_config(endpoints: Vec<String>, args: &EtcdArgs) -> Result<EtcdConfig> {
    let read = |path: &Option<PathBuf>| {
        let bytes =
            path.as_ref().map(|path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display())));
        bytes.transpose()
    };
    let password = read(&args.etcd_password_file)?;
    let password = password.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
    Ok(EtcdConfig {
        endpoints,
        ca: read(&args.etcd_ca)?,
        cert: read(&args.etcd_cert)?,
        key: read(&args.etcd_key)?,
        user: args.etcd_user.clone(),
        password,
    })
}

/// Binds a port, in words when it is taken.
async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({what})"))
}

async fn start_http(
    args: &ServeArgs,
    context: api::Context,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
    let listener = bind(args.http_listen, "--http-listen").await?;
    let address = listener.local_addr()?;
    let router = api::router(HttpState {
        metrics: Arc::new({
            let context = context.clone();
            move || metrics::text(&context)
        }),
        context,
    });
    let stop = cancel.clone().cancelled_owned();
    tasks.spawn(async move { Ok(axum::serve(listener, router).with_graceful_shutdown(stop).await?) });
    Ok(address)
}

/// The Envoy bootstrap that `tidegate proxy bootstrap` prints.
///
/// # Errors
/// In words: what of the arguments makes no bootstrap.
pub fn bootstrap_yaml(args: &BootstrapArgs) -> Result<String> {
    let servers = args.servers.iter().map(|s| s.parse()).collect::<Result<Vec<HostPort>, _>>()?;
    let path = |path: &Path| path.display().to_string();
    let tls = match (&args.ca, &args.cert, &args.key) {
        (Some(ca), Some(cert), Some(key)) => Some(Tls {
            trust_domain: args.trust_domain.clone(),
            source: TlsSource::Files { ca: path(ca), cert: path(cert), key: path(key) },
        }),
        _ => None,
    };
    Ok(bootstrap(&Options {
        region: args.region.clone(),
        zone: args.zone.clone(),
        tls,
        admin: (Ipv4Addr::LOCALHOST, args.admin_port).into(),
        cohort: args.cohort.clone(),
        drain_time: args.drain_time,
        ..Options::new(&args.id, &args.site, args.role, servers)
    })?)
}

async fn start_xds(
    args: &ServeArgs,
    context: &api::Context,
    sites: watch::Receiver<Arc<Sites>>,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
    let shared = Shared {
        views: Arc::clone(&context.views),
        feedback: Arc::clone(&context.feedback),
        sites,
        identifier: Arc::clone(&context.replica),
        allow_unproven: args.allow_unproven,
        cancel: cancel.clone(),
    };
    let tls = tls::server(args.xds_cert.as_deref(), args.xds_key.as_deref(), args.xds_ca.as_deref())?;
    let routes = Routes::new(AggregatedDiscovery::new(shared));
    let limits = Limits { connections: args.max_connections, ..Limits::default() };
    listen((args.xds_listen, "--xds-listen"), limits, tls, routes, cancel, tasks).await
}

async fn start_api(
    args: &ServeArgs,
    context: api::Context,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
    let tls = tls::server(args.api_cert.as_deref(), args.api_key.as_deref(), args.api_ca.as_deref())?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<OperatorServer<OperatorService>>().await;
    let operator = OperatorServer::new(OperatorService::new(context)).max_decoding_message_size(API_REQUEST_MAX);
    let routes = Routes::new(operator).add_service(health_service);
    listen((args.api_listen, "--api-listen"), Limits::default(), tls, routes, cancel, tasks).await
}

/// Binds a port and serves gRPC on it.
async fn listen(
    (address, flag): (SocketAddr, &str),
    limits: Limits,
    tls: Option<Arc<rustls::ServerConfig>>,
    routes: Routes,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
    let listener = bind(address, flag).await?;
    let address = listener.local_addr()?;
    let serving = intake::serve(listener, tls, routes, limits, cancel.clone());
    tasks.spawn(async move { Ok(serving.await?) });
    Ok(address)
}

/// Keeps an endpoint's lease in etcd, without a control plane, until Ctrl-C.
///
/// # Errors
/// In words: an etcd that cannot be reached at the start. Later outages are waited out.
pub async fn register_etcd(args: &RegisterArgs) -> Result<()> {
    let store = Etcd::connect(etcd_config(args.etcd.clone(), &args.etcd_args)?).await?;
    let keyspace = Keyspace::new(&args.prefix);
    let (namespace, service) = args.service_ref();
    let key = keyspace.format(&StoreKey::Endpoint {
        site: args.site.clone(),
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        id: args.id.clone(),
    });
    let value = serde_json::json!({ "address": args.address.to_string(), "weight": args.weight }).to_string();
    let mut lease = announce(&*store, &key, &value, args.ttl).await?;
    let mut beat = tokio::time::interval(args.ttl / 3);
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {
                // Best effort: if it fails, the lease runs out.
                drop(store.revoke(lease).await);
                return Ok(());
            }
            _ = beat.tick() => match store.keep_alive(lease).await {
                Ok(()) => {}
                Err(StoreError::LeaseNotFound) => match announce(&*store, &key, &value, args.ttl).await {
                    Ok(new) => lease = new,
                    Err(error) => tracing::warn!(%error, "the endpoint is not announced; trying again"),
                },
                Err(error) => tracing::warn!(%error, "the lease was not renewed; trying again"),
            },
        }
    }
}

async fn announce(store: &dyn Store, key: &str, value: &str, ttl: Duration) -> Result<LeaseId, StoreError> {
    let lease = store.grant(ttl).await?;
    let op = Op::Put { key: key.to_owned(), value: value.to_owned().into(), lease: Some(lease) };
    store.txn(Transaction { compares: vec![], ops: vec![op] }).await?;
    Ok(lease)
}
