//! A server under measurement: how it starts, and how it is told to change a resource.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ChildStdout,
};

use anyhow::{Context, Result, ensure};

use super::{
    generator::beside,
    process::{Process, SERVER},
    tidegate::{Driver, Etcd},
};

/// Whom we measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Tidegate,
    /// Tidegate, with etcd as its store and `etcdctl put` as the change.
    TidegateEtcd,
    Floor,
    Naive,
    Baseline,
    GoLinear,
    GoSnapshot,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::TidegateEtcd => "tidegate+etcd",
            Self::Floor => "floor",
            Self::Naive => "naive",
            Self::Baseline => "baseline",
            Self::GoLinear => "go linear",
            Self::GoSnapshot => "go snapshot",
        }
    }

    fn ours(self) -> bool {
        matches!(self, Self::Tidegate | Self::TidegateEtcd)
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
}

impl Setup {
    /// The file with the resources that all servers serve, `count` of each type.
    pub fn resources(&self, count: usize) -> PathBuf {
        self.dir.join(format!("resources-{count}.bin"))
    }
}

enum Hand {
    /// Lines on standard input, answered by lines.
    Lines(BufReader<ChildStdout>),
    Tidegate(Box<Driver>),
}

/// A running server.
pub struct Server {
    pub process: Process,
    pub xds: SocketAddr,
    hand: Hand,
    _etcd: Option<Etcd>,
}

impl Server {
    /// Starts it with `count` resources of each type, and waits until it serves.
    ///
    /// # Errors
    /// In words.
    pub fn start(kind: Kind, setup: &Setup, count: usize) -> Result<Self> {
        let xds = free_port()?;
        if kind.ours() {
            return Self::start_tidegate(kind, setup, count, xds);
        }
        let (program, mode) = match kind {
            Kind::GoLinear | Kind::GoSnapshot => {
                let program = setup.go.as_ref().context("there is no Go peer")?.display().to_string();
                (program, if kind == Kind::GoLinear { "linear" } else { "snapshot" })
            }
            _ => (beside("xds-reference")?, kind.name()),
        };
        let file = setup.resources(count).display().to_string();
        let words = [program, mode.to_owned(), xds.to_string(), file];
        let mut process = Process::start(&kind.name().replace(' ', "-"), SERVER, &setup.dir, &words)?;
        let mut lines = BufReader::new(process.child.stdout.take().context("no standard output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "{} does not start: {line:?}", kind.name());
        Ok(Self { process, xds, hand: Hand::Lines(lines), _etcd: None })
    }

    fn start_tidegate(kind: Kind, setup: &Setup, count: usize, xds: SocketAddr) -> Result<Self> {
        let (api, http) = (free_port()?, free_port()?);
        let etcd = (kind == Kind::TidegateEtcd).then(|| Etcd::start(&setup.dir)).transpose()?;
        let store = etcd.as_ref().map_or("memory".to_owned(), |etcd| format!("etcd:{}", etcd.url));
        // All connections come from one address.
        let caps = ["--max-connections", "30000", "--max-connections-per-address", "30000"];
        let flags = ["--log-level", "warn", "serve", "--store", &store].into_iter().chain(caps).map(str::to_owned);
        let ports = [("--xds-listen", xds), ("--api-listen", api), ("--http-listen", http)];
        let ports = ports.iter().flat_map(|(flag, at)| [(*flag).to_owned(), at.to_string()]);
        let words: Vec<String> = [setup.tidegate.display().to_string()].into_iter().chain(flags).chain(ports).collect();
        let process = Process::start("tidegate", SERVER, &setup.dir, &words)?;
        let mut driver = Driver::connect(api, http, etcd.as_ref().map(|etcd| etcd.url.clone()))?;
        driver.load(count)?;
        Ok(Self { process, xds, hand: Hand::Tidegate(Box::new(driver)), _etcd: etcd })
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
                let mut line = String::new();
                lines.read_line(&mut line)?;
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

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The folder of a run, made.
///
/// # Errors
/// Of the file system.
pub fn folder(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.canonicalize()?)
}
