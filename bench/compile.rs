//! What compiling costs at full size: 10,000 services of 20 endpoints, 100 sites (10 of them core), the services spread
//! over 30 sets of core sites, 10,000 routes on one Gateway. `cargo bench --bench compile`; `SCALE` shrinks it.
//!
//! Drives the line from the store to the views, as a replica does, without streams. Prints a Markdown table.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use tidegate::{
    catalog::Catalog,
    manifest,
    model::{Audience, Keyspace, Revision, Role, Sites},
    pipeline::{Pipeline, State},
    snapshot::{Reader, Seq, Views},
    store::{self, Embedded, Op, Store, Transaction, TxnOutcome},
    xds::ResourceType,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const SITES: usize = 100;
const CORES: usize = 10;
const SETS: usize = 30;
const ENDPOINTS: usize = 20;
/// For one step.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let scale = std::env::var("SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let services = ((10_000.0 * scale) as usize).max(SETS * 2);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(services))
}

async fn run(services: usize) -> Result<()> {
    let mut world = World::start(services).await?;
    println!("\n{services} services × {ENDPOINTS} endpoints × {SITES} sites ({CORES} core), {services} routes\n");
    println!(
        "| step | ms | RSS MiB | resources (bytes) of one core view | of one edge view |\n|{}",
        " --- |".repeat(5)
    );
    world.row("the listing is read", world.began.elapsed(), None)?;
    for (what, role, count) in [
        ("one core view", Role::Core, 1),
        ("ten core views in all", Role::Core, CORES),
        ("one edge view", Role::Edge, 1),
        ("ten edge views in all", Role::Edge, 10),
    ] {
        let took = world.open(role, count).await?;
        world.row(&format!("cold: {what}"), took, Some(Seq(0)))?;
    }
    let gateway = site(0, "10.255.0.1:15443");
    world.step("a core gateway's address changes", "sites/core00", gateway).await?;
    for (key, text) in new_service(services) {
        world.step("a new service joins a group", &key, text).await?;
    }
    let route = route(services / 2, "/edited");
    world.step("one route is edited", &format!("httproutes/bench/s{:05}", services / 2), route).await?;
    let (set, text) = endpoint_set(7, 0, 200);
    world.step("an EndpointSet is edited", &set, text).await?;
    world.stop.cancel();
    Ok(())
}

fn site(index: usize, gateway: &str) -> String {
    let (role, name, gateways) = if index < CORES {
        ("core", format!("core{index:02}"), format!(", gateways: ['{gateway}']"))
    } else {
        ("edge", format!("edge{index:02}"), String::new())
    };
    let (latitude, longitude) = (index % 60, index);
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: Site\nmetadata: {{name: {name}}}\nspec: {{role: {role}, region: \
         r{index}, zone: z, coordinates: {{latitude: {latitude}, longitude: {longitude}}}{gateways}}}\n"
    )
}

/// The core sites of set number `set`: all differ.
fn sites_of(set: usize) -> Vec<usize> {
    let first = set % CORES;
    (0..=1 + set / CORES).map(|step| (first + step * (1 + set / CORES)) % CORES).collect()
}

fn service(index: usize) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: Service\nmetadata: {{name: s{index:05}, namespace: bench}}\nspec: \
         {{ports: [{{port: 80}}]}}\n"
    )
}

/// One of a service's sets: its endpoints are spread over its sites.
fn endpoint_set(index: usize, place: usize, last: usize) -> (String, String) {
    let sites = sites_of(index % SETS);
    let core = sites.get(place).copied().unwrap_or_default();
    let mut text = format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: EndpointSet\nmetadata: {{name: s{index:05}-{core}, namespace: \
         bench}}\nspec:\n  service: s{index:05}\n  site: core{core:02}\n  endpoints:\n"
    );
    for number in 0..ENDPOINTS / sites.len() {
        let _ = writeln!(text, "  - address: 10.{}.{}.{}:{}", index >> 8, index & 255, number + 1, 8000 + core);
    }
    if last > 0 {
        let _ = writeln!(text, "  - address: 10.{}.{}.{last}:8080", index >> 8, index & 255);
    }
    (format!("endpointsets/bench/s{index:05}-{core}"), text)
}

fn route(index: usize, path: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: s{index:05}, namespace: \
         bench}}\nspec:\n  parentRefs: [{{name: web}}]\n  hostnames: [s{index:05}.example]\n  rules:\n  - matches: \
         [{{path: {{type: PathPrefix, value: {path}}}}}]\n    backendRefs: [{{name: s{index:05}, port: 80}}]\n"
    )
}

/// The keys of a service that joins a group that is there: its sets come first, so that the last write is the one.
fn new_service(index: usize) -> Vec<(String, String)> {
    let sets = (0..sites_of(index % SETS).len()).map(|place| endpoint_set(index, place, 0));
    let service = (format!("services/bench/s{index:05}"), service(index));
    sets.chain([service]).collect()
}

fn world(services: usize) -> Vec<(String, String)> {
    let mut all: Vec<_> = (0..SITES)
        .map(|index| {
            let role = if index < CORES { "core" } else { "edge" };
            (format!("sites/{role}{index:02}"), site(index, &format!("10.255.1.{index}:15443")))
        })
        .collect();
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web, namespace: \
                   bench}\nspec: {gatewayClassName: tidegate, listeners: [{name: http, port: 8080, protocol: HTTP}]}\n";
    all.push(("gateways/bench/web".to_owned(), gateway.to_owned()));
    for index in 0..services {
        all.extend(new_service(index));
        all.push((format!("httproutes/bench/s{index:05}"), route(index, "/")));
    }
    all
}

