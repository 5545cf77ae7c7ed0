//! The small path: the address of a service's one endpoint changes in etcd, and one Envoy routes to the new one.

mod traffic;
mod watcher;

use std::{net::SocketAddr, path::PathBuf, process::Command, sync::mpsc::sync_channel, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use self::{
    traffic::{Asker, backend},
    watcher::Watcher,
};
use super::{
    cell::middle,
    etcd::{Connected, Etcd, etcdctl},
    process::{LOAD, Process, SERVER, free_port, wait_for},
    report::Table,
    runs::{Plan, spread},
    server::{Setup, Started, certificates},
    tidegate::{Driver, endpoint},
};
use crate::clock;

/// Counted rounds of a run, and those before them.
const ROUNDS: usize = 100;
const WARM_UP: usize = 5;
/// For an answer of the new back end.
const LIMIT: u64 = 30_000_000_000;

/// Between an answer and the next question, so that the client, Envoy and the back ends do not fill their core: etcd's sync
/// has been seen to wait for it without end.
const BREATH: Duration = Duration::from_micros(50);

const SERVICE: &str = "path";
const ASSIGNMENT: &str = "bench/path:80";
const KEY: &str = "/tidegate/v1/endpoints/core1/bench/path/only";
const BACKENDS: [&str; 2] = ["A", "B"];

/// By what the address is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A program is started.
    Etcdctl,
    /// The same put on a connection that stands.
    Put,
    /// The API's stream of a registration.
    Api,
}

/// Each way, and the store.
const CASES: [(Way, &str, &str); 4] = [
    (Way::Etcdctl, "`etcdctl put`", "etcd"),
    (Way::Put, "the same put, on a connection that stands", "etcd"),
    (Way::Api, "API", "etcd"),
    (Way::Api, "API", "memory"),
];

/// Milliseconds from before the change.
struct Times {
    sent: Vec<f64>,
    routed: Vec<f64>,
}

/// The scenario.
///
/// # Errors
/// None today: what fails is told in the table.
pub fn path(plan: &Plan, setup: &Setup) -> Result<Table> {
    let note = "One service with one live endpoint at one core, one Envoy, a client that asks again and again on one \
                connection, 50 µs after each answer. The endpoint gets the address of the other back end: from just before that until a delta \
                xDS client has the new assignment (sent), and until an answer of the new back end has come (routed). \
                The listener is an EnvoyResource in plain HTTP, whose route names the service's cluster: one Envoy, \
                no second hop. Tidegate, etcd and etcdctl on core 0; Envoy, the client and the back ends on core 1.";
    let head = [
        "changed by",
        "store",
        "rounds",
        "sent p50 ms",
        "p99",
        "max",
        "routed p50 ms",
        "p99",
        "max",
        "routed − sent, p50 ms",
    ];
    let mut table = Table::new("path: one endpoint, until one Envoy routes to it", note, &head);
    let Some(envoy) = find_envoy() else {
        table.remarks.push("skipped: there is no Envoy (`make setup`)".to_owned());
        return Ok(table);
    };
    let mut all: Vec<Vec<[f64; 7]>> = CASES.iter().map(|_| Vec::new()).collect();
    for _ in 0..plan.runs {
        for store in ["etcd", "memory"] {
            if let Err(error) = run(store, &envoy, setup, &mut all) {
                table.failed(&format!("store {store}"), &error);
            }
        }
    }
    for ((_, name, store), runs) in CASES.iter().zip(&all).filter(|(_, runs)| !runs.is_empty()) {
        let figures = (0..7).map(|at| spread(runs.iter().map(|run| run[at]).collect(), 1));
        let fixed = [(*name).to_owned(), (*store).to_owned(), format!("{} × {ROUNDS}", runs.len())];
        table.rows.push(fixed.into_iter().chain(figures).collect());
    }
    Ok(table)
}

