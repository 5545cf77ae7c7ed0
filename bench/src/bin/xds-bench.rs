//! `make bench`: runs the scenarios and writes the report. `BENCH`, `SCALE` and `RUNS` say which, how large, how often.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};
use tidegate_bench::scenario::{Plan, run};

fn main() -> Result<()> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let words: Vec<String> = env::args().skip(1).collect();
    let [tidegate, go, out] = words.as_slice() else { anyhow::bail!("xds-bench TIDEGATE GO_PEER OUT_FOLDER") };
    run(&Plan {
        only: set("BENCH"),
        scale: set("SCALE").map_or(Ok(1.0), |value| value.parse()).context("SCALE")?,
        runs: set("RUNS").map_or(Ok(3), |value| value.parse()).context("RUNS")?,
        tidegate: PathBuf::from(tidegate),
        go: Some(PathBuf::from(go)),
        out: PathBuf::from(out),
    })
}
