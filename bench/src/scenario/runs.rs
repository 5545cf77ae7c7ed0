//! The scenarios, in order; each gives a table.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    cell::{Asks, Cell, Measured, Stage, measure, middle, number, prepare},
    generator::beside,
    path::path,
    process::{LOAD, stay_on},
    report::{Report, Table},
    server::{Change, Kind, Setup, folder},
    storms,
};

/// What to run, from the environment.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `BENCH`: a scenario's name, or all of them.
    pub only: Option<String>,
    /// `SCALE`: a factor on clients, 1 for 10,000.
    pub scale: f64,
    /// `RUNS`: how often each cell is measured.
    pub runs: usize,
    pub tidegate: PathBuf,
    pub go: Option<PathBuf>,
    /// Where the report goes.
    pub out: PathBuf,
}

impl Plan {
    pub fn clients(&self, full: usize) -> usize {
        ((full as f64 * self.scale) as usize).max(20)
    }
}

type Scenario = fn(&Plan, &Setup) -> Result<Table>;

const SCENARIOS: [(&str, Scenario); 10] = [
    ("S1", s1),
    ("S2", s2),
    ("S3", s3),
    ("S4", s4),
    ("S5", storms::cold),
    ("S6", storms::warm),
    ("S7", storms::failover),
    ("S8", s8),
    ("etcd", etcd),
    ("path", path),
];

/// Runs what the plan says, and writes the report.
///
/// # Errors
/// In words; a scenario that fails is reported as failed, and the others go on.
pub fn run(plan: &Plan) -> Result<()> {
    // Servers are put on their own core.
    stay_on(LOAD)?;
    let setup = Setup {
        dir: folder(&plan.out.join("run"))?,
        tidegate: plan.tidegate.canonicalize().context("the tidegate binary is missing: cargo build --release")?,
        // It is started in another folder.
        go: plan.go.as_ref().and_then(|path| path.canonicalize().ok()),
        rust: beside("rust-control-plane-peer").ok().map(PathBuf::from),
    };
    let mut report = Report::new(plan, &setup);
    let wanted = |name: &str| plan.only.as_ref().is_none_or(|only| only.split(',').any(|o| o == name));
    let chosen: Vec<_> = SCENARIOS.iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        bail!("BENCH is one of {:?}", SCENARIOS.map(|(name, _)| name));
    }
    for (name, scenario) in chosen {
        eprintln!("{name} …");
        match scenario(plan, &setup) {
            Ok(table) => {
                eprintln!("{}", table.markdown());
                report.add(table);
            }
            Err(error) => {
                eprintln!("{name}: {error:#}");
                report.failed(name, &format!("{error:#}"));
            }
        }
    }
    report.write()
}

/// Measures cells so often in alternating order, A B B A; a cell that fails has fewer runs, or none.
fn alternate(cells: &[Cell], plan: &Plan, setup: &Setup) -> Runs {
    let mut all: Vec<_> = cells.iter().map(|cell| (*cell, Vec::new(), Vec::new())).collect();
    for run in 0..plan.runs {
        let mut order: Vec<usize> = (0..all.len()).collect();
        if run % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (cell, measured, faults) = &mut all[index];
            match measure(cell, setup) {
                Ok(figures) => {
                    eprintln!("{cell:?}: {:.1} µs, last {:.0} ms", figures.cpu_us, figures.last_ms);
                    measured.push(figures);
                }
                Err(error) => {
                    eprintln!("{cell:?}: {error:#}");
                    faults.push(format!("{error:#}"));
                }
            }
        }
    }
    all
}

/// Median, with least and most in parentheses where they differ.
pub fn spread(values: Vec<f64>, digits: usize) -> String {
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    let shown = |value: f64| format!("{value:.digits$}");
    let middle = shown(middle(values.clone()));
    if values.len() < 2 || shown(low) == shown(high) {
        return middle;
    }
    format!("{middle} ({}–{})", shown(low), shown(high))
}

const CELL_HEAD: [&str; 14] = [
    "server",
    "asks",
    "N",
    "M",
    "CPU µs/delivery",
    "of it user",
    "CPU ms/change",
    "× floor",
    "generator µs",
    "p50 ms",
    "p99 ms",
    "last ACK ms",
    "RSS KiB/stream",
    "load s (CPU s)",
];