/// All ways that this store has, one after the other.
fn run(store: &str, envoy: &str, setup: &Setup, all: &mut [Vec<[f64; 7]>]) -> Result<()> {
    let mut stage = Stage::set(store == "etcd", envoy, setup)?;
    // The API comes first: it writes nothing where what it is told is what it wrote last.
    for ((way, ..), runs) in CASES.iter().zip(all.iter_mut()).rev().filter(|((.., of), _)| *of == store) {
        let Times { sent, routed } = stage.rounds(*way)?;
        let between = routed.iter().zip(&sent).map(|(routed, sent)| routed - sent).collect();
        let [a, b, c] = quantiles(sent);
        let [d, e, f] = quantiles(routed);
        runs.push([a, b, c, d, e, f, middle(between)]);
    }
    Ok(())
}

/// Median, 99th percentile, most.
fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [50, 99, 100].map(|percent| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or(f64::NAN)
    })
}

/// The project's own, as in `tidegate demo`, or the first on the PATH.
fn find_envoy() -> Option<String> {
    let own = std::env::current_dir().ok()?.join(".tools/bin/envoy");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::iter::once(own).chain(std::env::split_paths(&paths).map(|dir| dir.join("envoy")));
    found.find(|path| path.is_file()).map(|path: PathBuf| path.display().to_string())
}

/// Everything that runs.
struct Stage {
    asker: Asker,
    watcher: Watcher,
    hands: Hands,
    backends: [SocketAddr; 2],
    /// Which of them the endpoint is now.
    now: usize,
    _envoy: Process,
    _tidegate: Started,
    etcd: Option<Etcd>,
}

/// What changes the endpoint.
struct Hands {
    driver: Driver,
    etcd: Option<Connected>,
}

impl Stage {
    fn set(with_etcd: bool, envoy: &str, setup: &Setup) -> Result<Self> {
        let etcd = with_etcd.then(|| Etcd::start(SERVER, &setup.dir)).transpose()?;
        let store = etcd.as_ref().map_or("memory".to_owned(), |etcd| format!("etcd:{}", etcd.url));
        let mut tidegate = Started::new(setup, "tidegate", &store, None)?;
        tidegate.wait_ready()?;
        let listener = free_port()?;
        let mut driver = Driver::connect(tidegate.api, None)?;
        driver.apply(manifests(free_port()?, listener))?;
        let backends = [backend(BACKENDS[0])?, backend(BACKENDS[1])?];
        driver.register(SERVICE, "only", backends[0])?;
        let mut envoy = start_envoy(envoy, tidegate.xds, setup)?;
        let mut first = None;
        wait_for("Envoy routes to the first back end", || {
            envoy.alive()?;
            let Ok(mut asker) = Asker::connect(listener) else { return Ok(false) };
            let answered = asker.ask().is_ok_and(|answer| answer == BACKENDS[0]);
            first = Some(asker);
            Ok(answered)
        })?;
        let connected = etcd.as_ref().map(|etcd| Connected::to(&etcd.url)).transpose()?;
        let mut watcher = Watcher::start(tidegate.xds, "core1", ASSIGNMENT)?;
        watcher.told(backends[0])?;
        Ok(Self {
            asker: first.context("no client")?,
            watcher,
            hands: Hands { driver, etcd: connected },
            backends,
            now: 0,
            _envoy: envoy,
            _tidegate: tidegate,
            etcd,
        })
    }

    fn rounds(&mut self, way: Way) -> Result<Times> {
        let mut times = Times { sent: Vec::new(), routed: Vec::new() };
        for round in 0..WARM_UP + ROUNDS {
            let [sent, routed] = self.round(way).with_context(|| format!("{way:?}, round {round}"))?;
            if round >= WARM_UP {
                times.sent.push(sent);
                times.routed.push(routed);
            }
            // Not in step with any clock of the others'.
            std::thread::sleep(Duration::from_millis(5 + (round as u64 * 7) % 20));
        }
        Ok(times)
    }

