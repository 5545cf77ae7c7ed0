//! What became of each mutant.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fs,
    io::Write,
    panic,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::Result;

use crate::{
    mutate::Mutant,
    run::{self, Outcome, Test},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    NoBuild,
    NotReached,
    Caught,
    TimedOut,
    Survived,
}

/// All that a verdict needs.
pub struct Trial<'a> {
    pub binary: &'a Path,
    pub work: &'a Path,
    pub mutants: &'a [Mutant],
    pub dropped: &'a BTreeSet<String>,
    pub tests: &'a [Test],
}

impl Trial<'_> {
    /// The verdicts over these mutants, known ones and new ones.
    pub fn of(&self, chosen: &[usize]) -> Result<BTreeMap<usize, Verdict>> {
        // Of another build, or with other tests, it may be noticed.
        let build = format!("{}/{}", run::build(self.binary)?, self.tests.len());
        let file = self.work.join("results.tsv");
        let (mut verdicts, mut left) = self.known(chosen, &fs::read_to_string(&file).unwrap_or_default(), &build);
        let mut output = fs::OpenOptions::new().create(true).append(true).open(file)?;
        // The quick tests notice most of it, and soon.
        let (quick, slow): (Vec<_>, Vec<_>) = self.tests.iter().partition(|test| test.is_quick());
        for (tests, last) in [(quick, false), (slow, true)] {
            let passed = Mutex::new(Vec::new());
            let results = Mutex::new((&mut verdicts, &mut output));
            each(&left, |id| {
                let (verdict, word, by) = match run::judge(self.binary, self.work, id, &tests)? {
                    Outcome::Passed if !last => {
                        passed.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                        return Ok(());
                    }
                    Outcome::Passed => (Verdict::Survived, "survived", String::new()),
                    Outcome::Failed(by) => (Verdict::Caught, "caught", by),
                    Outcome::TimedOut => (Verdict::TimedOut, "timeout", String::new()),
                };
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                let key = self.mutants[id].key();
                results.0.insert(id, verdict);
                writeln!(results.1, "{key}\t{word}\t{build}\t{by}")?;
                eprintln!("{} of {}: {word} {key}", results.0.len(), chosen.len());
                Ok(())
            })?;
            left = passed.into_inner().unwrap_or_else(PoisonError::into_inner);
            left.sort_unstable();
        }
        Ok(verdicts)
    }

    /// What needs no run, or had one, and what is left. `results`: those of earlier runs, of which the last counts.
    fn known(&self, chosen: &[usize], results: &str, build: &str) -> (BTreeMap<usize, Verdict>, Vec<usize>) {
        let known: HashMap<_, _> = results.lines().filter_map(result).collect();
        let reached: BTreeSet<_> = self.tests.iter().flat_map(|test| &test.reached).copied().collect();
        let (mut verdicts, mut left) = (BTreeMap::new(), Vec::new());
        for id in chosen {
            let key = self.mutants[*id].key();
            let verdict = match known.get(key.as_str()) {
                _ if self.dropped.contains(&key) => Verdict::NoBuild,
                Some(("caught", _)) => Verdict::Caught,
                Some(("timeout", _)) => Verdict::TimedOut,
                _ if !reached.contains(id) => Verdict::NotReached,
                Some((_, of)) if *of == build => Verdict::Survived,
                _ => {
                    left.push(*id);
                    continue;
                }
            };
            verdicts.insert(*id, verdict);
        }
        (verdicts, left)
    }
}

/// Calls `work` for each, `JOBS` at a time (1 without).
fn each(all: &[usize], work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let jobs = env::var("JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(id) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(*id)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|died| panic::resume_unwind(died)))
    })
}

/// Key, verdict and build of a line of results.
fn result(line: &str) -> Option<(&str, (&str, &str))> {
    let end = line.match_indices('\t').nth(2)?.0;
    let mut rest = line.get(end + 1..)?.split('\t');
    Some((line.get(..end)?, (rest.next()?, rest.next()?)))
}

/// Prints those that nobody noticed and that are not in the list of those that may live, as lines for it, and the totals.
pub fn report(mutants: &[Mutant], verdicts: &BTreeMap<usize, Verdict>, living: &str) {
    let (mut totals, mut listed) = ([0; 5], 0);
    for (id, verdict) in verdicts {
        totals[*verdict as usize] += 1;
        if matches!(verdict, Verdict::Survived | Verdict::NotReached) {
            let Mutant { file, line, function, what, .. } = &mutants[*id];
            let row = format!("| `{file}` | `{function}` | {} |", what.replace('|', "\\|"));
            if living.contains(&row) {
                listed += 1;
            } else {
                println!("{verdict:?}, line {line}\n{row} |");
            }
        }
    }
    let [no_build, not_reached, caught, timed_out, survived] = totals;
    println!(
        "{} mutants: {no_build} do not compile, {caught} caught, {timed_out} never end, {not_reached} not reached, \
         {survived} not noticed; of the last two, {listed} may live",
        verdicts.len()
    );
}
