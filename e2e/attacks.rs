//! Attacks on the xDS port: by peers that need no account, on connections, on HTTP/2, on messages; and by proxies that
//! have one, with what they ask, answer, report and do not read. Each test is one attack and what has to come of it;
//! after every one the port must still serve.

mod connections;
mod frames;
mod messages;
mod readers;
mod subscriptions;

use std::{
    fs,
    io::{ErrorKind, Read},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    harness::{Addresses, Tidegate},
    hostile::{Client, SITES},
};

/// What a shared machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(5);

/// A control plane with one core site and one service; plain, unless the flags say otherwise.
struct Target {
    control: Tidegate,
    _addresses: Addresses,
}

impl Target {
    fn start(flags: &[&str]) -> Self {
        let addresses = Addresses::next();
        let control = Tidegate::serve(addresses.take(), "memory", flags);
        control.apply(SITES, &[]).ok();
        Self { control, _addresses: addresses }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.control.xds()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    }

    /// A proxy connects and is served, soon.
    fn still_serves(&self, id: &str) {
        let begin = Instant::now();
        let mut client = Client::core(self.control.xds(), id);
        let served = client.within(SLACK);
        assert!(matches!(&served, Some(Ok(Some(response))) if !response.resources.is_empty()), "{served:?}");
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2) + SLACK, "a proxy waited for {took:?}");
    }

    /// Resident memory in KiB.
    fn memory(&mut self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.control.process().id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn open_files(&mut self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.control.process().id())).unwrap().count()
    }
}

/// Reads to the end of a connection, or until then: what came, and whether it ended.
fn rest(socket: &mut TcpStream, until: Instant) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (all, false);
        }
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.read(&mut buffer) {
            Ok(0) => return (all, true),
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return (all, false),
            // Reset: the other end closed with bytes of ours unread.
            Err(_) => return (all, true),
        }
    }
}
