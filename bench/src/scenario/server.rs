//! A server under measurement: how it starts, and how it is told to change a resource.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    etcd::Etcd,
    generator::beside,
    process::{LOAD, Lines, Process, SERVER, free_port, wait_for},
    tidegate::{Driver, page},
};

/// Whom we measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Tidegate,
    /// Tidegate, by mutual TLS.
    TidegateTls,
    /// Tidegate, with etcd as its store and `etcdctl put` as the change.
    TidegateEtcd,
    Floor,
    Naive,
    Baseline,
    GoLinear,
    GoSnapshot,
    /// Tidegate, to clients in state of the world.
    TidegateSotw,
    /// go-control-plane's snapshot cache, to clients in state of the world.
    GoSnapshotSotw,
    /// In state of the world: its releases know no other.
    RustControlPlane,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::TidegateTls => "tidegate, TLS",
            Self::TidegateEtcd => "tidegate+etcd",
            Self::Floor => "floor",
            Self::Naive => "naive",
            Self::Baseline => "baseline",
            Self::GoLinear => "go linear",
            Self::GoSnapshot => "go snapshot",
            Self::TidegateSotw => "tidegate, SotW",
            Self::GoSnapshotSotw => "go snapshot, SotW",
            Self::RustControlPlane => "rust-control-plane, SotW",
        }
    }

    fn ours(self) -> bool {
        matches!(self, Self::Tidegate | Self::TidegateTls | Self::TidegateEtcd | Self::TidegateSotw)
    }

    /// Its clients speak state of the world.
    pub fn sotw(self) -> bool {
        matches!(self, Self::TidegateSotw | Self::GoSnapshotSotw | Self::RustControlPlane)
    }
}

/// Which resource type changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Cluster,
    Endpoints,
}

/// What all servers of a run are started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For logs and files.
    pub dir: PathBuf,
    /// The `tidegate` binary.
    pub tidegate: PathBuf,
    /// The Go peer's binary, where there is Go.
    pub go: Option<PathBuf>,
    /// The binary of rust-control-plane's peer, where that could be built.
    pub rust: Option<PathBuf>,
}

impl Setup {
    /// The file with the resources that all servers serve, `count` of each type.
    pub fn resources(&self, count: usize) -> PathBuf {
        self.dir.join(format!("resources-{count}.bin"))
    }
}

/// For a reference or a peer to make a change.
const LIMIT: Duration = Duration::from_secs(60);

enum Hand {
    /// Lines on standard input, answered by lines.
    Lines(Lines),
    Tidegate(Box<Driver>),
}

/// A replica of Tidegate that was started, and where it listens.
pub struct Started {
    pub process: Process,
    pub xds: SocketAddr,
    pub api: SocketAddr,
    pub http: SocketAddr,
}

