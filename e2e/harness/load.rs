//! Constant load, and a strict count of what went wrong.
//!
//! The rate holds whatever the answers do (as far as connections are free: an HTTP/1 connection carries one request at
//! a time and catches up afterwards). Nothing is retried. A connection that the server announced as closing
//! (`Connection: close`, GOAWAY) is replaced before the next request; so is one that was closed while idle, which is
//! counted apart. Failed is every non-2xx answer, reset and time-out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::client::SendError;
use super::{Connection, Request};

/// How many failures are kept in words.
const FAILURES_KEPT: usize = 20;

/// A request has this long, unless it says less or more itself.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// How often one request may find its connection closed before anything of it was sent.
const OPENINGS: usize = 3;

/// What to send, how often, and on how many connections.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    requests: Vec<Request>,
    per_second: u32,
    http1: u32,
    http2: u32,
    limit: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Requests with a 2xx answer, complete.
    pub(crate) ok: u64,
    /// All others.
    pub(crate) failed: u64,
    /// Connections that the server announced as closing, and which were replaced.
    pub(crate) closings: u64,
    /// Connections that were found closed without an announcement, before anything was sent on them.
    pub(crate) closed_idle: u64,
    /// How often each failure happened, the place in time left out.
    pub(crate) kinds: BTreeMap<String, u64>,
    /// The first failures in words, with the time since the start.
    pub(crate) failures: Vec<String>,
    /// When each failed request began, since the start.
    pub(crate) failed_at: Vec<Duration>,
    latencies: Vec<Duration>,
}

/// A load that runs until it is stopped, or dropped.
pub(crate) struct Running {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    report: Arc<Mutex<Report>>,
}

impl Load {
    /// These requests in turn, 200 a second on 4 HTTP/1 and 2 HTTP/2 connections.
    pub(crate) fn new(requests: impl IntoIterator<Item = Request>) -> Self {
        let requests: Vec<_> = requests.into_iter().collect();
        assert!(!requests.is_empty(), "a load needs a request");
        Self { requests, per_second: 200, http1: 4, http2: 2, limit: REQUEST_LIMIT }
    }

    /// Requests per second over all connections.
    pub(crate) fn per_second(mut self, rate: u32) -> Self {
        assert!(rate > 0, "a load has a rate");
        self.per_second = rate;
        self
    }

    /// How many keep-alive connections of each protocol share the load.
    pub(crate) fn connections(mut self, http1: u32, http2: u32) -> Self {
        assert!(http1 + http2 > 0, "a load needs a connection");
        (self.http1, self.http2) = (http1, http2);
        self
    }

    /// After this a request counts as failed. 10 s unless said otherwise.
    pub(crate) fn request_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it, on a thread of its own. One thread for all connections is also what makes [`SendError::NotSent`]
    /// exact: a GOAWAY cannot arrive between the look at a connection and the request on it.
    pub(crate) fn start(self) -> Running {
        let stop = CancellationToken::new();
        let report = Arc::new(Mutex::new(Report::default()));
        let (its_stop, its_report) = (stop.clone(), Arc::clone(&report));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(self.run(its_stop, its_report));
        });
        Running { stop, thread: Some(thread), report }
    }

    async fn run(self, stop: CancellationToken, report: Arc<Mutex<Report>>) {
        let (count, start, load) = (self.http1 + self.http2, Instant::now(), Arc::new(self));
        let mut workers = JoinSet::new();
        for number in 0..count {
            let mut worker = Worker {
                load: Arc::clone(&load),
                number,
                http2: number >= load.http1,
                start,
                report: Arc::clone(&report),
                connection: None,
            };
            let stop = stop.clone();
            workers.spawn(async move { worker.run(count, stop).await });
        }
        workers.join_all().await;
    }

    /// Runs it for a time.
    pub(crate) fn run_for(self, time: Duration) -> Report {
        let running = self.start();
        std::thread::sleep(time);
        running.stop()
    }
}

impl Running {
    /// The report so far.
    pub(crate) fn report(&self) -> Report {
        self.report.lock().unwrap().clone()
    }

    /// Sends nothing more, waits for the requests in flight, and reports.
    pub(crate) fn stop(mut self) -> Report {
        self.stop.cancel();
        let thread = self.thread.take().expect("only this takes it");
        thread.join().expect("a load does not panic");
        self.report()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The thread ends by itself, a request's time later at most.
        self.stop.cancel();
    }
}

impl Report {
    /// Requests sent.
    pub(crate) fn sent(&self) -> u64 {
        self.ok + self.failed
    }

