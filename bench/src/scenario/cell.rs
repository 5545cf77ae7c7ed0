//! One cell: a server, so many clients, so many resources, rounds of one change each.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::{
    generator::Generator,
    server::{Change, Kind, Server, Setup},
};

/// Rounds that are not counted.
const WARM_UP: usize = 3;

/// What the clients ask for; which type changes follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Asks {
    Cds,
    Eds,
    Share(usize),
}

impl Asks {
    pub fn change(self) -> Change {
        if self == Self::Cds { Change::Cluster } else { Change::Endpoints }
    }

    pub fn words(self) -> String {
        match self {
            Self::Cds => "mode=cds".to_owned(),
            Self::Eds => "mode=eds".to_owned(),
            Self::Share(share) => format!("share={share}"),
        }
    }

    pub fn title(self) -> String {
        match self {
            Self::Cds => "CDS by wildcard".to_owned(),
            Self::Eds => "EDS by all names".to_owned(),
            Self::Share(share) => format!("EDS by {share} names"),
        }
    }
}

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub kind: Kind,
    pub asks: Asks,
    pub clients: usize,
    pub resources: usize,
    pub rounds: usize,
}

/// What was.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Seconds from the first SYN until everybody had everything.
    pub load_seconds: f64,
    pub load_cpu: f64,
    pub load_bytes: f64,
    /// Connections that the server closed, to be opened again.
    pub lost: f64,
    /// Bytes per idle stream, after the load.
    pub idle_bytes: f64,
    pub peak_bytes: f64,
    /// Microseconds of the server's CPU per delivery, its ACK included.
    pub cpu_us: f64,
    pub user_us: f64,
    /// Milliseconds of the server's CPU per change, all its deliveries included: at few clients, what a change itself costs.
    pub change_ms: f64,
    /// Of the generator.
    pub load_us: f64,
    /// Milliseconds from change to receipt; the last one's to its ACK. Medians over the rounds.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub last_ms: f64,
    pub worst_ms: f64,
}

/// A server and its loaded clients.
pub struct Stage {
    pub server: Server,
    pub load: Generator,
    pub empty: u64,
}

impl Stage {
    /// Starts both, and lets the scout look; no client is open yet.
    ///
    /// # Errors
    /// In words.
    pub fn set(cell: &Cell, setup: &Setup, more: &[String]) -> Result<Self> {
        let server = Server::start(cell.kind, setup, cell.resources)?;
        let words = [
            format!("server={}", server.xds),
            format!("clients={}", cell.clients),
            format!("resources={}", cell.resources),
            cell.asks.words(),
            format!("variant={}", if cell.kind.sotw() { "sotw" } else { "delta" }),
        ];
        let tls: Vec<String> = server.tls.iter().map(|dir| format!("tls={}", dir.display())).collect();
        let mut load = Generator::start(&setup.dir, &[&words, more, &tls].concat())?;
        // In state of the world nobody needs to know names, and the scout does not speak it.
        if !cell.kind.sotw() {
            load.order("scout")?;
        }
        std::thread::sleep(Duration::from_millis(300));
        let empty = server.process.memory("VmRSS")?;
        Ok(Self { server, load, empty })
    }

    /// One change, until all that see it have it.
    ///
    /// # Errors
    /// A client did not get it.
    pub fn round(&mut self, cell: &Cell, index: usize) -> Result<Value> {
        self.load.order(&format!("round {}", Server::resource(index)))?;
        self.server.change(cell.asks.change(), index)?;
        self.load.answer()
    }
}

/// Writes the file of `count` resources of each type, as Tidegate makes them, if it is not there yet.
///
/// # Errors
/// In words.
pub fn prepare(count: usize, setup: &Setup) -> Result<()> {
    let file = setup.resources(count);
    if file.exists() {
        return Ok(());
    }
    let cell = Cell { kind: Kind::Tidegate, asks: Asks::Eds, clients: 0, resources: count, rounds: 0 };
    let mut stage = Stage::set(&cell, setup, &[])?;
    stage.load.order(&format!("capture {}", file.display()))?;
    Ok(())
}

/// Measures a cell.
///
/// # Errors
/// A client that did not get everything: then there are no figures.
pub fn measure(cell: &Cell, setup: &Setup) -> Result<Measured> {
    prepare(cell.resources, setup)?;
    let mut stage = Stage::set(cell, setup, &[])?;
    let before = stage.server.process.cpu()?;
    let loaded = stage.load.order("open cold")?;
    if let Some(faults) = loaded["faults"].as_array() {
        eprintln!("{}: connections were lost: {:?}", cell.kind.name(), faults.first());
    }
    let load_cpu = stage.server.process.cpu()?.since(before).total();
    std::thread::sleep(Duration::from_secs(1));
    let idle = stage.server.process.memory("VmRSS")?.saturating_sub(stage.empty);
    for _ in 0..WARM_UP {
        stage.round(cell, 0)?;
    }
    let (server, load) = (stage.server.process.cpu()?, stage.load.process.cpu()?);
    let mut rounds = Vec::new();
    for _ in 0..cell.rounds {
        rounds.push(stage.round(cell, 0)?);
    }
    let used = stage.server.process.cpu()?.since(server);
    let load_used = stage.load.process.cpu()?.since(load);
    let deliveries: f64 = rounds.iter().map(|round| number(&round["reached"])).sum();
    let median = |field: &str| middle(rounds.iter().map(|round| number(&round["ages"][field]) / 1e3).collect());
    let last: Vec<f64> = rounds.iter().map(|round| number(&round["seconds"]) * 1e3).collect();
    Ok(Measured {
        load_seconds: number(&loaded["seconds"]),
        load_cpu,
        load_bytes: number(&loaded["totals"]["bytes"]),
        lost: number(&loaded["totals"]["lost"]),
        idle_bytes: idle as f64 / cell.clients as f64,
        peak_bytes: stage.server.process.memory("VmHWM")? as f64,
        cpu_us: used.total() * 1e6 / deliveries,
        user_us: used.user * 1e6 / deliveries,
        change_ms: used.total() * 1e3 / rounds.len() as f64,
        load_us: load_used.total() * 1e6 / deliveries,
        p50_ms: median("p50_us"),
        p99_ms: median("p99_us"),
        worst_ms: last.iter().copied().fold(0.0, f64::max),
        last_ms: middle(last),
    })
}

/// A number of an answer.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// The median.
pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
