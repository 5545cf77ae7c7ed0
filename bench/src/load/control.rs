//! The generator's loop: a line on standard input is an order, a line of JSON on standard output its answer.
//!
//! | order | answer when |
//! | --- | --- |
//! | `scout` | one client, in delta, has seen all resources |
//! | `capture FILE` | they are in the file |
//! | `open cold` | all clients have all resources |
//! | `open warm` | at once `{"armed":true}`; then, when all clients, which named the versions that the scout saw, have a change |
//! | `round [NAME]` | at once `{"armed":true}`; then, when all clients (that ask for it) have a change from after the order |
//! | `measure`, `measured` | at once: ages of changes at their receipt in between |
//! | `warmed` | at once: from now on whoever is lost comes back with what the scout saw |
//! | `stall COUNT` | at once |
//! | `opening COUNT` | at once: so many connections are begun and not yet taken by the server at a time |
//! | `drop` | all connections are closed |
//! | `totals` | at once |

use std::{
    io::{Read, Write},
    os::fd::AsFd,
    path::Path,
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    Settings,
    pool::{Goal, Pool},
};
use crate::{clock, resources};

/// For whatever is waited for.
const LIMIT: u64 = 180_000_000_000;
/// A turn without events.
const IDLE: u64 = 1_000_000_000;

/// What is waited for, and since when.
struct Wait {
    order: &'static str,
    began: u64,
    deadline: u64,
    expected: usize,
}

/// Obeys until standard input ends.
///
/// # Errors
/// In words.
pub fn run(settings: Settings) -> Result<()> {
    let stdin = std::io::stdin();
    let mut pool = Pool::new(settings, stdin.as_fd())?;
    let (mut text, mut wait) = (Vec::new(), None::<Wait>);
    loop {
        let now = clock::now();
        let until = wait.as_ref().map_or(now + IDLE, |wait| wait.deadline.min(now + IDLE));
        if pool.turn(until)? {
            let mut bytes = [0; 4_096];
            let read = stdin.lock().read(&mut bytes)?;
            if read == 0 {
                return Ok(());
            }
            text.extend_from_slice(&bytes[..read]);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                wait = obey(&mut pool, std::str::from_utf8(&line)?.trim())?.or(wait);
            }
        }
        if let Some(waiting) = &wait
            && let Some(answer) = finished(&mut pool, waiting)
        {
            wait = None;
            say(&answer)?;
        }
    }
}

fn say(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn obey(pool: &mut Pool, line: &str) -> Result<Option<Wait>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let now = clock::now();
    let wait = |order, expected| Some(Wait { order, began: now, deadline: now + LIMIT, expected });
    let ready = match words.as_slice() {
        ["scout"] => {
            pool.send_scout()?;
            return Ok(wait("scout", 1));
        }
        ["capture", path] => {
            resources::write(Path::new(path), &pool.held_all())?;
            json!({"captured": path})
        }
        ["open", "cold"] => {
            pool.aim(Goal::Loaded);
            pool.open(false);
            return Ok(wait("open", pool.settings.clients));
        }
        ["open", "warm"] => {
            pool.aim(Goal::Stamp(0));
            pool.open(true);
            say(&json!({"armed": true}))?;
            return Ok(wait("open", pool.settings.clients));
        }
        ["round", name @ ..] => {
            pool.aim(Goal::Stamp(now));
            pool.ages = Some(Histogram::new(3)?);
            say(&json!({"armed": true}))?;
            return Ok(wait("round", pool.expected(name.first().copied())));
        }
        ["measure"] => {
            pool.ages = Some(Histogram::new(3)?);
            json!({"measuring": true})
        }
        ["measured"] => json!({"ages": ages(pool), "totals": pool.totals, "faults": pool.faults}),
        ["warmed"] => {
            pool.come_back_warm();
            json!({"warmed": true})
        }
        ["stall", count] => {
            pool.stall(count.parse().context("stall COUNT")?);
            json!({"stalled": count})
        }
        ["opening", count] => {
            pool.settings.opening = count.parse().context("opening COUNT")?;
            json!({"opening": count})
        }
        ["drop"] => {
            pool.drop_all();
            json!({"dropped": true})
        }
        ["totals"] => json!({"totals": pool.totals, "faults": pool.faults}),
        _ => bail!("{line:?} is no order"),
    };
    say(&ready)?;
    Ok(None)
}

fn ages(pool: &mut Pool) -> Value {
    let Some(ages) = pool.ages.take() else { return Value::Null };
    let at = |quantile| ages.value_at_quantile(quantile);
    json!({
        "count": ages.len(), "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "p999_us": at(0.999),
        "max_us": ages.max(), "min_us": ages.min(),
    })
}

/// The answer, once what is waited for is there, or cannot come any more.
fn finished(pool: &mut Pool, wait: &Wait) -> Option<Value> {
    let now = clock::now();
    let failed = now >= wait.deadline;
    if wait.order == "scout" {
        let seconds = (now - wait.began) as f64 / 1e9;
        if let Some(held) = pool.scouted() {
            return Some(json!({
                "seconds": seconds,
                "clusters": held.clusters.len(),
                "endpoints": held.endpoints.len(),
                "cluster_bytes": held.clusters.iter().map(|r| r.bytes.len()).sum::<usize>(),
                "endpoint_bytes": held.endpoints.iter().map(|r| r.bytes.len()).sum::<usize>(),
            }));
        }
        let lost = pool.scouting().is_none();
        return (failed || lost).then(|| json!({"failed": "scout", "came": pool.scouting(), "faults": pool.faults}));
    }
    if pool.reached < wait.expected && !failed {
        return None;
    }
    pool.goal = None;
    let complete = pool.reached >= wait.expected;
    let ages = if wait.order == "round" { ages(pool) } else { Value::Null };
    let mut answer = json!({
        "complete": complete,
        "expected": wait.expected,
        "reached": pool.reached,
        "seconds": (pool.last.max(wait.began) - wait.began) as f64 / 1e9,
        "ages": ages,
        "totals": pool.totals,
        "latest_hello_ms": pool.latest_hello as f64 / 1e6,
    });
    if !complete || pool.totals.lost > 0 {
        answer["faults"] = json!(pool.faults);
    }
    Some(answer)
}
