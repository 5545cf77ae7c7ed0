//! All at once: cold, warm, and from one replica of three to the others.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    cell::{Asks, Cell, Stage, number, prepare},
    etcd::Etcd,
    generator::Generator,
    process::LOAD,
    report::Table,
    runs::{Plan, spread},
    server::{Change, Kind, Server, Setup, Started},
    tidegate::Driver,
};

/// Connections that are begun and not yet taken at a time: as many as the kernel lets an accept queue hold.
const AT_ONCE: &str = "4096";
/// What the machine may hold of a server at a time; the target of a storm.
const MIB: f64 = 1_048_576.0;

/// A client's own lateness, since one thread stands for all: see `latest_hello` of the generator.
const HELLO: &str = "latest first byte ms";

/// A row of the medians of equally long runs.
fn row(fixed: &[String], runs: &[Vec<f64>], digits: &[usize]) -> Vec<String> {
    let columns =
        digits.iter().enumerate().map(|(at, digits)| spread(runs.iter().map(|run| run[at]).collect(), *digits));
    fixed.iter().cloned().chain(columns).collect()
}

/// Measures so often as the plan says; a run that fails is told, and the others count.
fn repeat(plan: &Plan, table: &mut Table, what: &str, mut run: impl FnMut() -> Result<Vec<f64>>) -> Vec<Vec<f64>> {
    let mut runs = Vec::new();
    for _ in 0..plan.runs {
        match run() {
            Ok(figures) => runs.push(figures),
            Err(error) => table.failed(what, &error),
        }
    }
    runs
}

/// Says the first reasons why connections were lost.
fn losses(table: &mut Table, what: &str, answer: &Value) {
    if let Some(faults) = answer["faults"].as_array().filter(|faults| !faults.is_empty()) {
        let words: Vec<_> = faults.iter().take(3).filter_map(Value::as_str).collect();
        table.remarks.push(format!("{what}: connections were lost, for example: {}", words.join("; ")));
    }
}

/// S5.
///
/// # Errors
/// None today: what fails is told in the table.
pub fn cold(plan: &Plan, setup: &Setup) -> Result<Table> {
    let note = "All connect at once and want 1,000 clusters. Target at N = 10,000: ≤ 25 s, RSS peak ≤ 1 GiB, no \
                connection lost.";
    let head = [
        "server",
        "N",
        "seconds",
        "server CPU s",
        "MB sent",
        "RSS peak MiB",
        "RSS 1 s later",
        HELLO,
        "connections lost",
    ];
    let mut table = Table::new("S5: cold storm", note, &head);
    for kind in [Kind::Floor, Kind::Tidegate, Kind::TidegateTls] {
        let cell = Cell { kind, asks: Asks::Cds, clients: plan.clients(10_000), resources: 1_000, rounds: 0 };
        let mut answers = Vec::new();
        let runs = repeat(plan, &mut table, kind.name(), || {
            prepare(cell.resources, setup)?;
            let mut stage = Stage::set(&cell, setup, &[format!("opening={AT_ONCE}")])?;
            let before = stage.server.process.cpu()?;
            let loaded = stage.load.order("open cold")?;
            let cpu = stage.server.process.cpu()?.since(before).total();
            std::thread::sleep(Duration::from_secs(1));
            let [peak, after] = ["VmHWM", "VmRSS"].map(|field| stage.server.process.memory(field));
            let total = |field: &str| number(&loaded["totals"][field]);
            let (bytes, lost) = (total("bytes") / 1e6, total("lost"));
            let (seconds, hello) = (number(&loaded["seconds"]), number(&loaded["latest_hello_ms"]));
            answers.push(loaded);
            Ok(vec![seconds, cpu, bytes, peak? as f64 / MIB, after? as f64 / MIB, hello, lost])
        });
        answers.iter().for_each(|answer| losses(&mut table, kind.name(), answer));
        if !runs.is_empty() {
            let fixed = [kind.name().to_owned(), cell.clients.to_string()];
            table.rows.push(row(&fixed, &runs, &[1, 1, 0, 0, 0, 0, 0]));
        }
    }
    Ok(table)
}

