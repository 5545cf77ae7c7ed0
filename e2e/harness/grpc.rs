//! Stock gRPC from `.tools/`, in Python: services, and clients that reach them without a proxy.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{Process, RUNTIME, wait_for};

/// Python needs a while where many tests start.
const START_LIMIT: Duration = Duration::from_secs(60);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn python(script: &str) -> Command {
    let packages = fs::read_dir(Path::new(ROOT).join(".tools")).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        entry.file_name().to_str()?.starts_with("grpc-").then(|| entry.path())
    });
    let packages = packages.max().expect("scripts/setup.sh fetches gRPC into .tools/");
    let mut command = Command::new("python3");
    command.arg(Path::new(ROOT).join("e2e/grpc").join(script)).env("PYTHONPATH", packages);
    command
}

/// A running service `test.Echo`, which answers with its name.
pub(crate) struct GrpcService {
    process: Process,
    address: SocketAddr,
    _dir: TempDir,
}

impl GrpcService {
    /// Starts it, and waits until it listens; `tls` is its certificate and key, PEM.
    pub(crate) fn start(name: &str, address: impl Into<SocketAddr>, tls: Option<(&str, &str)>) -> Self {
        let (address, dir) = (address.into(), TempDir::new().unwrap());
        let mut command = python("service.py");
        command.args(["--name", name, "--address", &address.to_string()]);
        if let Some((cert, key)) = tls {
            for (flag, text) in [("--cert", cert), ("--key", key)] {
                let file = dir.path().join(flag.trim_start_matches('-'));
                fs::write(&file, text).unwrap();
                command.arg(flag).arg(file);
            }
        }
        let mut process = Process::spawn(name, dir.path(), command);
        process.wait_for("the service listens", START_LIMIT, || std::net::TcpStream::connect(address).map(drop));
        Self { process, address, _dir: dir }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process: kill it, pause it, read its log.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What a client has counted of one target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// Calls that went well.
    pub(crate) ok: u64,
    /// Calls that did not.
    pub(crate) failed: u64,
    /// The last failure, in gRPC's words.
    pub(crate) error: String,
    /// How many each server answered.
    pub(crate) servers: BTreeMap<String, u64>,
}

/// A client that calls each of its targets, `xds:///NAME`, over and over.
pub(crate) struct GrpcClient {
    process: Process,
    csds: SocketAddr,
    dir: TempDir,
}

impl GrpcClient {
    /// Starts it on a bootstrap; it calls without waiting for anything. `csds` is where it tells what it has.
    pub(crate) fn start(bootstrap: &str, csds: impl Into<SocketAddr>, targets: &[&str]) -> Self {
        Self::start_slow(bootstrap, csds, targets, Duration::from_millis(5))
    }

    /// As [`GrpcClient::start`], with a pause after each call of a target.
    pub(crate) fn start_slow(bootstrap: &str, csds: impl Into<SocketAddr>, targets: &[&str], pause: Duration) -> Self {
        let (csds, dir) = (csds.into(), TempDir::new().unwrap());
        fs::write(dir.path().join("bootstrap.json"), bootstrap).unwrap();
        let mut command = python("client.py");
        command.env("GRPC_XDS_BOOTSTRAP", dir.path().join("bootstrap.json")).current_dir(dir.path());
        command.args(["--csds", &csds.to_string(), "--counts", "counts.json"]);
        command.args(["--pause", &pause.as_secs_f64().to_string()]);
        command.args(targets.iter().map(|target| format!("xds:///{target}")));
        let mut process = Process::spawn("client", dir.path(), command);
        let counts = dir.path().join("counts.json");
        process.wait_for("the client runs", START_LIMIT, || fs::metadata(&counts).map(drop));
        Self { process, csds, dir }
    }

    /// What it has counted of a target so far.
    pub(crate) fn calls(&self, target: &str) -> Calls {
        let text = fs::read_to_string(self.dir.path().join("counts.json")).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        let counts = &all[format!("xds:///{target}")];
        let number = |value: &Value| value.as_u64().unwrap();
        let servers = counts["servers"].as_object().unwrap();
        Calls {
            ok: number(&counts["ok"]),
            failed: number(&counts["failed"]),
            error: counts["error"].as_str().unwrap().to_owned(),
            servers: servers.iter().map(|(name, count)| (name.clone(), number(count))).collect(),
        }
    }

    /// Waits until the calls of a target that are made from now on go well, and to these servers alone.
    pub(crate) fn wait_served_by(&self, target: &str, servers: &[&str], limit: Duration) {
        let mut before = self.calls(target);
        wait_for(&format!("{target} is served by {servers:?}"), limit, || {
            let now = self.calls(target);
            // Some calls each, so that one that was under way does not count.
            if now.failed == before.failed && now.ok < before.ok + 20 {
                return Err(format!("{now:?}"));
            }
            let grown = now.servers.iter().filter(|(name, count)| before.servers.get(*name) != Some(count));
            let grown: Vec<_> = grown.map(|(name, _)| name.as_str()).collect();
            let served = now.failed == before.failed && grown == servers;
            let told = format!("{before:?}\n{now:?}");
            before = now;
            if served { Ok(()) } else { Err(told) }
        });
    }

    /// What it says of itself by CSDS: one entry for each target.
    pub(crate) fn status(&self) -> Vec<ClientConfig> {
        RUNTIME.block_on(async {
            let channel = Channel::from_shared(format!("http://{}", self.csds)).unwrap().connect().await.unwrap();
            let mut csds = ClientStatusDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
            csds.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner().config
        })
    }

    /// The process: kill it, pause it, read its log.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
