//! A process of a run: pinned to a core, read from `/proc`, ended by its id.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A core, as `taskset` counts.
#[derive(Clone, Copy, Debug)]
pub struct Core(pub usize);

/// Where servers run, and where the generator and everything else does.
pub const SERVER: Core = Core(0);
pub const LOAD: Core = Core(1);

/// Seconds of CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    pub fn since(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

/// A running process.
pub struct Process {
    pub child: Child,
    name: String,
}

impl Process {
    /// Starts `words` on `core` in `dir`, its standard error into `dir/NAME.log`.
    ///
    /// # Errors
    /// A program that is not there.
    pub fn start(name: &str, core: Core, dir: &Path, words: &[String]) -> Result<Self> {
        let log = File::create(dir.join(format!("{name}.log")))?;
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.0.to_string()).args(words).current_dir(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).env("NO_COLOR", "1");
        let child = command.spawn().with_context(|| format!("cannot start {words:?}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// What it says on standard output, line by line; once.
    ///
    /// # Errors
    /// They were asked for before.
    pub fn lines(&mut self) -> Result<Lines> {
        let output = self.child.stdout.take().context("no standard output")?;
        let (said, lines) = sync_channel(16);
        // Ends with the process, or with whoever listens.
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.take_while(|line| said.send(line.clone()).is_ok()).for_each(drop);
        });
        Ok(Lines { name: self.name.clone(), lines })
    }

    /// Ends it at once, as a crash does.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL);
        self.child.wait().with_context(|| format!("{} does not end", self.name))?;
        Ok(())
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path).with_context(|| format!("{} is gone ({path})", self.name))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> Result<Cpu> {
        let stat = self.proc("stat")?;
        let after = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
        let [user, system] = ticks.as_slice() else { anyhow::bail!("{}: no CPU in {stat:?}", self.name) };
        let hertz = rustix::param::clock_ticks_per_second() as f64;
        Ok(Cpu { user: user / hertz, system: system / hertz })
    }

    /// Resident bytes: now (`VmRSS`) or at most (`VmHWM`).
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("{}: no {field}", self.name))? << 10)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Lines of a process, none of which is waited for without end.
pub struct Lines {
    name: String,
    lines: Receiver<String>,
}

impl Lines {
    /// The next line.
    ///
    /// # Errors
    /// None came within `limit`, or the process has ended.
    pub fn next(&mut self, limit: Duration) -> Result<String> {
        let name = &self.name;
        self.lines.recv_timeout(limit).with_context(|| format!("{name} said nothing within {limit:?}, or has ended"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