/// A replica without ports.
struct World {
    store: Arc<Embedded>,
    views: Arc<Views>,
    state: watch::Receiver<Arc<State>>,
    open: BTreeMap<Audience, Reader>,
    began: Instant,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl World {
    async fn start(services: usize) -> Result<Self> {
        let store = Embedded::in_memory()?;
        for batch in world(services).chunks(100) {
            put(&store, batch.iter().cloned()).await?;
        }
        let (began, stop, mut tasks) = (Instant::now(), CancellationToken::new(), JoinSet::new());
        let keyspace = Keyspace::new("/tidegate");
        let (feed_in, feed) = mpsc::channel(1_024);
        tasks.spawn(store::follow(Arc::clone(&store) as Arc<dyn Store>, keyspace.watched(), stop.clone(), feed_in));
        let views = Arc::new(Views::default());
        let (state_in, state) = watch::channel(Arc::new(State::starting()));
        let sites = watch::channel(Arc::new(Sites::default())).0;
        let parse = |reference: &_, bytes: &[u8], mode| {
            manifest::read_stored(reference, bytes, mode)
                .map_err(|faults| faults.iter().map(ToString::to_string).collect())
        };
        let catalog = Catalog::new(keyspace, parse, manifest::parse_endpoint);
        let (watermarks, fresh) = (watch::channel(Arc::default()).0, watch::channel(false).0);
        let pipeline = Pipeline { catalog, views: Arc::clone(&views), feed, state: state_in, sites, watermarks, fresh };
        let running = pipeline.run(stop.clone());
        tasks.spawn(async move { drop(running.await) });
        let mut world = Self { store, views, state, open: BTreeMap::new(), began, stop, _tasks: tasks };
        timeout(LIMIT, world.state.wait_for(|state| state.loaded())).await??;
        let problems = world.state.borrow().problems.len();
        if problems > 0 {
            let state = world.state.borrow();
            return Err(anyhow!("{problems} problems: {:?}", state.problems.first()));
        }
        Ok(world)
    }

    /// Opens views until there are `count` of the role, all complete.
    async fn open(&mut self, role: Role, count: usize) -> Result<Duration> {
        let began = Instant::now();
        let first = if role == Role::Core { 0 } else { CORES };
        for index in first..first + count {
            let site = format!("{}{index:02}", role.as_str()).into();
            let audience = Audience { site, role, proven: true, cohort: "".into(), delta: true };
            self.open.entry(audience.clone()).or_insert_with(|| self.views.open(&audience));
        }
        for reader in self.open.values() {
            let mut published = reader.view().subscribe();
            while !reader.view().read().ready() {
                timeout(LIMIT, published.changed()).await??;
            }
        }
        Ok(began.elapsed())
    }

    /// One write, until every open view has it.
    async fn step(&mut self, what: &str, key: &str, text: String) -> Result<()> {
        let from = self.open.values().map(|reader| reader.view().read().seq()).max().unwrap_or(Seq(0));
        let began = Instant::now();
        let revision = put(&self.store, [(key.to_owned(), text)]).await?;
        timeout(LIMIT, self.state.wait_for(|state| state.revision >= revision)).await??;
        self.row(&format!("{what} (`{key}`)"), began.elapsed(), Some(from))
    }

    fn row(&self, what: &str, took: Duration, from: Option<Seq>) -> Result<()> {
        let of = |role| {
            let reader = self.open.iter().find(|(audience, _)| audience.role == role).map(|(_, reader)| reader);
            match (reader, from) {
                (Some(reader), Some(from)) => changed(reader, from),
                _ => "–".to_owned(),
            }
        };
        let (core, edge) = (of(Role::Core), of(Role::Edge));
        println!("| {what} | {:.1} | {} | {core} | {edge} |", took.as_secs_f64() * 1e3, resident()? >> 20);
        Ok(())
    }
}

/// What a stream that was up to date at `from` is sent.
fn changed(reader: &Reader, from: Seq) -> String {
    let content = reader.view().read();
    let kinds = ResourceType::ALL.into_iter().filter_map(|kind| {
        let changed = content.changed(kind, from);
        let sizes: Vec<usize> =
            changed.iter().filter_map(|name| content.get(kind, name)).map(|entry| entry.resource.body.len()).collect();
        (!sizes.is_empty()).then(|| format!("{} {} ({})", sizes.len(), kind.short(), sizes.iter().sum::<usize>()))
    });
    let kinds: Vec<String> = kinds.collect();
    if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") }
}

async fn put(store: &Arc<Embedded>, keys: impl IntoIterator<Item = (String, String)>) -> Result<Revision> {
    let op = |(key, value): (String, String)| Op::Put {
        key: format!("/tidegate/v1/objects/{key}"),
        value: value.into(),
        lease: None,
    };
    let ops = keys.into_iter().map(op).collect();
    let (TxnOutcome::Committed(revision) | TxnOutcome::Conflict(revision)) =
        store.txn(Transaction { compares: vec![], ops }).await?;
    Ok(revision)
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().split(' ').next().unwrap_or_default().parse::<u64>()? << 10)
}