    fn round(&mut self, way: Way) -> Result<[f64; 2]> {
        self.now = 1 - self.now;
        let (name, address) = (BACKENDS[self.now], self.backends[self.now]);
        let (asker, hands, url) = (&mut self.asker, &mut self.hands, self.etcd.as_ref().map(|etcd| &etcd.url));
        let (asking, asked) = sync_channel(1);
        let (began, routed) = std::thread::scope(|scope| {
            let answered = scope.spawn(move || {
                asker.ask()?;
                asking.send(())?;
                until(asker, name)
            });
            // It fails in the thread's own words.
            let _ = asked.recv_timeout(Duration::from_nanos(LIMIT));
            let began = clock::now();
            hands.change(way, url, address)?;
            let routed = answered.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
            Ok::<_, anyhow::Error>((began, routed))
        })?;
        let sent = self.watcher.told(address)?;
        Ok([sent, routed].map(|at| at.saturating_sub(began) as f64 / 1e6))
    }
}

/// Asks until `name` answers, and says when.
fn until(asker: &mut Asker, name: &str) -> Result<u64> {
    let end = clock::now() + LIMIT;
    loop {
        let answer = asker.ask()?;
        let now = clock::now();
        if answer == name {
            return Ok(now);
        }
        ensure!(BACKENDS.contains(&answer.as_str()), "Envoy answers {answer:?}");
        ensure!(now < end, "{answer} answers still");
        std::thread::sleep(BREATH);
    }
}

impl Hands {
    fn change(&mut self, way: Way, url: Option<&String>, address: SocketAddr) -> Result<()> {
        match (way, url, &mut self.etcd) {
            (Way::Etcdctl, Some(url), _) => etcdctl(SERVER, url, KEY, &endpoint(address)),
            (Way::Put, _, Some(etcd)) => etcd.put(KEY, &endpoint(address)),
            (Way::Api, ..) => self.driver.register(SERVICE, "only", address),
            _ => bail!("{way:?} needs etcd"),
        }
    }
}

/// The core, the service, and a listener whose route leads to it.
fn manifests(backbone: SocketAddr, listener: SocketAddr) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1
kind: Site
metadata: {{name: core1}}
spec:
  role: core
  region: eu
  coordinates: {{latitude: 50.1, longitude: 8.7}}
  bindAddress: {}
  gateways: ['{backbone}']
---
apiVersion: tidegate.dev/v1alpha1
kind: Service
metadata: {{name: {SERVICE}, namespace: bench}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {{name: {SERVICE}, namespace: bench}}
spec: {{service: {SERVICE}, site: core1, endpoints: []}}
---
apiVersion: tidegate.dev/v1alpha1
kind: EnvoyResource
metadata: {{name: path}}
spec:
  type: listener
  roles: [core]
  resource:
    name: path
    address: {{socketAddress: {{address: {}, portValue: {}}}}}
    filterChains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typedConfig:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          statPrefix: path
          routeConfig:
            name: path
            virtualHosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, route: {{cluster: '{ASSIGNMENT}'}}}}]
          httpFilters:
          - name: envoy.filters.http.router
            typedConfig: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
",
        backbone.ip(),
        listener.ip(),
        listener.port(),
    )
}

/// In the folder of the site's certificates, which the backbone's listener names; the control plane is in plain text.
fn start_envoy(envoy: &str, xds: SocketAddr, setup: &Setup) -> Result<Process> {
    let dir = certificates(setup)?.join("core/core1");
    let made = Command::new(&setup.tidegate)
        .args(["proxy", "bootstrap", "--site", "core1", "--id", "core1-path", "--role", "core", "--admin-port", "0"])
        .args(["--server", &xds.to_string()])
        .output()?;
    ensure!(made.status.success(), "proxy bootstrap: {}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(dir.join("envoy.yaml"), made.stdout)?;
    let flags = ["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "600"];
    let words = [envoy].into_iter().chain(flags).chain(["-l", "warning"]).map(str::to_owned);
    Process::start("envoy", LOAD, &dir, &words.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantiles(values), [50.0, 99.0, 100.0]);
        assert_eq!(quantiles(vec![3.0]), [3.0; 3]);
    }
}
