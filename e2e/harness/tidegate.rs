//! The built binary: as a control plane, and as the command line that a person uses.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Process, Request};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const READY_LIMIT: Duration = Duration::from_secs(20);

/// What a command line came to.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit code; -1 when a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// This output, of a command that must have succeeded.
    ///
    /// # Panics
    /// When the exit code is not 0.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

/// Runs `tidegate ARGUMENTS` to its end.
pub(crate) fn tidegate(arguments: &[&str]) -> Output {
    run(arguments, "")
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that does not read its input has closed the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running control plane.
pub(crate) struct Tidegate {
    process: Process,
    dir: TempDir,
    ip: Ipv4Addr,
    arguments: Vec<String>,
}

impl Tidegate {
    /// Starts `tidegate serve` with the usual ports on an address, and waits until `/readyz` says 200. `store` is
    /// `memory`, `embedded:PATH` or `etcd:URL`; `more` are further flags, such as `--xds-cert`.
    pub(crate) fn serve(ip: Ipv4Addr, store: &str, more: &[&str]) -> Self {
        let mut tidegate = Self::serve_unready(ip, store, more);
        tidegate.wait_ready(READY_LIMIT);
        tidegate
    }

    /// As [`Tidegate::serve`], but waits for nothing: for a control plane that cannot become ready yet.
    pub(crate) fn serve_unready(ip: Ipv4Addr, store: &str, more: &[&str]) -> Self {
        let mut arguments = vec!["serve".to_owned(), "--store".to_owned(), store.to_owned()];
        for (flag, port) in [("--xds-listen", 18_000), ("--api-listen", 18_001), ("--http-listen", 18_002)] {
            arguments.extend([flag.to_owned(), SocketAddr::from((ip, port)).to_string()]);
        }
        arguments.extend(more.iter().map(|&flag| flag.to_owned()));
        let dir = TempDir::new().unwrap();
        let process = spawn(&arguments, dir.path());
        Self { process, dir, ip, arguments }
    }

    /// Where Envoys connect.
    pub(crate) fn xds(&self) -> SocketAddr {
        (self.ip, 18_000).into()
    }

    /// Where operators connect, `http://IP:PORT`.
    pub(crate) fn api(&self) -> String {
        format!("http://{}:18001", self.ip)
    }

    /// A page of the plain HTTP port, such as `/readyz?verbose` or `/metrics`: its status and text.
    ///
    /// # Errors
    /// When the port does not answer.
    pub(crate) fn page(&self, path: &str) -> Result<(u16, String), String> {
        let answer = Request::get(&format!("http://{}:18002{path}", self.ip)).send()?;
        Ok((answer.status, answer.text()))
    }

    /// Waits until `/readyz` says 200.
    pub(crate) fn wait_ready(&mut self, limit: Duration) {
        let ready = Request::get(&format!("http://{}:18002/readyz", self.ip));
        self.process.wait_for("the control plane is ready", limit, || match ready.send()? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("{} {}", answer.status, answer.text())),
        });
    }

    /// Runs a command line against this control plane.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "")
    }

    /// Applies manifests: `apply -f - FLAGS`.
    pub(crate) fn apply(&self, manifests: &str, flags: &[&str]) -> Output {
        self.run_with_input(&[&["apply", "-f", "-"], flags].concat(), manifests)
    }

    /// As [`Tidegate::run`], with text on standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let api = self.api();
        run(&[&["--server", api.as_str()], arguments].concat(), input)
    }

    /// The process: kill it, pause it, resume it, read its log.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it, if it runs, starts it again with the same flags and data, and waits until it is ready.
    pub(crate) fn restart(&mut self) {
        self.restart_unready();
        self.wait_ready(READY_LIMIT);
    }

    /// As [`Tidegate::restart`], but waits for nothing.
    pub(crate) fn restart_unready(&mut self) {
        self.process.kill();
        self.process = spawn(&self.arguments, self.dir.path());
    }

    /// Where its data are.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("tidegate-data")
    }
}

fn spawn(arguments: &[String], dir: &Path) -> Process {
    let mut command = Command::new(BINARY);
    command.args(arguments).env("NO_COLOR", "1").current_dir(dir);
    Process::spawn("tidegate", dir, command)
}