/// S6.
///
/// # Errors
/// None today: what fails is told in the table.
pub fn warm(plan: &Plan, setup: &Setup) -> Result<Table> {
    let note = "All connections break; one assignment changes; all come back at once, naming 1,000 clusters and 1,000 \
                assignments with the versions that they hold. Target at N = 10,000: ≤ 10 s, < 1 % of the cold bytes; the \
                one changed resource is all that is sent.";
    let head = [
        "server",
        "N",
        "cold s",
        "warm s",
        "warm CPU s",
        "% of the cold bytes",
        "resources sent per client",
        "RSS peak MiB",
        HELLO,
        "lost",
    ];
    let mut table = Table::new("S6: warm reconnect", note, &head);
    for kind in [Kind::Tidegate, Kind::TidegateTls] {
        let cell = Cell { kind, asks: Asks::Eds, clients: plan.clients(10_000), resources: 1_000, rounds: 0 };
        let mut answers = Vec::new();
        let runs = repeat(plan, &mut table, kind.name(), || {
            let mut stage = Stage::set(&cell, setup, &[])?;
            let cold = stage.load.order("open cold")?;
            stage.load.order("drop")?;
            stage.load.order(&format!("opening {AT_ONCE}"))?;
            std::thread::sleep(Duration::from_secs(2));
            let before = stage.server.process.cpu()?;
            stage.server.change(Change::Endpoints, 0)?;
            stage.load.order("open warm")?;
            let warm = stage.load.answer()?;
            let cpu = stage.server.process.cpu()?.since(before).total();
            let count = |field: &str| number(&warm["totals"][field]) - number(&cold["totals"][field]);
            let percent = count("bytes") / number(&cold["totals"]["bytes"]) * 100.0;
            let each = count("resources") / cell.clients as f64;
            let (first, second) = (number(&cold["seconds"]), number(&warm["seconds"]));
            let (peak, lost) = (stage.server.process.memory("VmHWM")? as f64 / MIB, count("lost"));
            let hello = number(&warm["latest_hello_ms"]);
            answers.push(warm);
            Ok(vec![first, second, cpu, percent, each, peak, hello, lost])
        });
        answers.iter().for_each(|answer| losses(&mut table, kind.name(), answer));
        if !runs.is_empty() {
            let fixed = [kind.name().to_owned(), cell.clients.to_string()];
            table.rows.push(row(&fixed, &runs, &[1, 1, 1, 2, 2, 0, 0, 0]));
        }
    }
    Ok(table)
}

/// Replicas of S7.
const REPLICAS: usize = 3;

/// S7.
///
/// # Errors
/// None today: what fails is told in the table.
pub fn failover(plan: &Plan, setup: &Setup) -> Result<Table> {
    let note = "Three replicas over one etcd, a third of the clients at each, all loaded with 1,000 clusters and 1,000 \
                assignments. One replica is killed, and one assignment changes: until everybody has it. Those who lost \
                their replica come to the next one after 0.5 to 1 s and name what they hold. All three replicas share \
                core 0.";
    let head = [
        "N",
        "cold s",
        "until all have the change s",
        "connections lost",
        "resources sent per lost client",
        "CPU s of the other two",
        "RSS peak MiB of them",
    ];
    let mut table = Table::new("S7: one replica of three is killed", note, &head);
    let clients = plan.clients(9_000);
    let runs = repeat(plan, &mut table, "tidegate+etcd", || fail_over(clients, setup));
    if !runs.is_empty() {
        table.rows.push(row(&[clients.to_string()], &runs, &[1, 1, 0, 2, 1, 0]));
    }
    Ok(table)
}

fn fail_over(clients: usize, setup: &Setup) -> Result<Vec<f64>> {
    let etcd = Etcd::start(LOAD, &setup.dir)?;
    let store = format!("etcd:{}", etcd.url);
    let start = |number: usize| Started::new(setup, &format!("replica-{number}"), &store, None);
    let mut replicas = (0..REPLICAS).map(start).collect::<Result<Vec<_>>>()?;
    replicas.iter_mut().try_for_each(Started::wait_ready)?;
    let first = replicas.first().context("no replica")?;
    let mut driver = Driver::connect(first.api, Some(etcd.url.clone()))?;
    driver.load(1_000)?;
    let servers: Vec<_> = replicas.iter().map(|replica| replica.xds.to_string()).collect();
    let words = [format!("server={}", servers.join(",")), format!("clients={clients}"), "mode=eds".to_owned()];
    let mut load = Generator::start(&setup.dir, &words)?;
    load.order("scout")?;
    let cold = load.order("open cold")?;
    load.order("warmed")?;
    load.order(&format!("opening {AT_ONCE}"))?;
    let mut killed = replicas.pop().context("no replica")?;
    let used = |replicas: &[Started]| -> Result<f64> {
        replicas.iter().map(|replica| Ok(replica.process.cpu()?.total())).sum()
    };
    let before = used(&replicas)?;
    load.order(&format!("round {}", Server::resource(0)))?;
    killed.process.kill()?;
    driver.change(Change::Endpoints, 0)?;
    let back = load.answer()?;
    let peaks = replicas.iter().map(|replica| replica.process.memory("VmHWM")).collect::<Result<Vec<_>>>()?;
    let count = |field: &str| number(&back["totals"][field]) - number(&cold["totals"][field]);
    // Everybody is sent the change once; what is beyond that, those were sent who came back.
    let each = (count("resources") - clients as f64) / count("lost").max(1.0) + 1.0;
    let peak = peaks.into_iter().max().unwrap_or(0) as f64 / MIB;
    Ok(vec![number(&cold["seconds"]), number(&back["seconds"]), count("lost"), each, used(&replicas)? - before, peak])
}
