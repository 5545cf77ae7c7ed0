//! Attack 22: proxies that ask and do not read.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{
    SLACK, Target,
    frames::{END_HEADERS, HEADERS, SETTINGS, ads, frame},
    messages::{message, request_of},
};
use crate::{
    harness::wait_for,
    hostile::{Client, comes, served},
    world::Machine,
};

/// They never read.
const STUCK: usize = 1_000;
/// What each may cost in memory, KiB; a debug build's.
const EACH_MAX: u64 = 256;
/// A connection that does not answer for so long is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(40);
/// Changes that nobody of them reads.
const CHANGES: usize = 20;

/// A stream whose client gives no window, and reads nothing of its socket.
fn stuck(target: &Target, number: usize) -> TcpStream {
    let mut socket = target.connect();
    let first = message(&request_of(&format!("stuck-{number}")));
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    bytes.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &ads()));
    bytes.extend(frame(0, 0, 1, &first));
    socket.write_all(&bytes).unwrap();
    socket
}

/// Streams that ask for clusters, by the metrics.
fn streams(target: &Target) -> Result<f64, String> {
    let (_, page) = target.control.page("/metrics")?;
    let clusters = page.lines().filter(|line| line.starts_with("tidegate_proxies{") && line.contains("CDS"));
    Ok(clusters.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

#[test]
fn a_thousand_proxies_that_never_read_cost_little_delay_nobody_and_are_let_go() {
    let _machine = Machine::shared();
    let mut target = Target::start(&["--max-connections-per-address", "2000"]);
    let mut healthy = Client::core(target.control.xds(), "healthy");
    comes(&mut healthy, "shop/first:80");
    let before = target.memory();
    let readers: Vec<_> = (0..STUCK).map(|number| stuck(&target, number)).collect();
    wait_for("all of them are streams", 4 * SLACK, || match streams(&target)? {
        count if count > STUCK as f64 => Ok(()),
        count => Err(format!("{count} streams")),
    });
    let mut slowest = Duration::ZERO;
    for change in 0..CHANGES {
        let begin = Instant::now();
        target.control.apply(&served(&format!("n{change}")), &[]).ok();
        comes(&mut healthy, &format!("shop/n{change}:80"));
        slowest = slowest.max(begin.elapsed());
    }
    assert!(slowest < SLACK, "a change took {slowest:?} to a proxy that reads");
    let each = target.memory().saturating_sub(before) / STUCK as u64;
    assert!(each <= EACH_MAX, "{each} KiB each");
    // They do not answer whether they are still there either: their connections are as good as half-open.
    wait_for("they are let go", KEEP_ALIVE + 4 * SLACK, || match streams(&target)? {
        count if count <= 1.0 => Ok(()),
        count => Err(format!("{count} streams")),
    });
    drop(readers);
}
