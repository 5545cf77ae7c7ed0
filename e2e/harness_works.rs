//! The tools of these tests, tested: a tool that cannot see a failure would make every test green.

use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Addresses, Backend, Envoy, Etcd, Link, Load, Process, Request, Tls, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

fn url(backend: &Backend, path: &str) -> String {
    format!("http://{}{path}", backend.address())
}

/// A bootstrap with one listener on port 8080 before a back end, and more fields for its filter chain.
fn front(ip: Ipv4Addr, backend: &Backend, transport: &str) -> String {
    let port = backend.address().port();
    format!(
        r#"
admin: {{ address: {{ socket_address: {{ address: {ip}, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: {ip}, port_value: 8080 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: behind }} }}] }}
{transport}
  clusters:
  - name: behind
    load_assignment:
      cluster_name: behind
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}
"#
    )
}

#[test]
fn a_steady_load_on_a_sound_back_end_has_no_failure() {
    let backend = Backend::start("sound");
    let report = Load::new([Request::get(&url(&backend, "/a"))]).run_for(Duration::from_secs(3)).flawless(500);
    assert!(report.sent() <= 630, "{} requests at 200 a second", report.sent());
    assert_eq!(backend.count_of("/a"), report.sent(), "no request is sent twice");
    let protocols = backend.received();
    assert!(protocols.iter().any(|received| received.version == http::Version::HTTP_2));
    assert!(protocols.iter().any(|received| received.version == http::Version::HTTP_11));
}

#[test]
fn every_answer_that_is_not_2xx_is_a_failure() {
    let backend = Backend::start("ill");
    backend.always("status=503");
    let report = Load::new([Request::get(&url(&backend, "/"))]).per_second(100).run_for(Duration::from_millis(500));
    assert_eq!(report.ok, 0);
    assert!(report.failed >= 20, "{report:?}");
    assert!(report.failures[0].contains("status 503"), "{:?}", report.failures);
    assert!(report.failures.len() <= 20);
}

#[test]
fn a_reset_a_refused_connection_and_a_time_out_are_failures() {
    let backend = Backend::start("broken");
    let requests = [Request::get(&url(&backend, "/?reset"))];
    let report = Load::new(requests).per_second(50).run_for(Duration::from_millis(400));
    assert_eq!((report.ok, report.failed > 10), (0, true), "{report:?}");

    let slow = Load::new([Request::get(&url(&backend, "/?delay=5000"))]).per_second(20);
    let report = slow.request_limit(Duration::from_millis(100)).run_for(Duration::from_millis(400));
    assert_eq!(report.ok, 0);
    assert!(report.failures.iter().all(|failure| failure.contains("timed out")), "{report:?}");

    let requests = [Request::get(&url(&backend, "/"))];
    drop(backend);
    let report = Load::new(requests).per_second(50).run_for(Duration::from_millis(400));
    assert_eq!((report.ok, report.failed > 10), (0, true), "{report:?}");
}

#[test]
fn a_connection_announced_as_closing_is_replaced_without_a_failure() {
    let backend = Backend::start("closing");
    let requests = [Request::get(&url(&backend, "/?forge=connection:close"))];
    let report = Load::new(requests).connections(4, 0).run_for(Duration::from_millis(500)).flawless(80);
    assert_eq!(report.closings, report.sent());
}

/// While it drains, Envoy closes connections at more and more of its answers: `Connection: close`, or GOAWAY.
#[test]
fn connections_that_a_draining_envoy_closes_are_replaced_without_a_failure() {
    let backend = Backend::start("drained");
    let ip = Addresses::next().take();
    let dir = TempDir::new().unwrap();
    let mut envoy = Envoy::start("draining", &front(ip, &backend, ""), dir.path());
    envoy.wait_ready(LIMIT);
    let load = Load::new([Request::get("http://any.example/").to((ip, 8080))]).start();
    wait_for("the load runs", LIMIT, || if backend.count() > 50 { Ok(()) } else { Err("not yet") });
    assert_eq!(load.report().closings, 0);
    assert_eq!(envoy.post("/drain_listeners?graceful&skip_exit").unwrap().status, 200);
    wait_for("many are replaced", LIMIT, || match load.report() {
        report if report.closings >= 20 => Ok(()),
        report => Err(format!("{} are", report.closings)),
    });
    load.stop().flawless(100);
    assert!(envoy.stat("http.front.downstream_cx_http2_total") > 2, "of HTTP/2 too");
}