    /// The latency below which a share of the answers came, `0.99` for p99. Failed requests count too.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank"
        )]
        let rank = (sorted.len() as f64 * share) as usize;
        sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// This report, of a load that must have gone through without one failure.
    ///
    /// # Panics
    /// When a request failed, or fewer than `at_least` were sent.
    pub(crate) fn flawless(self, at_least: u64) -> Self {
        assert_eq!(self.failed, 0, "of {} requests; {:#?}\n{:#?}", self.sent(), self.kinds, self.failures);
        assert!(self.ok >= at_least, "only {} requests, {at_least} expected", self.ok);
        self
    }

    fn record(&mut self, request: &Request, at: Duration, latency: Duration, outcome: Result<(), String>) {
        self.latencies.push(latency);
        let Err(failure) = outcome else {
            self.ok += 1;
            return;
        };
        self.failed += 1;
        self.failed_at.push(at);
        if self.failures.len() < FAILURES_KEPT {
            let protocol = if request.is_http2() { "HTTP/2" } else { "HTTP/1" };
            self.failures.push(format!("at {at:.1?}, {protocol} {}, after {latency:.1?}: {failure}", request.url()));
        }
        *self.kinds.entry(failure).or_default() += 1;
    }
}

struct Worker {
    load: Arc<Load>,
    number: u32,
    http2: bool,
    start: Instant,
    report: Arc<Mutex<Report>>,
    connection: Option<Connection>,
}

impl Worker {
    async fn run(&mut self, count: u32, stop: CancellationToken) {
        let period = Duration::from_secs(1) / self.load.per_second;
        let mut ticks = interval_at((self.start + period * self.number).into(), period * count);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut in_flight = JoinSet::new();
        let mut turn = self.number as usize;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let mut request = self.load.requests[turn % self.load.requests.len()].clone();
            turn += count as usize;
            if self.http2 {
                request = request.http2();
                self.send_beside(request, &mut in_flight).await;
            } else {
                self.send_alone(request).await;
            }
            while in_flight.try_join_next().is_some() {}
        }
        in_flight.join_all().await;
    }

    /// HTTP/1: one request at a time.
    async fn send_alone(&mut self, request: Request) {
        let began = Instant::now();
        let exchange = exchange(&mut self.connection, &request, &self.report);
        let outcome = tokio::time::timeout(self.load.limit, exchange).await.unwrap_or_else(|_| {
            self.connection = None;
            Err(format!("timed out after {:?}", self.load.limit))
        });
        self.report.lock().unwrap().record(&request, began - self.start, began.elapsed(), outcome);
    }

    /// HTTP/2: requests side by side on the connection that stands.
    async fn send_beside(&mut self, request: Request, in_flight: &mut JoinSet<()>) {
        let began = Instant::now();
        if let Some(connection) = &mut self.connection
            && !connection.is_usable().await
        {
            self.connection = None;
            self.report.lock().unwrap().closings += 1;
        }
        if self.connection.is_none() {
            self.connection = tokio::time::timeout(self.load.limit, Connection::open(&request))
                .await
                .unwrap_or_else(|_| Err("timed out connecting".to_owned()))
                .map_err(|failure| {
                    let (at, latency) = (began - self.start, began.elapsed());
                    self.report.lock().unwrap().record(&request, at, latency, Err(failure));
                })
                .ok();
        }
        let Some(connection) = &self.connection else { return };
        let mut own = connection.sibling();
        let (report, start, limit) = (Arc::clone(&self.report), self.start, self.load.limit);
        in_flight.spawn(async move {
            let exchange = exchange(&mut own, &request, &report);
            let outcome = tokio::time::timeout(limit, exchange)
                .await
                .unwrap_or_else(|_| Err(format!("timed out after {limit:?}")));
            report.lock().unwrap().record(&request, began - start, began.elapsed(), outcome);
        });
    }
}

/// Sends a request on the connection that stands, or on a new one where none does or where it was known to be closing
/// before anything was sent.
async fn exchange(slot: &mut Option<Connection>, request: &Request, report: &Mutex<Report>) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..OPENINGS {
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Connection::open(request).await?,
        };
        match connection.send(request).await {
            Ok(answer) => {
                if answer.announces_close() {
                    report.lock().unwrap().closings += 1;
                } else {
                    *slot = Some(connection);
                }
                if (200..300).contains(&answer.status) {
                    return Ok(());
                }
                let text: String = answer.text().chars().take(120).collect();
                return Err(format!("status {}: {text}", answer.status));
            }
            Err(SendError::Failed(failure)) => return Err(failure),
            Err(SendError::NotSent(reason)) => {
                report.lock().unwrap().closed_idle += 1;
                last = reason;
            }
        }
    }
    Err(format!("{OPENINGS} connections closed before the request: {last}"))
}
