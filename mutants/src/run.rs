//! The test binary, run for one mutant after the other with the tests that reach it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Tests that take less are run in one go, before the others.
const QUICK: Duration = Duration::from_millis(200);
/// What any run may take beside its share: other work goes on beside it.
const GRACE: Duration = Duration::from_secs(10);
/// Of the time that it takes without a mutant.
const SHARE: u32 = 5;
/// An endless loop that hoards must not take the machine with it; in KiB.
const MEMORY: &str = "8388608";

/// One test, and which mutants it comes by.
pub struct Test {
    pub name: String,
    pub time: Duration,
    pub reached: Vec<usize>,
}

impl Test {
    pub fn is_quick(&self) -> bool {
        self.time < QUICK
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// By that test, or by the end of the process.
    Failed(String),
    TimedOut,
}

/// Runs each test of those modules alone, without a mutant. What is known of this very build is not measured again.
pub fn coverage(binary: &Path, work: &Path, modules: &[String]) -> Result<Vec<Test>> {
    let (file, reached) = (work.join("coverage.tsv"), work.join("reached"));
    let head = format!("{} {}", build(binary)?, modules.join(" "));
    if let Some(known) = fs::read_to_string(&file).ok().filter(|known| known.lines().next() == Some(&head)) {
        return Ok(known.lines().skip(1).filter_map(read).collect());
    }
    let list = Command::new(binary).args(["--list", "--format", "terse"]).output()?;
    let (mut tests, mut lines) = (Vec::new(), vec![head]);
    for name in String::from_utf8_lossy(&list.stdout).lines().filter_map(|line| line.strip_suffix(": test")) {
        if !modules.iter().any(|module| name.starts_with(module.as_str())) {
            continue;
        }
        let _ = fs::remove_file(&reached);
        let begun = Instant::now();
        let environment = ("MUTANTS_REACHED", reached.display().to_string());
        let outcome = run(binary, work, &[name], environment, Duration::from_secs(600))?;
        if outcome != Outcome::Passed {
            eprintln!("{name} does not count: without a mutant, {outcome:?}");
            continue;
        }
        let ids = fs::read_to_string(&reached).unwrap_or_default().lines().collect::<Vec<_>>().join(",");
        let line = format!("{name}\t{}\t{ids}", begun.elapsed().as_millis());
        tests.extend(read(&line));
        lines.push(line);
    }
    fs::write(file, lines.join("\n"))?;
    Ok(tests)
}

fn read(line: &str) -> Option<Test> {
    let mut fields = line.split('\t');
    let (name, millis) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
    let reached = fields.next()?.split(',').filter_map(|id| id.parse().ok()).collect();
    Some(Test { name, time: Duration::from_millis(millis), reached })
}

/// Which build a binary is.
pub fn build(binary: &Path) -> Result<String> {
    let time = fs::metadata(binary)?.modified()?.duration_since(std::time::UNIX_EPOCH)?;
    Ok(time.as_millis().to_string())
}

/// Runs those tests that reach a mutant until one notices it: quick ones in one go, others one by one.
pub fn judge(binary: &Path, work: &Path, mutant: usize, tests: &[&Test]) -> Result<Outcome> {
    let mut reaching: Vec<_> = tests.iter().copied().filter(|test| test.reached.contains(&mutant)).collect();
    reaching.sort_by_key(|test| test.time);
    let (quick, slow) = reaching.split_at(reaching.partition_point(|test| test.is_quick()));
    for batch in [quick].into_iter().chain(slow.chunks(1)).filter(|batch| !batch.is_empty()) {
        let names: Vec<_> = batch.iter().map(|test| test.name.as_str()).collect();
        let time = GRACE + batch.iter().map(|test| test.time).sum::<Duration>() * SHARE;
        let outcome = run(binary, work, &names, ("MUTANT", mutant.to_string()), time)?;
        if outcome != Outcome::Passed {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Passed)
}

/// Runs tests up to the first that fails.
fn run(binary: &Path, work: &Path, tests: &[&str], environment: (&str, String), limit: Duration) -> Result<Outcome> {
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MEMORY}; exec nice -n 10 \"$0\" \"$@\"")])
        .arg(binary)
        .args(["--exact", "--test-threads", "1"])
        .args(tests)
        .current_dir(work.join("tree"))
        // That it fails is enough: nobody wants the smallest failure, nor its place.
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("RUST_BACKTRACE", "0")
        .env(environment.0, environment.1)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = child.stdout.take().context("no output")?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let end = Instant::now() + limit;
    let outcome = loop {
        match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
                    break Outcome::Failed(name.to_owned());
                }
            }
            Err(RecvTimeoutError::Timeout) => break Outcome::TimedOut,
            Err(RecvTimeoutError::Disconnected) if child.wait()?.success() => break Outcome::Passed,
            Err(RecvTimeoutError::Disconnected) => break Outcome::Failed("the process ended".to_owned()),
        }
    };
    let _ = child.kill();
    child.wait()?;
    Ok(outcome)
}
