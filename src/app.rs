//! Builds every part, starts it, and stops it in order.

mod metrics;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    api::{self, HttpState, LastJudged, OperatorService, PeerService},
    bootstrap::{HostPort, Options, Tls, TlsSource, bootstrap},
    catalog::Catalog,
    cli::{BootstrapArgs, EtcdArgs, RegisterArgs, ServeArgs, StoreUrl},
    feedback::Feedback,
    leader::Leader,
    manifest::{self, Mode},
    model::{Keyspace, Object, ObjectRef, Sites, StoreKey},
    pipeline::{self, Pipeline, State},
    replicas::{self, Replicas},
    rpc::{operator_server::OperatorServer, peer_server::PeerServer},
    serve::{
        csds::{self, ClientStatus},
        intake::{self, Limits},
        lrs::{self, LoadReporting},
        service::{self, Fleet, Shared},
    },
    snapshot::Views,
    store::{
        self, Embedded, Etcd, EtcdConfig, Feed, LeaseId, Op, Sheltered, Store, StoreControl, StoreError, Transaction,
    },
};

/// How many store events may wait for the pipeline.
const FEED: usize = 1_024;
/// Bytes of one API request: many manifests at once.
const API_REQUEST_MAX: usize = 64 << 20;
/// How long streams and calls get to end at a stop.
const STOP: Duration = Duration::from_secs(5);

/// A store, what an operator may tell its feed, and the feed.
type Opened = (Arc<dyn Store>, StoreControl, mpsc::Receiver<Feed>);

/// A running control plane.
pub struct App {
    /// Where Envoys connect.
    pub xds: SocketAddr,
    /// Where operators connect.
    pub api: SocketAddr,
    /// Plain HTTP.
    pub http: SocketAddr,
    #[cfg(test)]
    context: api::Context,
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
        raise_file_limit(args.max_connections);
        let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let store = start_store(args, &cancel, &mut tasks).await?;
        Self::start_on(args, store, cancel, tasks).await
    }

    /// As [`App::start`], on a store that is open already.
    async fn start_on(
        args: &ServeArgs,
        (store, control, feed): Opened,
        cancel: CancellationToken,
        mut tasks: JoinSet<Result<()>>,
    ) -> Result<Self> {
        let keyspace = Keyspace::new(&args.prefix);
        let replica: Arc<str> = args.replica.clone().unwrap_or_else(host_name).into();

        let views = Arc::new(Views::default());
        let feedback = Arc::new(Feedback::new(args.load_report_interval));
        let (state_in, state) = watch::channel(Arc::new(State::starting()));
        let (sites_in, sites) = watch::channel(Arc::new(Sites::default()));
        let catalog = Catalog::new(keyspace.clone(), parse_stored, manifest::parse_endpoint);
        let (watermarks_in, watermarks) = watch::channel(Arc::default());
        let (fresh_in, fresh) = watch::channel(false);
        let pipeline = Pipeline {
            catalog,
            views: Arc::clone(&views),
            feed,
            state: state_in,
            sites: sites_in,
            watermarks: watermarks_in,
            fresh: fresh_in,
        };
        let stop = cancel.clone();
        tasks.spawn(async move { pipeline.run(stop).await.map_err(anyhow::Error::msg) });
        let (asked, name) = (Arc::clone(&views), Arc::clone(&replica));
        let confirm =
            pipeline::confirm(asked, Arc::clone(&store), keyspace.clone(), name, state.clone(), cancel.clone());
        spawn(&mut tasks, confirm);

        let api = bind(args.api_listen, "--api-listen")?;
        let settings = replica_settings(args, &replica, api.local_addr()?, state.clone())?;
        let (replicas, registrar) = Replicas::join(settings, Arc::clone(&store), &keyspace, cancel.clone());
        spawn(&mut tasks, registrar);
        let judged = LastJudged::default();
        let context = api::Context {
            store,
            keyspace,
            state,
            views,
            feedback,
            watermarks: watermarks.clone(),
            replica,
            replicas,
            judged,
            control,
        };
        start_leader(&context, &cancel, &mut tasks);
        let known = sites.clone();
        let xds = start_xds(args, &context, Fleet { sites, watermarks, fresh }, &cancel, &mut tasks).await?;
        let api = start_api(args, (api, known), context.clone(), &cancel, &mut tasks).await?;
        #[cfg(test)]
        let kept = context.clone();
        let http = start_http(args, context, &cancel, &mut tasks).await?;
        tracing::info!(%xds, %api, %http, "serving");
        Ok(Self {
            xds,
            api,
            http,
            #[cfg(test)]
            context: kept,
            cancel,
            tasks,
        })
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

fn parse_stored(reference: &ObjectRef, bytes: &[u8], mode: Mode) -> Result<(Object, Vec<String>), Vec<String>> {
    manifest::read_stored(reference, bytes, mode).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// As many open files as connections may need, as far as the system allows.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(1_000);
    let raised = limit.maximum.map_or(wanted, |most| most.min(wanted));
    if limit.current.is_some_and(|current| current < raised) {
        limit.current = Some(raised);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, wanted, "the limit of open files stays as it is, and may end before connections do");
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "tidegate".to_owned() } else { name.trim().to_owned() }
}

