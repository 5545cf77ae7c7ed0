//! What services share lets none harm another: one misbehaves in every way that was seen to hurt (O35–O42), beside
//! the steady load of another at the same core, over the same group.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use tokio::task::JoinSet;

use crate::{
    harness::{Backend, Link, Load, Report, Request, Running, wait_for},
    world::{SOON, World, route_yaml, service_yaml},
};

/// How long each misbehaviour lasts.
const PHASE: Duration = Duration::from_secs(20);
/// Concurrent requests of the service that misbehaves.
const CROWD: usize = 50;
/// Requests a second of the service beside it.
const RATE: u32 = 200;
/// Slow ones among them, a second: 20 are in flight.
const SLOW_RATE: u32 = 2;
/// The throttled link, bytes a second.
const LINK_RATE: u64 = 30_000_000;
/// Downloads over it.
const DOWNLOADS: usize = 200;

/// Every `x-envoy-*` response header that an Envoy acts on or sets.
const ENVOY_HEADERS: [&str; 15] = [
    "x-envoy-attempt-count",
    "x-envoy-canary",
    "x-envoy-decorator-operation",
    "x-envoy-degraded",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-is-timeout-retry",
    "x-envoy-local-overloaded",
    "x-envoy-overloaded",
    "x-envoy-protocol-version",
    "x-envoy-ratelimited",
    "x-envoy-retriable-status-codes",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-canary",
    "x-envoy-upstream-healthchecked-cluster",
    "x-envoy-upstream-service-time",
];

/// What came of the crowd's requests, and how often.
type Outcomes = BTreeMap<String, u64>;

#[test]
fn no_service_harms_another() {
    let world = World::start_alone("memory");
    let (wild, calm) = (world.backend("wild"), world.backend("calm"));
    let rules = "
  - {matches: [{path: {type: PathPrefix, value: /short}}], timeouts: {request: 300ms}, backendRefs: [{name: wild, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /impatient}}], timeouts: {backendRequest: 300ms}, backendRefs: [{name: wild, port: 80}]}
  - {backendRefs: [{name: wild, port: 80}]}
";
    let to = |name: &str| format!("[{{backendRefs: [{{name: {name}, port: 80}}]}}]");
    world.apply(
        &(service_yaml("wild", "", &[("core1", &wild)])
            + &service_yaml("calm", "", &[("core1", &calm)])
            + &service_yaml("api", ", trafficClass: API", &[("core1", &calm)])
            + &route_yaml("wild", "wild.example", rules)
            + &route_yaml("calm", "calm.example", &to("calm"))
            + &route_yaml("api", "api.example", &to("api"))),
    );
    let beside = Beside::start(&world, "calm.example");

    // First of all: an Envoy closes a connection most of whose streams, since it stands, were reset early (O41).
    let request = world.request("wild.example", "/?delay=2000").within(Duration::from_millis(100));
    let http2 = request.clone().http2();
    let outcomes = crowd(CROWD, move |n| answer(if n % 2 == 0 { request.clone() } else { http2.clone() }));
    beside.unharmed("clients that cancel", &outcomes, |outcome| outcome.contains("timed out"));

    let requests = ["/short?delay=2000", "/impatient?delay=2000"].map(|path| world.request("wild.example", path));
    let outcomes = crowd(CROWD, move |number| answer(requests[number % 2].clone()));
    beside.unharmed("time-outs of 0.3 s", &outcomes, |outcome| outcome == "504");

    let request = world.request("wild.example", "/?status=503&delay=100");
    let outcomes = crowd(CROWD, move |_| answer(request.clone()));
    beside.unharmed("only 503s", &outcomes, |outcome| outcome == "503");

    let forged: Vec<_> = ENVOY_HEADERS.iter().map(|name| format!("forge={name}:true")).collect();
    wild.always(&forged.join("&"));
    let request = world.request("wild.example", "/?delay=100");
    let outcomes = crowd(CROWD, move |_| answer(request.clone()));
    wild.always("");
    beside.unharmed("every x-envoy response header", &outcomes, |outcome| outcome == "200");

    let request = with_99_headers(&world, &wild);
    let outcomes = crowd(CROWD, move |_| answer(request.clone()));
    beside.unharmed("99 headers", &outcomes, |outcome| outcome == "200");

    let request = world.request("wild.example", "/?bytes=100000000&chunk=65536");
    let outcomes = crowd(CROWD, move |_| stop_reading(request.clone()));
    beside.unharmed("clients that stop reading", &outcomes, |outcome| outcome == "200, read no further");
    beside.end();

    downloads_leave_interactive_requests_alone(&world);
}

/// The last misbehaviour: a link full of downloads, beside a service of an interactive class.
fn downloads_leave_interactive_requests_alone(world: &World) {
    let core = world.core_ips[0];
    let link = Link::between((world.addresses.take(), 15443), (core, 15443));
    link.throttle(LINK_RATE);
    world.apply(&format!(
        "apiVersion: tidegate.dev/v1alpha1
kind: Site
metadata: {{name: core1}}
spec: {{role: core, region: eu1, coordinates: {{latitude: 50.1, longitude: 18.7}}, bindAddress: {core},
  gateways: ['{}']}}
",
        link.address()
    ));
    wait_for("requests go over the link", SOON, || {
        let before = link.bytes().0;
        let answer = world.get("api.example", "/?bytes=20000");
        if answer.status == 200 && link.bytes().0 > before { Ok(()) } else { Err(answer.status) }
    });
    let beside = Beside::start(world, "api.example");
    let before = link.bytes().1;
    let request = world.request("wild.example", "/?bytes=1000000000&chunk=65536");
    let outcomes = crowd(DOWNLOADS, move |_| download(request.clone()));
    let rate = (link.bytes().1 - before) / PHASE.as_secs();
    beside.unharmed("downloads over a narrow link", &outcomes, |outcome| outcome == "200, still reading");
    let quick = beside.end();
    eprintln!("the link carried {} MB/s", rate / 1_000_000);
    assert!(rate > LINK_RATE / 4, "the link was not full: {rate} bytes a second");
    assert!(quick.percentile(0.99) <= Duration::from_millis(500), "p99 {:?}", quick.percentile(0.99));
}