fn cells(title: &str, note: &str, cells: &[Cell], plan: &Plan, setup: &Setup) -> Table {
    measured_cells(title, note, cells, plan, setup).0
}

/// Each cell's runs, and the faults of those that failed.
type Runs = Vec<(Cell, Vec<Measured>, Vec<String>)>;

fn measured_cells(title: &str, note: &str, cells: &[Cell], plan: &Plan, setup: &Setup) -> (Table, Runs) {
    let measured = alternate(cells, plan, setup);
    let floor = |cell: &Cell| {
        if cell.kind.sotw() {
            // It sends what has changed, and not whole sets.
            return None;
        }
        let same = |c: &Cell| {
            c.kind == Kind::Floor && c.asks == cell.asks && c.clients == cell.clients && c.resources == cell.resources
        };
        let floor = measured.iter().find(|(c, ..)| same(c))?;
        // With few clients it is below what the kernel counts by.
        Some(middle(floor.1.iter().map(|m| m.cpu_us).collect())).filter(|floor| *floor > 0.0)
    };
    let mut table = Table::new(title, note, &CELL_HEAD);
    for (cell, figures, faults) in &measured {
        let of = |field: fn(&Measured) -> f64, digits| spread(figures.iter().map(field).collect(), digits);
        let fixed =
            [cell.kind.name().to_owned(), cell.asks.title(), cell.clients.to_string(), cell.resources.to_string()];
        if figures.is_empty() {
            let words = faults.first().map(|fault| fault.chars().take(300).collect::<String>()).unwrap_or_default();
            let rest = std::iter::repeat_n("–".to_owned(), CELL_HEAD.len() - 5);
            table.rows.push(fixed.into_iter().chain([format!("failed: {words}")]).chain(rest).collect());
            continue;
        }
        let cpu = middle(figures.iter().map(|m| m.cpu_us).collect());
        let ratio = floor(cell).map_or("–".to_owned(), |floor| format!("{:.1}", cpu / floor));
        let rest = [
            of(|m| m.cpu_us, 1),
            of(|m| m.user_us, 1),
            of(|m| m.change_ms, 1),
            ratio,
            of(|m| m.load_us, 1),
            of(|m| m.p50_ms, 0),
            of(|m| m.p99_ms, 0),
            of(|m| m.last_ms, 0),
            of(|m| m.idle_bytes / 1024.0, 0),
            format!("{} ({})", of(|m| m.load_seconds, 1), of(|m| m.load_cpu, 1)),
        ];
        table.rows.push(fixed.into_iter().chain(rest).collect());
        table.figures.push((*cell, cpu));
        let lost: f64 = figures.iter().map(|m| m.lost).sum();
        if lost > 0.0 {
            table.remarks.push(format!(
                "{} ({}, N = {}): {lost} connections were lost while all loaded, and opened again",
                cell.kind.name(),
                cell.asks.title(),
                cell.clients
            ));
        }
    }
    (table, measured)
}

fn s1(plan: &Plan, setup: &Setup) -> Result<Table> {
    let cell = |kind, asks| Cell { kind, asks, clients: plan.clients(10_000), resources: 1_000, rounds: 20 };
    let all = [Asks::Cds, Asks::Eds]
        .map(|asks| [Kind::Floor, Kind::Tidegate, Kind::TidegateTls].map(|kind| cell(kind, asks)));
    let note = "One change, all get it. Targets at N = 10,000: last ACK ≤ 400 ms; CPU ≤ 30 µs per delivery; ≤ 2 × the \
                floor; ≤ 32 KiB per idle stream, ≤ 40 KiB by TLS.";
    Ok(cells("S1: one change for all", note, all.as_flattened(), plan, setup))
}

fn s2(plan: &Plan, setup: &Setup) -> Result<Table> {
    let cell = |kind| Cell { kind, asks: Asks::Share(10), clients: plan.clients(10_000), resources: 1_000, rounds: 50 };
    let note = "Each client asks for 10 of 1,000 assignments; a change concerns 1 % of them. What the other 99 % cost \
                (wakes for nothing) stands in the CPU per delivery.";
    Ok(cells("S2: one change for 1 %", note, &[cell(Kind::Floor), cell(Kind::Tidegate)], plan, setup))
}

