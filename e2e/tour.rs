//! The tour of README.md, typed as it stands there while `tidegate demo` runs: what the page shows is what comes.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use regex::Regex;
use tempfile::TempDir;

use crate::harness::{Process, tidegate, wait_for};

/// How long another demo on this machine may keep the ports.
const PORTS: Duration = Duration::from_secs(120);
/// How long the demo may take to come up.
const UP: Duration = Duration::from_secs(60);

/// A command of the transcript and what it prints.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    output: String,
}

#[test]
fn the_tour_of_the_readme_goes_as_it_is_written() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let steps = transcript(&fs::read_to_string(home.join("README.md")).unwrap());
    assert!(steps.len() >= 7, "only {} commands in the README's ```console block", steps.len());
    let dir = TempDir::new().unwrap();
    let _demo = start_demo(home, dir.path());
    let faults: Vec<String> = steps.iter().filter_map(|step| check(step, &run(home, &step.command)).err()).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Starts the demo on the ports that the page names, and waits for what a person sees
/// who takes some seconds to type: all proxies in step, and the edge's checks of the cores behind it.
fn start_demo(home: &Path, dir: &Path) -> Process {
    for port in [8_080, 18_000, 18_001, 18_002] {
        wait_for("the demo's port is free", PORTS, || {
            TcpListener::bind(("127.0.0.1", port)).map(drop).map_err(|error| format!("{port}: {error}"))
        });
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("demo").arg("--dir").arg(dir).current_dir(home);
    let mut demo = Process::spawn("demo", dir, command);
    let log = dir.join("demo.log");
    demo.wait_for("the demo is up", UP, || match fs::read_to_string(&log) {
        Ok(text) if text.contains("Ctrl-C ends it") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    demo.wait_for("three proxies are in step", UP, || {
        let status = tidegate(&["proxy", "status"]).stdout;
        if status.matches("SYNCED").count() == 3 * 5 { Ok(()) } else { Err(status) }
    });
    demo.wait_for("the nearest core is found healthy", UP, || {
        let answer = run(home, "curl -s -H 'Host: hello.example' http://127.0.0.1:8080/");
        if answer.contains("from core1") { Ok(()) } else { Err(answer) }
    });
    demo
}

/// What a shell with the built binary on its PATH prints, both outputs in their order.
fn run(home: &Path, command: &str) -> String {
    let binaries = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap().to_owned();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = std::iter::once(binaries).chain(std::env::split_paths(&paths)).collect();
    let done = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{command}")])
        .env("PATH", std::env::join_paths(path).unwrap())
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The commands of the first ```console block: lines that begin with `$ `, each with the lines that follow it.
fn transcript(readme: &str) -> Vec<Step> {
    let block = readme.split("```console\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), output: String::new() }),
            (None, Some(step)) => step.output.extend([line, "\n"]),
            (None, None) => panic!("before the first command: {line}"),
        }
    }
    steps
}

/// Whether `got` is what the step shows: `…` stands for anything, within a line or for whole lines, and times and the
/// widths of columns may differ.
fn check(step: &Step, got: &str) -> Result<(), String> {
    let (wanted, found) = (plain(&step.output), plain(got));
    let pattern = wanted.split('…').map(regex::escape).collect::<Vec<_>>().join(".*");
    if Regex::new(&format!("(?s)^{pattern}$")).unwrap().is_match(&found) {
        return Ok(());
    }
    Err(format!("$ {}\n--- the page\n{wanted}--- printed\n{found}", step.command))
}

/// Without blank lines at the end, without trailing and repeated spaces inside lines; times become `0 ms` and `0s`.
fn plain(text: &str) -> String {
    let spaces = Regex::new(r"(\S)[ ]{2,}").unwrap();
    let times = Regex::new(r"\b\d+( ?)(ms|s)\b").unwrap();
    let lines = text.trim_end().lines().map(|line| {
        let line = spaces.replace_all(line.trim_end(), "$1 ").into_owned();
        times.replace_all(&line, "0$1$2").into_owned() + "\n"
    });
    lines.collect()
}

#[test]
fn a_page_that_says_something_else_is_found_out() {
    let page = "x\n```console\n$ a\none  two\n\n$ b\nlive in 12 ms\n…\nend\n```\nafter";
    let steps = transcript(page);
    assert_eq!(steps.len(), 2);
    assert_eq!((steps[0].command.as_str(), steps[0].output.as_str()), ("a", "one  two\n\n"));
    for (step, good, bad) in [
        (&steps[0], "one     two\n", "one three\n"),
        (&steps[1], "live in 7 ms\nx\ny\nend\n", "live in 7 ms\nx\ny\n"),
        (&steps[1], "live in 7 ms\nx\nend\n", "dead in 7 ms\nx\nend\n"),
    ] {
        assert_eq!(check(step, good), Ok(()));
        assert!(check(step, bad).is_err(), "{bad}");
    }
}