/// The service beside the one that misbehaves: quick requests, and some of 10 s in flight all the time.
struct Beside {
    quick: Running,
    slow: Running,
    began: Instant,
}

impl Beside {
    fn start(world: &World, host: &str) -> Self {
        let quick = ["/one", "/two?delay=50"].map(|path| world.request(host, path));
        let slow = Load::new([world.request(host, "/slow?delay=10000")]).per_second(SLOW_RATE).connections(0, 4);
        Self {
            quick: Load::new(quick).per_second(RATE).connections(8, 4).start(),
            slow: slow.request_limit(Duration::from_secs(14)).start(),
            began: Instant::now(),
        }
    }

    /// # Panics
    /// When a request has failed, or when the crowd did not do what this phase is about.
    fn unharmed(&self, phase: &str, outcomes: &Outcomes, expected: impl Fn(&str) -> bool) {
        let (quick, slow) = (self.quick.report(), self.slow.report());
        eprintln!(
            "{phase}: {outcomes:?}; beside it, so far: {} ok, {} failed, p99 {:?}; slow: {} ok, {} failed",
            quick.ok,
            quick.failed,
            quick.percentile(0.99),
            slow.ok,
            slow.failed
        );
        for report in [quick, slow] {
            assert_eq!(report.failed, 0, "{phase}: {:#?}\n{:#?}", report.kinds, report.failures);
        }
        let (all, as_meant) = outcomes.iter().fold((0, 0), |(all, as_meant), (outcome, count)| {
            (all + count, as_meant + if expected(outcome) { *count } else { 0 })
        });
        assert!(as_meant >= CROWD as u64 && as_meant * 100 >= all * 99, "{phase}: the crowd saw {outcomes:?}");
    }

    /// The quick requests' report, when those in flight have ended too, without a failure.
    fn end(self) -> Report {
        let seconds = self.began.elapsed().as_secs();
        let quick = self.quick.stop().flawless(u64::from(RATE) * seconds * 8 / 10);
        self.slow.stop().flawless(u64::from(SLOW_RATE) * seconds * 8 / 10);
        quick
    }
}

/// So many workers, each making one turn after the other until the phase is over.
fn crowd<F, T>(count: usize, turn: F) -> Outcomes
where
    F: Fn(usize) -> T + Clone + Send + 'static,
    T: Future<Output = Turn> + Send,
{
    let end = tokio::time::Instant::now() + PHASE;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut workers = JoinSet::new();
        for number in 0..count {
            let turn = turn.clone();
            workers.spawn(async move {
                let mut outcomes = Outcomes::new();
                while let Ok(Turn { outcome, then }) = tokio::time::timeout_at(end, turn(number)).await {
                    *outcomes.entry(outcome).or_default() += 1;
                    if let Some(rest) = then {
                        let _ = tokio::time::timeout_at(end, rest).await;
                    }
                }
                outcomes
            });
        }
        let mut all = Outcomes::new();
        for (outcome, count) in workers.join_all().await.into_iter().flatten() {
            *all.entry(outcome).or_default() += count;
        }
        all
    })
}

/// One turn of a worker: what to count, and what it goes on with until the end.
struct Turn {
    outcome: String,
    then: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl From<String> for Turn {
    fn from(outcome: String) -> Self {
        Self { outcome, then: None }
    }
}

/// A whole request on a connection of its own.
async fn answer(request: Request) -> Turn {
    match request.send_async().await {
        Ok(answer) => answer.status.to_string().into(),
        Err(error) => error.into(),
    }
}

/// Reads the headers and nothing more, and keeps the connection.
async fn stop_reading(request: Request) -> Turn {
    match request.start().await {
        Ok(kept) => {
            let outcome = format!("{}, read no further", kept.1.status().as_u16());
            let then = async move {
                std::future::pending::<()>().await;
                drop(kept);
            };
            Turn { outcome, then: Some(Box::pin(then)) }
        }
        Err(error) => error.into(),
    }
}

/// Reads as fast as it comes.
async fn download(request: Request) -> Turn {
    match request.start().await {
        Ok((connection, response)) => {
            let outcome = format!("{}, still reading", response.status().as_u16());
            let mut body = response.into_body();
            let then = async move {
                while let Some(Ok(_)) = body.frame().await {}
                drop(connection);
            };
            Turn { outcome, then: Some(Box::pin(then)) }
        }
        Err(error) => error.into(),
    }
}

/// A request of 99 headers whose answer has 99, as they are at the outside.
fn with_99_headers(world: &World, wild: &Backend) -> Request {
    // Beside these, Host; and `x-backend`, `content-length` and `date`.
    let mut request = world.request("wild.example", "/many?headers=96&delay=100");
    for number in 0..98 {
        request = request.header(&format!("x-many-{number}"), "1");
    }
    let answer = request.send().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let came = answer.headers.keys().filter(|name| name.as_str().starts_with("x-more-")).count();
    assert_eq!(came, 96);
    let received = wild.received().pop().unwrap();
    assert_eq!(received.headers.keys().filter(|name| name.as_str().starts_with("x-many-")).count(), 98);
    request
}
