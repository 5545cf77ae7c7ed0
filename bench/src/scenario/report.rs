//! The report: what was measured with what on which machine, as Markdown, and a chart beside it.

use std::{fmt::Write as _, fs, path::PathBuf, process::Command};

use anyhow::Result;

use super::{cell::Cell, chart, runs::Plan, server::Setup};

/// One scenario's figures.
pub struct Table {
    title: String,
    note: String,
    head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    pub remarks: Vec<String>,
    /// CPU per delivery of cells, for the chart.
    pub figures: Vec<(Cell, f64)>,
}

impl Table {
    pub fn new(title: &str, note: &str, head: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            note: note.to_owned(),
            head: head.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
            remarks: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Says what could not be measured, and why; the rest goes on.
    pub fn failed(&mut self, what: &str, error: &anyhow::Error) {
        let words: String = format!("{error:#}").chars().take(400).collect();
        eprintln!("{what}: {words}");
        self.remarks.push(format!("{what}: failed: {words}"));
    }

    pub fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n{}\n\n", self.title, self.note);
        let _ = writeln!(out, "| {} |", self.head.join(" | "));
        let _ = writeln!(out, "|{}", " --- |".repeat(self.head.len()));
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        out.push('\n');
        for remark in &self.remarks {
            let _ = writeln!(out, "- {remark}");
        }
        out
    }
}

/// The whole.
pub struct Report {
    head: String,
    tables: Vec<Table>,
    failed: Vec<String>,
    out: PathBuf,
}

fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let text = text.lines().next().unwrap_or_default().trim().to_owned();
    if text.is_empty() { format!("{program}: not there") } else { text }
}

fn line_of(file: &str, start: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(start));
    line.map(|rest| rest.trim_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
}

impl Report {
    pub fn new(plan: &Plan, setup: &Setup) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let mut head =
            String::from("# Benchmarks\n\nMade by `make bench`; what the words mean: [README.md](README.md).\n\n");
        let _ = writeln!(
            head,
            "- machine: {cores} × {}, Linux {}, {} of memory",
            line_of("/proc/cpuinfo", "model name"),
            said("uname", &["-r"]),
            line_of("/proc/meminfo", "MemTotal")
        );
        let _ = writeln!(
            head,
            "- load of the machine when this began (1, 5, 15 minutes): {}",
            said("cut", &["-d ", "-f1-3", "/proc/loadavg"])
        );
        let _ = writeln!(
            head,
            "- tidegate: {}, commit {}",
            said(&setup.tidegate.display().to_string(), &["--version"]),
            said("git", &["describe", "--always", "--dirty"])
        );
        let _ = writeln!(head, "- {}; {}", said("rustc", &["--version"]), said("etcd", &["--version"]));
        let go = if setup.go.is_some() {
            said("go", &["version"])
        } else {
            "Go is missing: its peer was skipped".to_owned()
        };
        let _ = writeln!(head, "- {go}; go-control-plane v0.14.0, GOGC default, GOMAXPROCS 1 by its one core");
        let rust = if setup.rust.is_some() { "rust-control-plane 0.1.2" } else { "rust-control-plane was skipped" };
        let _ = writeln!(head, "- {rust}");
        let only = plan.only.as_ref().map(|only| format!(" BENCH={only}")).unwrap_or_default();
        let _ = writeln!(head, "- command: `make bench{only} SCALE={} RUNS={}`", plan.scale, plan.runs);
        head.push_str("- server on core 0, generator, etcd and the scenario itself on core 1, plain text where it does not say TLS, a connection per client, \
                       loopback; medians, in parentheses least and most\n\n");
        Self { head, tables: Vec::new(), failed: Vec::new(), out: plan.out.clone() }
    }

    pub fn add(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub fn failed(&mut self, name: &str, why: &str) {
        self.failed.push(format!("## {name}\n\nfailed: {why}\n"));
    }

    /// `report.md` and `report.svg`.
    ///
    /// # Errors
    /// Of the files.
    pub fn write(&self) -> Result<()> {
        let mut text = self.head.clone();
        let figures: Vec<_> = self.tables.iter().flat_map(|table| table.figures.iter().copied()).collect();
        if !figures.is_empty() {
            text.push_str("![CPU per delivery](report.svg)\n\n");
            fs::write(self.out.join("report.svg"), chart::bars(&figures))?;
        }
        let parts: Vec<String> = self.tables.iter().map(Table::markdown).chain(self.failed.iter().cloned()).collect();
        text.push_str(&parts.join("\n"));
        fs::write(self.out.join("report.md"), text)?;
        eprintln!("{}", self.out.join("report.md").display());
        Ok(())
    }
}