/// Opens the store and follows it. One that others keep is sheltered; an embedded one is its own disk.
async fn start_store(args: &ServeArgs, cancel: &CancellationToken, tasks: &mut JoinSet<Result<()>>) -> Result<Opened> {
    let watched = Keyspace::new(&args.prefix).watched();
    let store: Arc<dyn Store> = match args.store_url() {
        StoreUrl::Memory => Embedded::in_memory()?,
        StoreUrl::Embedded(path) => open_file(&path)?,
        StoreUrl::Etcd(endpoints) => {
            let (feed_in, feed) = mpsc::channel(FEED);
            let etcd = Etcd::connect(etcd_config(endpoints, &args.etcd)?).await?;
            let sheltered = Sheltered::open(etcd, watched, args.data_dir.join("last-known-good")).await;
            let (store, control) = (sheltered.store(), sheltered.control());
            spawn(tasks, sheltered.run(cancel.clone(), feed_in));
            return Ok((store, control, feed));
        }
    };
    Ok(follow(store, watched, cancel, tasks))
}

/// Follows a store that needs no shelter.
fn follow(
    store: Arc<dyn Store>,
    watched: String,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Opened {
    let (feed_in, feed) = mpsc::channel(FEED);
    spawn(tasks, store::follow(Arc::clone(&store), watched, cancel.clone(), feed_in));
    (store, StoreControl::default(), feed)
}

/// A store in a file of this process's own.
fn open_file(path: &Path) -> Result<Arc<Embedded>> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Embedded::open(path).with_context(|| format!("cannot open the store {}", path.display()))
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
fn bind(address: SocketAddr, what: &str) -> Result<TcpListener> {
    intake::bind(address).with_context(|| format!("cannot listen on {address} ({what})"))
}

async fn start_http(
    args: &ServeArgs,
    context: api::Context,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
    let listener = bind(args.http_listen, "--http-listen")?;
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

/// The bootstrap that `tidegate proxy bootstrap` prints, of an Envoy or of a gRPC client.
///
/// # Errors
/// In words: what of the arguments makes no bootstrap.
pub fn bootstrap_yaml(args: &BootstrapArgs) -> Result<String> {
    let servers = args.servers.iter().map(|s| s.parse()).collect::<Result<Vec<HostPort>, _>>()?;
    let path = |path: &Path| path.display().to_string();
    let source = match (&args.ca, &args.cert, &args.key) {
        _ if args.identity => Some(TlsSource::Identity),
        (Some(ca), Some(cert), Some(key)) => Some(TlsSource::Files { ca: path(ca), cert: path(cert), key: path(key) }),
        _ => None,
    };
    let tls = source.map(|source| Tls { trust_domain: args.trust_domain.clone(), source });
    Ok(bootstrap(&Options {
        region: args.region.clone(),
        zone: args.zone.clone(),
        tls,
        admin: (Ipv4Addr::LOCALHOST, args.admin_port).into(),
        cohort: args.cohort.clone(),
        drain_time: args.drain_time,
        max_heap_bytes: args.max_heap_mib << 20,
        max_connections: args.max_connections,
        service_ca: args.service_ca.clone(),
        ..Options::new(&args.id, &args.site, args.role, servers)
    })?)
}

async fn start_xds(
    args: &ServeArgs,
    context: &api::Context,
    fleet: Fleet,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
    let reporting = LoadReporting::new(lrs::Shared {
        views: Arc::clone(&context.views),
        feedback: Arc::clone(&context.feedback),
        sites: fleet.sites.clone(),
        allow_unproven: args.allow_unproven,
        cancel: cancel.clone(),
    });
    let shared = Shared {
        views: Arc::clone(&context.views),
        feedback: Arc::clone(&context.feedback),
        fleet,
        identifier: Arc::clone(&context.replica),
        allow_unproven: args.allow_unproven,
        cancel: cancel.clone(),
    };
    let files = [&args.xds_cert, &args.xds_key, &args.xds_ca].map(Option::as_deref);
    let tls = tls::server(files, tasks, cancel)?;
    let routes = service::routes(shared).add_service(reporting);
    let limits = Limits { age: args.max_connection_age, ..limits(args) };
    listen(bind(args.xds_listen, "--xds-listen")?, (tls, limits), routes, cancel, tasks)
}

async fn start_api(
    args: &ServeArgs,
    (listener, sites): (TcpListener, watch::Receiver<Arc<Sites>>),
    context: api::Context,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
    let files = [&args.api_cert, &args.api_key, &args.api_ca].map(Option::as_deref);
    let tls = tls::server(files, tasks, cancel)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<OperatorServer<OperatorService>>().await;
    let (views, feedback) = (Arc::clone(&context.views), Arc::clone(&context.feedback));
    let status = csds::service(ClientStatus { views, feedback, sites });
    let peer = PeerServer::new(PeerService::new(context.clone())).max_decoding_message_size(API_REQUEST_MAX);
    let operator = OperatorServer::new(OperatorService::new(context)).max_decoding_message_size(API_REQUEST_MAX);
    let routes = Routes::new(operator).add_service(status).add_service(peer).add_service(health_service);
    listen(listener, (tls, limits(args)), api::with_reflection(routes)?, cancel, tasks)
}

/// The leader's task: it sleeps while this replica does not lead.
fn start_leader(context: &api::Context, cancel: &CancellationToken, tasks: &mut JoinSet<Result<()>>) {
    let leader = Leader {
        store: Arc::clone(&context.store),
        keyspace: context.keyspace.clone(),
        state: context.state.clone(),
        views: Arc::clone(&context.views),
        feedback: Arc::clone(&context.feedback),
        replicas: context.replicas.clone(),
    };
    spawn(tasks, leader.run(cancel.clone()));
}

/// A task that fails at nothing.
fn spawn(tasks: &mut JoinSet<Result<()>>, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        Ok(())
    });
}

