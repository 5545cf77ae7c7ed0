//! A member of etcd on an address of its own, alone or of a cluster, driven with `etcdctl` as an operator would.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Addresses, Process, Request};

const START_LIMIT: Duration = Duration::from_secs(20);

/// An etcd server; its data outlive [`Etcd::stop`] and end with the value.
pub(crate) struct Etcd {
    process: Option<Process>,
    dir: TempDir,
    name: String,
    ip: Ipv4Addr,
    /// `NAME=PEER-URL` of every member, this one included.
    members: String,
    flags: Vec<String>,
    /// Of one that is alone; those of a cluster share a block.
    _addresses: Option<Addresses>,
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Etcd::start`], with further flags, such as `--quota-backend-bytes=…`.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let addresses = Addresses::next();
        let ip = addresses.take();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let members = format!("one={}", peer_url(ip));
        let mut etcd = Self { _addresses: Some(addresses), flags, ..Self::member("one", ip, members) };
        etcd.start_again();
        etcd
    }

    /// One of several members, not started yet.
    pub(super) fn member(name: &str, ip: Ipv4Addr, members: String) -> Self {
        let dir = TempDir::new().unwrap();
        Self { process: None, dir, name: name.to_owned(), ip, members, flags: Vec::new(), _addresses: None }
    }

    /// `http://IP:PORT` of the client port.
    pub(crate) fn url(&self) -> String {
        format!("http://{}:2379", self.ip)
    }

    /// Starts it on the same data and ports, after [`Etcd::stop`].
    pub(crate) fn start_again(&mut self) {
        self.start_unready();
        self.wait_healthy();
    }

    /// As [`Etcd::start_again`], but waits for nothing: without most of its cluster a member does not get healthy.
    pub(super) fn start_unready(&mut self) {
        let peer = peer_url(self.ip);
        let mut command = Command::new("etcd");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["--name", &self.name, "--log-level", "warn", "--logger", "zap", "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.members])
            .args(&self.flags);
        self.process = Some(Process::spawn("etcd", self.dir.path(), command));
    }

    pub(super) fn wait_healthy(&mut self) {
        let process = self.process.as_mut().expect("etcd was started");
        let health = Request::get(&format!("http://{}:2379/health", self.ip));
        process.wait_for("etcd is healthy", START_LIMIT, || {
            let answer = health.send()?;
            if answer.text().contains("true") { Ok(()) } else { Err(answer.text()) }
        });
    }

    /// `etcdctl snapshot save` to a new file; see [`Etcd::restore`].
    pub(crate) fn snapshot(&self, name: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        self.ctl(&["snapshot", "save", file.to_str().unwrap()]);
        file
    }

    /// Kills the server, puts a snapshot in place of its data, as an operator would after a loss, and starts it.
    pub(crate) fn restore(&mut self, snapshot: &Path) {
        self.stop();
        let data = self.dir.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        let peer = peer_url(self.ip);
        let (data, snapshot) = (data.to_str().unwrap(), snapshot.to_str().unwrap());
        self.ctl(
            &[
                &["snapshot", "restore", snapshot, "--data-dir", data, "--name", &self.name][..],
                &["--initial-cluster", &self.members, "--initial-advertise-peer-urls", &peer],
            ]
            .concat(),
        );
        self.start_again();
    }

    /// `etcdctl compact` at the newest revision.
    pub(crate) fn compact(&self) {
        let revision = self.status().unwrap()["header"]["revision"].as_i64().unwrap();
        self.ctl(&["compact", &revision.to_string()]);
    }

    /// What `etcdctl endpoint status` says of it.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn status(&self) -> Result<serde_json::Value, String> {
        let text = self.try_ctl(&["endpoint", "status", "--write-out=json"])?;
        let mut status: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        Ok(status[0]["Status"].take())
    }

    /// Kills the server; the data stay.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// The server's process: pause it, resume it.
    ///
    /// # Panics
    /// While it is stopped.
    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("etcd was stopped")
    }

    /// `etcdctl put KEY VALUE`.
    pub(crate) fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", "--", key, value]);
    }

    /// The value of a key, if it exists.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let output = self.ctl(&["get", "--print-value-only", key]);
        // An absent key prints nothing; an empty value prints its line end.
        output.strip_suffix('\n').map(str::to_owned)
    }

    /// All keys under a prefix, in order.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let output = self.ctl(&["get", "--prefix", "--keys-only", prefix]);
        output.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// `etcdctl del KEY`; whether the key existed.
    pub(crate) fn delete(&self, key: &str) -> bool {
        self.ctl(&["del", key]).trim() == "1"
    }

    /// Runs `etcdctl` with these arguments and returns its output.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    /// As [`Etcd::ctl`].
    ///
    /// # Errors
    /// What `etcdctl` says when it fails.
    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(), "--dial-timeout", "5s", "--command-timeout", "10s"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("etcdctl runs: scripts/setup.sh installs it");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

/// Where a member listens for the others.
pub(super) fn peer_url(ip: Ipv4Addr) -> String {
    format!("http://{ip}:2380")
}
