//! Builds every part, starts it, and stops it in order.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, HttpState, OperatorService},
    catalog::Catalog,
    cli::{EtcdArgs, ServeArgs, StoreUrl},
    feedback::Feedback,
    manifest,
    model::{Keyspace, Sites},
    pipeline::{Pipeline, State},
    rpc::operator_server::OperatorServer,
    serve,
    snapshot::Views,
    store::{self, Embedded, Etcd, EtcdConfig, Store},
    telemetry::Registry,
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

        let (interest_in, interest) = mpsc::channel(INTEREST);
        let views = Arc::new(Views::new(interest_in));
        let feedback = Arc::new(Feedback::default());
        let (state_in, state) = watch::channel(Arc::new(State::starting()));
        let (sites_in, sites) = watch::channel(Arc::new(Sites::default()));
        let catalog = Catalog::new(keyspace.clone(), parse_stored, manifest::parse_endpoint);
        let pipeline = Pipeline { catalog, views: Arc::clone(&views), feed, interest, state: state_in, sites: sites_in };
        let stop = cancel.clone();
        tasks.spawn(async move { pipeline.run(stop).await.map_err(anyhow::Error::msg) });

        let context = api::Context {
            store,
            keyspace,
            state,
            views: Arc::clone(&views),
            feedback: Arc::clone(&feedback),
            replica: Arc::clone(&replica),
        };
        let xds = Self::start_xds(args, views, feedback, sites, replica, &cancel, &mut tasks).await?;
        let api = Self::start_api(args, context.clone(), &cancel, &mut tasks).await?;
        let http = Self::start_http(args, context, &cancel, &mut tasks).await?;
        tracing::info!(%xds, %api, %http, "serving");
        Ok(Self { xds, api, http, cancel, tasks })
    }
}
