//! A process of a run: pinned to a core, read from `/proc`, ended by its id.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};

/// A core, as `taskset` counts.
#[derive(Clone, Copy, Debug)]
pub struct Core(pub usize);

/// Where servers run, and where the generator and everything else does.
pub const SERVER: Core = Core(0);
pub const LOAD: Core = Core(1);

/// Ports of servers: below those that the kernel gives to connections, each of which stays taken for a minute after its
/// end. Where clients had left but one free, a server was told to listen at it three times over, and ended.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port that is free, another one at each call.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Runs beside each other begin elsewhere.
    let begin = (std::process::id() % 100) as u16 * 100;
    for _ in PORTS {
        let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.end.abs_diff(PORTS.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + offset));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// Keeps the calling thread, and those that it starts, on a core.
///
/// # Errors
/// There is no such core.
pub fn stay_on(core: Core) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core.0);
    sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {}", core.0))
}

/// Waits for what `ready` says.
///
/// # Errors
/// It is not so within 30 s, or cannot be so any more.
pub fn wait_for(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if ready().with_context(|| format!("waited in vain: {what}"))? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("waited 30 s in vain: {what}")
}

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
    log: PathBuf,
}

impl Process {
    /// Starts `words` on `core` in `dir`, its standard error into `dir/NAME.log`.
    ///
    /// # Errors
    /// A program that is not there.
    pub fn start(name: &str, core: Core, dir: &Path, words: &[String]) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let errors = File::create(&log)?;
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.0.to_string()).args(words).current_dir(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).env("NO_COLOR", "1");
        let child = command.spawn().with_context(|| format!("cannot start {words:?}"))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Fails, with its last words, once it has ended.
    ///
    /// # Errors
    /// It has.
    pub fn alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        bail!("{} has ended ({status}): {}", self.name, log.lines().last().unwrap_or("without a word"))
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

    fn signal(&mut self, signal: Signal) {
        // Once it has been waited for, its id may be another's.
        if let Ok(None) = self.child.try_wait()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once() {
        let ports: Vec<u16> = (0..50).map(|_| free_port().unwrap().port()).collect();
        assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), ports.len());
    }

    #[test]
    fn who_waits_for_a_process_that_has_ended_is_told_why() {
        let dir = std::env::temp_dir();
        let words = ["sh", "-c", "echo the port is taken >&2; exit 3"].map(str::to_owned);
        let name = format!("tidegate-bench-{}", std::process::id());
        let mut process = Process::start(&name, Core(0), &dir, &words).unwrap();
        let error = wait_for("it is ready", || process.alive().map(|()| false)).unwrap_err();
        let words = format!("{error:#}");
        assert!(words.contains("it is ready") && words.contains("exit status: 3): the port is taken"), "{words}");
        std::fs::remove_file(dir.join(format!("{name}.log"))).unwrap();
    }
}
