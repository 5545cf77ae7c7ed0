//! A real etcd for tests: a child process on free ports over a directory of its own.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Etcd, EtcdConfig};
use crate::store::Store;

/// Ends with its handle.
pub(in crate::store) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
}

/// A port below those that the system gives to outgoing connections: one of these could take it while etcd restarts.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(15_000..32_000)).take(1000).find(free).expect("a free port")
}

impl Server {
    /// Starts one with nothing in it, and waits until it answers.
    pub(in crate::store) async fn start() -> Server {
        loop {
            let dir = tempfile::tempdir().unwrap();
            let (client_port, peer_port) = (free_port(), free_port());
            let child = spawn(&dir.path().join("data"), client_port, peer_port, None);
            let mut server = Server { child, dir, client_port, peer_port };
            if server.answers().await {
                return server;
            }
        }
    }

    /// Starts one that speaks TLS and takes clients with a certificate only. The PEMs: authority, certificate, key.
    pub(in crate::store) fn start_tls(pems: [&str; 3]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        for (name, pem) in ["ca", "cert", "key"].iter().zip(pems) {
            std::fs::write(dir.path().join(name), pem).unwrap();
        }
        let (client_port, peer_port) = (free_port(), free_port());
        let child = spawn(&dir.path().join("data"), client_port, peer_port, Some(dir.path()));
        Server { child, dir, client_port, peer_port }
    }

    pub(in crate::store) fn tls_endpoints(&self) -> Vec<String> {
        vec![format!("https://127.0.0.1:{}", self.client_port)]
    }

    /// A store over it with a connection of its own.
    pub(in crate::store) async fn store(&self) -> Arc<Etcd> {
        Etcd::connect(EtcdConfig { endpoints: self.endpoints(), ..EtcdConfig::default() }).await.unwrap()
    }

    pub(in crate::store) fn endpoints(&self) -> Vec<String> {
        vec![format!("http://127.0.0.1:{}", self.client_port)]
    }

    /// Waits until it answers; `false`: it has ended, since another program was faster to take its port.
    async fn answers(&mut self) -> bool {
        let store = self.store().await;
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(error) = store.get("/ready").await {
            assert!(Instant::now() < until, "etcd does not answer: {error}");
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            sleep(Duration::from_millis(50)).await;
        }
        true
    }

    /// As a crash does.
    pub(in crate::store) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, over the same data.
    pub(in crate::store) async fn start_again(&mut self) {
        self.start_again_unready();
        assert!(self.answers().await, "etcd ended at once");
    }

    /// The same without waiting, for one that only users may ask.
    pub(in crate::store) fn start_again_unready(&mut self) {
        self.child = spawn(&self.data(), self.client_port, self.peer_port, None);
    }

    pub(in crate::store) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `STOP` or `CONT`.
    pub(in crate::store) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
    }

    /// Copies its data, while it is killed.
    pub(in crate::store) fn copy_data(&self, to: &Path) {
        assert!(Command::new("cp").arg("-a").arg(self.data()).arg(to).status().unwrap().success());
    }

    pub(in crate::store) async fn compact(&self) {
        let store = self.store().await;
        let now = store.list("/ready").await.unwrap().revision;
        let revision = now.0.cast_signed();
        store.call(|client| async move { client.kv_client().compact(revision, None).await }).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(data: &Path, client_port: u16, peer_port: u16, tls: Option<&Path>) -> Child {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (client, peer) = (format!("{scheme}://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new("etcd");
    if let Some(dir) = tls {
        command.arg("--client-cert-auth");
        for (flag, name) in [("--trusted-ca-file", "ca"), ("--cert-file", "cert"), ("--key-file", "key")] {
            command.arg(flag).arg(dir.join(name));
        }
    }
    command
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "fatal"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd cannot be started; `make setup` installs it")
}