fn s8(plan: &Plan, setup: &Setup) -> Result<Table> {
    let mut kinds = vec![Kind::Floor, Kind::Tidegate, Kind::Naive, Kind::Baseline];
    if setup.go.is_some() {
        kinds.extend([Kind::GoLinear, Kind::GoSnapshot]);
    }
    let cell = |kind, clients, resources, rounds| Cell {
        kind,
        asks: Asks::Cds,
        clients: plan.clients(clients),
        resources,
        rounds,
    };
    let mut all = Vec::new();
    for (clients, resources, rounds) in [(1_000, 100, 20), (1_000, 1_000, 20), (200, 10_000, 10)] {
        all.extend(kinds.iter().map(|kind| cell(*kind, clients, resources, rounds)));
    }
    all.push(cell(Kind::Tidegate, 3_000, 1_000, 20));
    let mut kinds = vec![Kind::TidegateSotw];
    kinds.extend(setup.go.iter().map(|_| Kind::GoSnapshotSotw));
    kinds.extend(setup.rust.iter().map(|_| Kind::RustControlPlane));
    for (clients, resources, rounds) in [(1_000, 100, 20), (1_000, 1_000, 5)] {
        all.extend(kinds.iter().map(|kind| cell(*kind, clients, resources, rounds)));
    }
    let note = "Targets: flat in M (≤ 10 % from 100 to 10,000); against go-control-plane ≥ 15 × (linear) and ≥ 30 × \
                (snapshot) less CPU at N = M = 1,000, ≥ 100 × at M = 10,000, N = 200; ≥ 4 × less memory per idle stream \
                than linear at M = 1,000. SotW: state of the world, in which a change sends each client all M clusters.";
    let mut table = cells("S8: how cost grows with M and N", note, &all, plan, setup);
    if setup.go.is_none() {
        table.remarks.push("go-control-plane was skipped: Go is missing".to_owned());
    }
    if setup.rust.is_none() {
        table.remarks.push("rust-control-plane was skipped: it did not build".to_owned());
    }
    Ok(table)
}

fn etcd(plan: &Plan, setup: &Setup) -> Result<Table> {
    let cell = |kind| Cell { kind, asks: Asks::Eds, clients: plan.clients(10_000), resources: 1_000, rounds: 20 };
    let note = "The change as `etcdctl put` of a live endpoint (the start of etcdctl included), against the same by the \
                API with the store in memory.";
    let both = [cell(Kind::Tidegate), cell(Kind::TidegateEtcd)];
    let (mut table, measured) = measured_cells("etcd: one change for all, by etcd", note, &both, plan, setup);
    let last = |kind| -> Option<f64> {
        let (_, figures, _) = measured.iter().find(|(cell, figures, _)| cell.kind == kind && !figures.is_empty())?;
        Some(middle(figures.iter().map(|m| m.last_ms).collect()))
    };
    if let (Some(memory), Some(etcd)) = (last(Kind::Tidegate), last(Kind::TidegateEtcd)) {
        table.remarks.push(format!(
            "last ACK, by etcd less in process: {:.0} ms, which is etcdctl, etcd's commit and its watch",
            etcd - memory
        ));
    }
    Ok(table)
}

/// What churn came to.
struct Churn {
    rate: f64,
    deliveries: f64,
    cpu: f64,
    ages: [f64; 4],
    grown: f64,
    lost: f64,
}

