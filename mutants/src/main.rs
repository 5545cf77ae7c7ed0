//! Mutation testing: changes the engine in one place at a time and counts what no test notices.
//!
//! ```text
//! mutants [--list] [--tests <module>::]… [--below <seconds>] [<file or folder>]…
//! ```
//!
//! A build for each mutant would take hours, so all of them are compiled into one copy of the tree and switched on one by
//! one. What was caught is remembered in `target/mutants/results.tsv`; what was not is tried again with every new build.

mod mutate;
mod run;
mod tree;
mod verdict;

use std::{collections::BTreeSet, env, fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use verdict::Trial;

/// The state machines of streams, and what they stand on.
const ENGINE: &[&str] = &[
    "src/serve/session.rs",
    "src/serve/session",
    "src/serve/sotw.rs",
    "src/serve/sotw",
    "src/serve/absent.rs",
    "src/serve/doubts.rs",
    "src/serve/fanout.rs",
    "src/serve/machine.rs",
    "src/serve/requests.rs",
    "src/serve/signals.rs",
    "src/serve/wire.rs",
    "src/snapshot.rs",
    "src/snapshot",
    "src/feedback.rs",
    "src/xds/name.rs",
    "src/xds/names.rs",
    "src/xds/subscription.rs",
];
/// Modules whose tests are about it.
const TESTS: &[&str] = &["serve::", "snapshot::", "feedback::", "xds::", "pipeline::", "fuzzing::"];
/// Where those stand that may live.
const LIVING: &str = "docs/mutants.md";

fn main() -> Result<()> {
    let (mut places, mut modules) = (Vec::new(), Vec::new());
    let (mut list, mut below) = (false, Duration::MAX);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument}: of what?"));
        match argument.as_str() {
            "--list" => list = true,
            "--tests" => modules.push(value()?),
            "--below" => below = Duration::from_secs(value()?.parse()?),
            _ => places.push(argument),
        }
    }
    let or = |given: Vec<String>, usual: &[&str]| {
        if given.is_empty() { usual.iter().map(ToString::to_string).collect() } else { given }
    };
    let (places, modules) = (or(places, ENGINE), or(modules, TESTS));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no folder above")?;
    let work = root.join("target/mutants");
    fs::create_dir_all(&work)?;

    // Always those of the whole engine, so that a part of it is no other build.
    let all: Vec<_> = ENGINE.iter().map(ToString::to_string).chain(places.iter().cloned()).collect();
    let mutants = tree::mutants(root, &all)?;
    let chosen = |file: &str| places.iter().any(|place| Path::new(file).starts_with(place));
    let chosen: Vec<_> = (0..mutants.len()).filter(|id| chosen(&mutants[*id].file)).collect();
    if list {
        chosen.iter().for_each(|id| println!("{}\t{}", mutants[*id].line, mutants[*id].key()));
        return Ok(());
    }
    let known = fs::read_to_string(work.join("dropped.txt")).unwrap_or_default();
    let mut dropped: BTreeSet<String> = known.lines().map(ToOwned::to_owned).collect();
    let binary = tree::build(root, &work, &mutants, &mut dropped)?;
    fs::write(work.join("dropped.txt"), dropped.iter().map(|key| format!("{key}\n")).collect::<String>())?;
    let mut tests = run::coverage(&binary, &work, &modules)?;
    tests.retain(|test| test.time < below);
    let verdicts =
        Trial { binary: &binary, work: &work, mutants: &mutants, dropped: &dropped, tests: &tests }.of(&chosen)?;
    verdict::report(&mutants, &verdicts, &fs::read_to_string(root.join(LIVING)).unwrap_or_default());
    Ok(())
}
