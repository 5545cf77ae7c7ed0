//! Builds every part, starts it, and stops it in order.

mod metrics;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
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

use crate::{
    api::{self, HttpState, OperatorService},
    catalog::Catalog,
    bootstrap::{HostPort, Options, TlsFiles, bootstrap},
    cli::{BootstrapArgs, EtcdArgs, ServeArgs, StoreUrl},
    feedback::Feedback,
    manifest,
    model::{Keyspace, Object, ObjectRef, Sites},
    pipeline::{Pipeline, State},
    rpc::operator_server::OperatorServer,
    serve,
    snapshot::Views,
    store::{self, Embedded, Etcd, EtcdConfig, Store},
};

/// How many store events may wait for the pipeline.
const FEED: usize = 1_024;
/// How many opened audiences may wait for the pipeline.
const INTEREST: usize = 1_024;
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
    let router = api::router(HttpState { metrics: Arc::new({
        let context = context.clone();
        move || metrics::text(&context)
    }), context });
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
        (Some(ca), Some(cert), Some(key)) => {
            Some(TlsFiles { ca: path(ca), cert: path(cert), key: path(key), trust_domain: args.trust_domain.clone() })
        }
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