/// Changes `rate` resources a second for `seconds`, over 100 of them in turn, with the last `stalled` clients stuck.
fn churn(cell: &Cell, setup: &Setup, rate: u32, seconds: u64, stalled: usize) -> Result<Churn> {
    prepare(cell.resources, setup)?;
    let mut stage = Stage::set(cell, setup, &[])?;
    stage.load.order("open cold")?;
    stage.round(cell, 0)?;
    stage.load.order(&format!("stall {stalled}"))?;
    let (began, before) = (stage.load.order("totals")?, stage.server.process.cpu()?);
    let memory = stage.server.process.memory("VmRSS")?;
    stage.load.order("measure")?;
    let start = Instant::now();
    let end = Duration::from_secs(seconds);
    let mut changes = 0u32;
    while start.elapsed() < end {
        stage.server.change(Change::Endpoints, (changes % 100) as usize)?;
        changes += 1;
        let due = Duration::from_secs(1) / rate * changes;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = stage.server.process.cpu()?.since(before).total();
    let measured = stage.load.order("measured")?;
    let memory_after = stage.server.process.memory("VmRSS")?;
    // Whoever reads holds the newest in the end.
    stage.round(cell, 0)?;
    let count = |field: &str| number(&measured["totals"][field]) - number(&began["totals"][field]);
    Ok(Churn {
        rate: f64::from(changes) / elapsed,
        deliveries: count("resources") / elapsed,
        cpu: cpu / elapsed,
        ages: ["p50_us", "p99_us", "p999_us", "max_us"].map(|field| number(&measured["ages"][field]) / 1e3),
        grown: memory_after as f64 - memory as f64,
        lost: count("lost"),
    })
}

const CHURN_HEAD: [&str; 9] = [
    "server",
    "stalled",
    "changes/s asked (done)",
    "resources delivered/s",
    "CPU of a core",
    "age at receipt ms: p50, p99, p99.9",
    "oldest ms",
    "RSS growth MiB",
    "connections lost",
];

fn churn_row(kind: Kind, stalled: usize, rate: u32, runs: &[Churn]) -> Vec<String> {
    let of = |field: fn(&Churn) -> f64, digits| spread(runs.iter().map(field).collect(), digits);
    vec![
        kind.name().to_owned(),
        stalled.to_string(),
        format!("{rate} ({})", of(|c| c.rate, 0)),
        of(|c| c.deliveries, 0),
        of(|c| c.cpu * 100.0, 0) + " %",
        format!("{}, {}, {}", of(|c| c.ages[0], 0), of(|c| c.ages[1], 0), of(|c| c.ages[2], 0)),
        of(|c| c.ages[3], 0),
        of(|c| c.grown / 1048576.0, 1),
        of(|c| c.lost, 0),
    ]
}

fn s3(plan: &Plan, setup: &Setup) -> Result<Table> {
    let note = "EDS by 1,000 names, N = 1,000; changes go over 100 services in turn. Where changes come faster than they \
                can be delivered, the newest value wins: ages stay bounded, deliveries level out.";
    let mut table = Table::new("S3: churn", note, &CHURN_HEAD);
    for kind in [Kind::Floor, Kind::Tidegate] {
        let cell = Cell { kind, asks: Asks::Eds, clients: plan.clients(1_000), resources: 1_000, rounds: 0 };
        for rate in [10, 100, 1_000] {
            if kind == Kind::Floor && rate == 1_000 {
                // It has no pacing: it would only queue.
                continue;
            }
            match (0..plan.runs).map(|_| churn(&cell, setup, rate, 10, 0)).collect::<Result<Vec<_>>>() {
                Ok(runs) => table.rows.push(churn_row(kind, 0, rate, &runs)),
                Err(error) => table.failed(&format!("{} at {rate} changes/s", kind.name()), &error),
            }
        }
    }
    Ok(table)
}

fn s4(plan: &Plan, setup: &Setup) -> Result<Table> {
    let note = "S3 at 10 changes a second, without and with 5 % of the clients that acknowledge nothing and grant no \
                window. Target: the p99 of the healthy moves by ≤ 10 %, no growth of memory.";
    let mut table = Table::new("S4: stalled clients", note, &CHURN_HEAD);
    let cell =
        Cell { kind: Kind::Tidegate, asks: Asks::Eds, clients: plan.clients(1_000), resources: 1_000, rounds: 0 };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for run in 0..plan.runs {
        let mut order = [0, cell.clients / 20];
        if run % 2 == 1 {
            order.reverse();
        }
        for stalled in order {
            let into = if stalled == 0 { &mut without } else { &mut with };
            match churn(&cell, setup, 10, 20, stalled) {
                Ok(figures) => into.push(figures),
                Err(error) => table.failed(&format!("{stalled} stalled"), &error),
            }
        }
    }
    if with.is_empty() || without.is_empty() {
        return Ok(table);
    }
    let p99 = |runs: &[Churn]| middle(runs.iter().map(|c| c.ages[1]).collect());
    table.remarks.push(format!("p99 moves by {:+.0} %", (p99(&with) / p99(&without) - 1.0) * 100.0));
    table.rows.push(churn_row(cell.kind, 0, 10, &without));
    table.rows.push(churn_row(cell.kind, cell.clients / 20, 10, &with));
    Ok(table)
}