impl Started {
    /// Starts it; it need not be ready yet.
    ///
    /// # Errors
    /// In words.
    pub fn new(setup: &Setup, name: &str, store: &str, certificates: Option<&Path>) -> Result<Self> {
        let (xds, api, http) = (free_port()?, free_port()?, free_port()?);
        // It starts without a memory: one that knows the etcd of an earlier cell takes nothing from another one.
        let data = setup.dir.join(format!("{name}-data"));
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let mut words = vec![setup.tidegate.display().to_string()];
        let flags = ["--log-level", "warn", "serve", "--replica", name, "--store", store, "--max-connections", "30000"];
        words.extend(flags.map(str::to_owned));
        words.extend(["--data-dir".to_owned(), data.display().to_string()]);
        for (flag, at) in [("--xds-listen", xds), ("--api-listen", api), ("--http-listen", http)] {
            words.extend([flag.to_owned(), at.to_string()]);
        }
        if let Some(dir) = certificates {
            let own = dir.join("control-plane/cp1");
            let files = [("cert", own.join("tls.crt")), ("key", own.join("tls.key")), ("ca", dir.join("ca.crt"))];
            words.extend(files.iter().flat_map(|(what, at)| [format!("--xds-{what}"), at.display().to_string()]));
        }
        let process = Process::start(name, SERVER, &setup.dir, &words)?;
        Ok(Self { process, xds, api, http })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It does not get ready in time, or has ended: with its last words.
    pub fn wait_ready(&mut self) -> Result<()> {
        wait_for("tidegate is ready", || {
            self.process.alive()?;
            Ok(page(self.http, "/readyz").is_ok_and(|text| text.starts_with("HTTP/1.1 200")))
        })
    }
}

/// The folder of the run's certificates, made by Tidegate itself.
///
/// # Errors
/// In its words.
pub fn certificates(setup: &Setup) -> Result<PathBuf> {
    let dir = setup.dir.join("certs");
    let made = Command::new(&setup.tidegate)
        .arg("dev-certs")
        .arg(&dir)
        .args(["--site", "core1:core", "--control-plane", "cp1"])
        .output()?;
    ensure!(made.status.success(), "dev-certs: {}", String::from_utf8_lossy(&made.stderr));
    Ok(dir)
}

/// A running server.
pub struct Server {
    pub process: Process,
    pub xds: SocketAddr,
    /// The folder of the clients' certificate.
    pub tls: Option<PathBuf>,
    hand: Hand,
    _etcd: Option<Etcd>,
}

impl Server {
    /// Starts it with `count` resources of each type, and waits until it serves.
    ///
    /// # Errors
    /// In words.
    pub fn start(kind: Kind, setup: &Setup, count: usize) -> Result<Self> {
        if kind.ours() {
            return Self::start_tidegate(kind, setup, count);
        }
        let xds = free_port()?;
        let (program, mode) = match kind {
            Kind::RustControlPlane => {
                let program = setup.rust.as_ref().context("there is no peer with rust-control-plane")?;
                (program.display().to_string(), "snapshot")
            }
            Kind::GoLinear | Kind::GoSnapshot | Kind::GoSnapshotSotw => {
                let program = setup.go.as_ref().context("there is no Go peer")?.display().to_string();
                (program, if kind == Kind::GoLinear { "linear" } else { "snapshot" })
            }
            _ => (beside("xds-reference")?, kind.name()),
        };
        let file = setup.resources(count).display().to_string();
        let words = [program, mode.to_owned(), xds.to_string(), file];
        let mut process =
            Process::start(&kind.name().replace(", ", "-").replace(' ', "-"), SERVER, &setup.dir, &words)?;
        let mut lines = process.lines()?;
        let line = lines.next(LIMIT)?;
        ensure!(line.trim() == "ready", "{} does not start: {line:?}", kind.name());
        Ok(Self { process, xds, tls: None, hand: Hand::Lines(lines), _etcd: None })
    }

    fn start_tidegate(kind: Kind, setup: &Setup, count: usize) -> Result<Self> {
        let etcd = (kind == Kind::TidegateEtcd).then(|| Etcd::start(LOAD, &setup.dir)).transpose()?;
        let store = etcd.as_ref().map_or("memory".to_owned(), |etcd| format!("etcd:{}", etcd.url));
        let certificates = (kind == Kind::TidegateTls).then(|| certificates(setup)).transpose()?;
        let mut started = Started::new(setup, "tidegate", &store, certificates.as_deref())?;
        started.wait_ready()?;
        let mut driver = Driver::connect(started.api, etcd.as_ref().map(|etcd| etcd.url.clone()))?;
        driver.load(count)?;
        let tls = certificates.map(|dir| dir.join("core/core1"));
        Ok(Self {
            process: started.process,
            xds: started.xds,
            tls,
            hand: Hand::Tidegate(Box::new(driver)),
            _etcd: etcd,
        })
    }

    /// Stamps resource number `index` and publishes it; returns when that has been taken.
    ///
    /// # Errors
    /// In words.
    pub fn change(&mut self, change: Change, index: usize) -> Result<()> {
        match &mut self.hand {
            Hand::Tidegate(driver) => driver.change(change, index),
            Hand::Lines(lines) => {
                let stdin = self.process.child.stdin.as_mut().context("no standard input")?;
                let kind = if change == Change::Cluster { "cds" } else { "eds" };
                writeln!(stdin, "{kind} {index}")?;
                let line = lines.next(LIMIT)?;
                ensure!(line.trim() == "done", "the server says {line:?}");
                Ok(())
            }
        }
    }

    /// The name of resource number `index`.
    pub fn resource(index: usize) -> String {
        format!("bench/s{index:05}:80")
    }
}

/// The folder of a run, made.
///
/// # Errors
/// Of the file system.
pub fn folder(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.canonicalize()?)
}
