//! A child process with a log file, which dies with its handle; and waiting for conditions with a deadline.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// A stopped process stands still after this, however busy the machine is.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// How much of a log a failure shows.
const TAIL_BYTES: usize = 6_000;

/// Looks every 20 ms until `probe` succeeds, and returns its value.
///
/// # Panics
/// After `limit`, with what was waited for and the last failure.
pub(crate) fn wait_for<T, E: Display>(what: &str, limit: Duration, probe: impl FnMut() -> Result<T, E>) -> T {
    try_wait_for(limit, probe).unwrap_or_else(|last| panic!("not within {limit:?}: {what}\nlast: {last}"))
}

fn try_wait_for<T, E: Display>(limit: Duration, mut probe: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let end = Instant::now() + limit;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= end => return Err(last),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// A running child in a process group of its own. Dropping it kills the whole group and reaps the child.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `<log_dir>/<name>.log`.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub(crate) fn spawn(name: &str, log_dir: &Path, mut command: Command) -> Self {
        let log = log_dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Waits as [`wait_for`] does, and fails at once when the process ends meanwhile; failures show the log's tail.
    pub(crate) fn wait_for<T, E: Display>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Result<T, E>,
    ) -> T {
        let outcome = try_wait_for(limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(Err(format!("it ended with {status}"))),
            _ => probe().map(Ok),
        });
        let failure = match outcome {
            Ok(Ok(value)) => return value,
            Ok(Err(ended)) => ended,
            Err(last) => format!("not within {limit:?}, last: {last}"),
        };
        panic!("{}: {what}: {failure}\n--- log\n{}", self.name, self.log_tail())
    }

    /// The end of what the process has written.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }

    /// All that the process has written.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The process id, for a look into /proc.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs (a stopped one counts as running).
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGSTOP: it keeps its sockets and does nothing. Waits until every thread stands still.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        wait_for(&format!("{} stands still", self.name), PAUSE_LIMIT, || {
            for task in fs::read_dir(&tasks)? {
                let stat = fs::read_to_string(task?.path().join("stat"))?;
                if !stat.contains(") T ") {
                    return Err(io::Error::other(stat));
                }
            }
            Ok(())
        });
    }

    /// SIGCONT, after [`Process::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Also after the child itself ended: its own children may still run.
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits until it has ended by itself.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let tail = self.log.clone();
        wait_for(&format!("{} ends after SIGTERM (log {})", self.name, tail.display()), limit, || {
            self.child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it still runs".to_owned())
        })
    }

    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        // The group may be gone already, which is what a kill wants.
        let _ = kill_process_group(group, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log_tail());
        }
        self.kill();
    }
}
