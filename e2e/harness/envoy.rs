//! A stock Envoy from `.tools/`, and its admin interface.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{Process, Request, Response};

const START_LIMIT: Duration = Duration::from_secs(30);

/// Where `scripts/setup.sh` puts Envoy.
const ENVOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/bin/envoy");

/// A running Envoy.
pub(crate) struct Envoy {
    process: Process,
    admin: SocketAddr,
    dir: TempDir,
    name: String,
    work_dir: PathBuf,
}

impl Envoy {
    /// Starts Envoy on a bootstrap and waits until its admin interface answers (not until it is ready). The bootstrap
    /// must have an admin address; port 0 will do. `work_dir` is where relative file names of the bootstrap and of
    /// compiled resources lead, such as `identity/identity.yaml`; `name` is that of the log only.
    pub(crate) fn start(name: &str, bootstrap: &str, work_dir: &Path) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("bootstrap.yaml"), bootstrap).unwrap();
        let (process, admin) = launch(name, dir.path(), work_dir);
        Self { process, admin, dir, name: name.to_owned(), work_dir: work_dir.to_owned() }
    }

    /// Kills it, if it runs, and starts it again on the same bootstrap: a proxy that has forgotten everything.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        (self.process, self.admin) = launch(&self.name, self.dir.path(), &self.work_dir);
    }

    /// Runs `envoy --mode validate` on a bootstrap.
    ///
    /// # Errors
    /// What Envoy says against it.
    pub(crate) fn validate(bootstrap: &Path, work_dir: &Path) -> Result<(), String> {
        let output = Command::new(ENVOY)
            .args(["--mode", "validate", "-l", "warning", "--disable-hot-restart", "-c"])
            .arg(bootstrap)
            .current_dir(work_dir)
            .output()
            .map_err(|error| format!("{ENVOY}: {error} (scripts/setup.sh fetches it)"))?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// The process: kill it, pause it, read its log.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where the admin interface listens.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// GET of an admin page, such as `/ready`.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub(crate) fn get(&self, path: &str) -> Result<Response, String> {
        Request::get(&format!("http://{}{path}", self.admin)).send()
    }

    /// POST to an admin page, such as `/logging?level=debug`.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub(crate) fn post(&self, path: &str) -> Result<Response, String> {
        Request::get(&format!("http://{}{path}", self.admin)).method("POST").send()
    }

    /// Waits until `/ready` says LIVE: the first listeners and clusters are there.
    pub(crate) fn wait_ready(&mut self, limit: Duration) {
        let ready = Request::get(&format!("http://{}/ready", self.admin));
        self.process.wait_for("Envoy is ready", limit, || match ready.send()? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(answer.text()),
        });
    }

    /// Counters and gauges whose names match a regular expression.
    pub(crate) fn stats(&self, filter: &str) -> BTreeMap<String, u64> {
        let page = self.get(&format!("/stats?filter={}", percent_encode(filter))).unwrap().text();
        let pairs = page.lines().filter_map(|line| line.rsplit_once(": "));
        pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// One counter or gauge; 0 when Envoy has not made it yet.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let exact = format!("^{}$", name.replace('.', "\\."));
        self.stats(&exact).get(name).copied().unwrap_or(0)
    }

    /// The configuration dump of a resource field, such as `dynamic_listeners`; empty for all, with assignments.
    pub(crate) fn config_dump(&self, resource: &str) -> Value {
        let query =
            if resource.is_empty() { "include_eds".to_owned() } else { format!("include_eds&resource={resource}") };
        self.get(&format!("/config_dump?{query}")).unwrap().json()
    }

    /// `/clusters`, as JSON: every host with its health flags and weight.
    pub(crate) fn clusters(&self) -> Value {
        self.get("/clusters?format=json").unwrap().json()
    }

    /// `/listeners`, as JSON: names and bound addresses.
    pub(crate) fn listeners(&self) -> Value {
        self.get("/listeners?format=json").unwrap().json()
    }
}

fn launch(name: &str, dir: &Path, work_dir: &Path) -> (Process, SocketAddr) {
    let admin_file = dir.join("admin");
    let _ = std::fs::remove_file(&admin_file);
    let mut command = Command::new(ENVOY);
    command
        .current_dir(work_dir)
        .arg("-c")
        .arg(dir.join("bootstrap.yaml"))
        .arg("--admin-address-path")
        .arg(&admin_file)
        // Without hot restart there is no shared memory, so that Envoys need no base ids of their own.
        .args(["--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "10", "-l", "warning"]);
    let mut process = Process::spawn(name, dir, command);
    let admin = process.wait_for("Envoy's admin interface answers", START_LIMIT, || {
        let text = std::fs::read_to_string(&admin_file).map_err(|error| error.to_string())?;
        let admin: SocketAddr = text.trim().parse().map_err(|error| format!("{text:?}: {error}"))?;
        Request::get(&format!("http://{admin}/server_info")).send().map(|_| admin)
    });
    (process, admin)
}

/// Escapes what a query must not carry as it is.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