/// What this replica says of itself to the others.
fn replica_settings(
    args: &ServeArgs,
    replica: &Arc<str>,
    api: SocketAddr,
    state: watch::Receiver<Arc<State>>,
) -> Result<replicas::Settings> {
    if replica.is_empty() || replica.contains('/') {
        bail!("--replica {replica:?}: a name is not empty and has no slash");
    }
    let listens = || if api.ip().is_unspecified() { String::new() } else { api.to_string() };
    let advertise = args.advertise.clone().unwrap_or_else(listens);
    let caution = out_of_reach(&advertise, &args.store_url());
    let trust_domain = Arc::new(move || state.borrow().configuration.fleet().trust_domain);
    let tls = tls::peer(args.api_cert.as_deref(), args.api_key.as_deref(), args.api_ca.as_deref(), trust_domain)?;
    Ok(replicas::Settings { name: Arc::clone(replica), advertise, caution, ttl: args.lease_ttl, tls })
}

/// Why an address is likely to lead replicas on other machines nowhere, where the store can have any.
fn out_of_reach(advertise: &str, store: &StoreUrl) -> Option<String> {
    let StoreUrl::Etcd(endpoints) = store else { return None };
    if endpoints.iter().all(|endpoint| on_loopback(endpoint)) {
        return None;
    }
    let what = match advertise {
        "" => "advertises no address",
        address if on_loopback(address) => "advertises an address of its own machine",
        _ => return None,
    };
    Some(format!(
        "this replica {what} while etcd is on another one: replicas elsewhere cannot ask it, and nothing is called \
         live while there are any; set --advertise HOST:PORT, and --api-listen to match"
    ))
}

/// Whether `HOST:PORT`, or a URL of it, is of this machine for sure.
fn on_loopback(address: &str) -> bool {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn limits(args: &ServeArgs) -> Limits {
    Limits { connections: args.max_connections, per_address: args.max_connections_per_address, ..Limits::default() }
}

/// Serves gRPC on a port.
fn listen(
    listener: TcpListener,
    (tls, limits): (Option<intake::Tls>, Limits),
    routes: Routes,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<SocketAddr> {
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