#[test]
fn a_client_speaks_https_with_a_name_apart_from_the_host() {
    let backend = Backend::start("tls");
    let ip = Addresses::next().take();
    let dir = TempDir::new().unwrap();
    let signed = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
    std::fs::write(dir.path().join("cert.pem"), &certificate).unwrap();
    std::fs::write(dir.path().join("key.pem"), key).unwrap();
    let tls = r#"
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{ certificate_chain: { filename: cert.pem }, private_key: { filename: key.pem } }]
"#;
    let mut envoy = Envoy::start("tls", &front(ip, &backend, tls), dir.path());
    envoy.wait_ready(LIMIT);
    let trust = Tls { ca: certificate, sni: Some("shop.example".to_owned()), ..Tls::default() };
    let request = Request::get("https://other.example/").to((ip, 8080)).tls(trust.clone());
    for (request, version) in
        [(request.clone(), http::Version::HTTP_11), (request.clone().http2(), http::Version::HTTP_2)]
    {
        let answer = request.send().unwrap();
        assert_eq!((answer.version, &answer.json()["host"]), (version, &"other.example".into()));
    }
    let wrong = Tls { sni: Some("else.example".to_owned()), ..trust };
    let refusal = request.tls(wrong).send().unwrap_err();
    assert!(refusal.contains("certificate"), "{refusal}");
}

#[test]
fn the_back_end_does_what_the_query_says() {
    let backend = Backend::start("b1");
    let answer = Request::get(&url(&backend, "/x?headers=99&forge=x-envoy-overloaded:true&status=201")).send().unwrap();
    assert_eq!((answer.status, answer.header("x-envoy-overloaded")), (201, Some("true")));
    assert!(answer.header("x-more-98").is_some());
    let echo = answer.json();
    assert_eq!((&echo["backend"], &echo["path"]), (&"b1".into(), &"/x".into()));

    let request = Request::get("http://shop.example/post").to(backend.address()).http2().method("POST").body("12345");
    let echo = request.send().unwrap().json();
    assert_eq!(
        (&echo["host"], &echo["bodyBytes"], &echo["version"]),
        (&"shop.example".into(), &5.into(), &"HTTP/2.0".into())
    );

    let begin = Instant::now();
    let answer = Request::get(&url(&backend, "/?bytes=1000&chunk=100&every=20")).send().unwrap();
    assert_eq!(answer.body.len(), 1000);
    assert!(begin.elapsed() >= Duration::from_millis(150), "ten chunks, 20 ms apart");
}

#[test]
fn a_link_slows_holds_and_cuts() {
    let backend = Backend::start("far");
    let link = Link::to(backend.address());
    let through = |path: &str| Request::get(&format!("http://{}{path}", link.address()));
    let begin = Instant::now();
    link.throttle(1_000_000);
    assert_eq!(through("/?bytes=500000").send().unwrap().body.len(), 500_000);
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?} for half a second's bytes", begin.elapsed());
    assert!(link.bytes().1 >= 500_000);
    link.throttle(0);
    link.hold();
    let short = through("/").within(Duration::from_millis(500));
    assert!(short.send().unwrap_err().contains("timed out"));
    link.cut();
    assert!(!short.send().unwrap_err().contains("timed out"));
    link.open();
    assert_eq!(through("/").send().unwrap().status, 200);
}

#[test]
fn etcd_keeps_its_data_over_a_stop() {
    let mut etcd = Etcd::start();
    etcd.put("/tidegate/v1/a", "one");
    etcd.put("/tidegate/v1/b", "");
    assert_eq!(etcd.get("/tidegate/v1/a").as_deref(), Some("one"));
    assert_eq!(etcd.get("/tidegate/v1/b").as_deref(), Some(""));
    assert_eq!(etcd.get("/tidegate/v1/c"), None);
    assert!(etcd.delete("/tidegate/v1/b") && !etcd.delete("/tidegate/v1/b"));
    etcd.stop();
    etcd.start_again();
    assert_eq!(etcd.keys("/tidegate/"), ["/tidegate/v1/a"]);
}

#[test]
fn a_paused_process_answers_again_when_resumed() {
    let mut etcd = Etcd::start();
    etcd.process().pause();
    let health = Request::get(&format!("{}/health", etcd.url())).within(Duration::from_millis(300));
    assert!(health.send().is_err(), "a paused process does not answer");
    assert!(etcd.process().is_running());
    etcd.process().resume();
    wait_for("etcd answers again", LIMIT, || health.send());
}

#[test]
fn a_dropped_process_takes_its_children_along() {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & echo $!; wait"]);
    let mut process = Process::spawn("parent", dir.path(), command);
    let log = dir.path().join("parent.log");
    let child: u32 = process.wait_for("it tells its child", LIMIT, || {
        std::fs::read_to_string(&log).unwrap().trim().parse().map_err(|error| format!("{error}"))
    });
    let runs = || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(runs());
    drop(process);
    wait_for("the child is gone", LIMIT, || if runs() { Err("it runs") } else { Ok(()) });
}

#[test]
fn waiting_for_a_process_that_ended_fails_at_once_with_its_log() {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo no such flag; exit 3"]);
    let mut process = Process::spawn("short", dir.path(), command);
    let begin = Instant::now();
    let wait = AssertUnwindSafe(|| process.wait_for("an answer", LIMIT, || Err::<(), _>("none")));
    let failure = *catch_unwind(wait).unwrap_err().downcast::<String>().unwrap();
    assert!(failure.contains("exit status: 3") && failure.contains("no such flag"), "{failure}");
    assert!(begin.elapsed() < LIMIT / 2);
}

#[test]
fn an_envoy_on_a_static_bootstrap_is_ready_and_forwards() {
    let backend = Backend::start("behind");
    let ip = Addresses::next().take();
    let bootstrap = front(ip, &backend, "");
    let dir = TempDir::new().unwrap();
    let mut envoy = Envoy::start("static", &bootstrap, dir.path());
    envoy.wait_ready(LIMIT);
    let through = Request::get("http://any.example/y").to((ip, 8080));
    for request in [through.clone(), through.http2()] {
        assert_eq!(request.send().unwrap().json()["backend"], "behind");
    }
    assert_eq!(envoy.stat("cluster.behind.upstream_rq_total"), 2);
    assert_eq!(envoy.listeners()["listener_statuses"][0]["name"], "front");
    assert_eq!(envoy.clusters()["cluster_statuses"][0]["name"], "behind");
    assert!(envoy.config_dump("static_listeners").to_string().contains("front"));
    envoy.restart();
    envoy.wait_ready(LIMIT);

    let file = dir.path().join("broken.yaml");
    std::fs::write(&file, "static_resources: { listeners: [{ name: x, address: 7 }] }").unwrap();
    assert!(Envoy::validate(&file, dir.path()).is_err());
    std::fs::write(&file, &bootstrap).unwrap();
    Envoy::validate(&file, dir.path()).unwrap();
}

#[test]
fn blocks_of_addresses_are_apart() {
    let (one, two) = (Addresses::next(), Addresses::next());
    let taken = [one.take(), one.take(), two.take(), two.take()];
    let distinct: std::collections::BTreeSet<_> = taken.iter().collect();
    assert_eq!(distinct.len(), 4);
    assert_ne!(taken[0].octets()[..3], taken[2].octets()[..3]);
}
