//! A hostile or clumsy world: broken input, a store full of rubbish, and peers on the xDS port that do not play along.
//! Everything here is one control plane at a time, without Envoys; the xDS clients are made here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{Locality, Node},
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status as Rpc,
};
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    harness::{Addresses, Etcd, Output, Tidegate, tidegate, wait_for},
    world::Machine,
};

const SOON: Duration = Duration::from_secs(10);
pub(crate) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

pub(crate) const SITES: &str = "
apiVersion: tidegate.dev/v1alpha1
kind: Site
metadata: {name: core1}
spec: {role: core, region: eu, coordinates: {latitude: 50, longitude: 8}, bindAddress: 127.0.0.9, gateways: ['127.0.0.9:15443']}
---
apiVersion: tidegate.dev/v1alpha1
kind: Service
metadata: {name: first, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {name: first, namespace: shop}
spec: {service: first, site: core1, endpoints: [{address: '127.0.0.9:9000'}]}
";

fn service(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: tidegate.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{ports: [{{port: 80}}]}}\n"
    )
}

/// A Service `shop/NAME` that the core site has a cluster for.
pub(crate) fn served(name: &str) -> String {
    let set = format!(
        "---\napiVersion: tidegate.dev/v1alpha1\nkind: EndpointSet\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{service: {name}, site: core1, endpoints: [{{address: '127.0.0.9:9000'}}]}}\n"
    );
    service("shop", name) + &set
}

fn services(namespace: &str, count: usize) -> String {
    (0..count).map(|n| service(namespace, &format!("s{n}"))).collect()
}

/// An ADS client that does what it is told, and nothing by itself.
pub(crate) struct Client {
    runtime: Runtime,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

pub(crate) fn node(site: &str, id: &str) -> Option<Node> {
    let locality = Some(Locality { sub_zone: site.into(), ..Locality::default() });
    Some(Node { id: id.into(), cluster: "core".into(), locality, ..Node::default() })
}

pub(crate) fn ask(type_url: &str, names: &[String]) -> DeltaDiscoveryRequest {
    let resource_names_subscribe = names.to_vec();
    DeltaDiscoveryRequest { type_url: type_url.into(), resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
}

impl Client {
    pub(crate) fn open(address: SocketAddr, first: DeltaDiscoveryRequest) -> Result<Self, Status> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (requests, outgoing) = mpsc::channel(16);
        let responses = runtime.block_on(async {
            let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
            let mut ads = AggregatedDiscoveryServiceClient::new(channel);
            requests.send(first).await.unwrap();
            let call = ads.delta_aggregated_resources(ReceiverStream::new(outgoing));
            timeout(SOON, call).await.expect("an answer in time")
        })?;
        Ok(Self { runtime, requests, responses: responses.into_inner() })
    }

    pub(crate) fn core(address: SocketAddr, id: &str) -> Self {
        Self::open(address, DeltaDiscoveryRequest { node: node("core1", id), ..ask(CLUSTER, &[]) }).unwrap()
    }

    pub(crate) fn send(&self, request: DeltaDiscoveryRequest) {
        self.runtime.block_on(self.requests.send(request)).expect("the stream stands");
    }

    pub(crate) fn within(&mut self, limit: Duration) -> Option<Result<Option<DeltaDiscoveryResponse>, Status>> {
        self.runtime.block_on(async { timeout(limit, self.responses.message()).await.ok() })
    }

    pub(crate) fn end(&mut self) -> Status {
        loop {
            match self.within(SOON).expect("an end in time") {
                Err(status) => return status,
                Ok(None) => panic!("ended without a status"),
                Ok(Some(_)) => {}
            }
        }
    }

    pub(crate) fn answer(&self, response: &DeltaDiscoveryResponse, refusal: Option<&str>) {
        let error_detail = refusal.map(|m| Rpc { code: 3, message: m.into(), ..Rpc::default() });
        let response_nonce = response.nonce.clone();
        self.send(DeltaDiscoveryRequest { response_nonce, error_detail, ..ask(&response.type_url, &[]) });
    }
}

/// Whether a resource of that name comes, whatever else comes before it.
pub(crate) fn comes(client: &mut Client, name: &str) {
    let mut seen = Vec::new();
    loop {
        let Some(response) = client.within(SOON) else { panic!("{name} does not come; these came: {seen:?}") };
        let response = response.unwrap().expect("the stream stands");
        client.answer(&response, None);
        seen.extend(response.resources.iter().map(|r| r.name.clone()));
        if response.resources.iter().any(|r| r.name == name) {
            return;
        }
    }
}

/// A command that has to end by itself; one that does not is a failure, not a test that never ends.
fn tidegate_within(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // The test may be over.
        let _ = done.send(tidegate(&[&["--log-level", "warn"], &arguments[..]].concat()));
    });
    ended.recv_timeout(SOON).expect("the command ends by itself")
}

/// Resident memory in KiB.
fn rss(control: &mut Tidegate) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", control.process().id())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn start() -> (Addresses, Tidegate) {
    let addresses = Addresses::next();
    let control = Tidegate::serve(addresses.take(), "memory", &[]);
    control.apply(SITES, &[]).ok();
    (addresses, control)
}

#[test]
fn broken_input_is_refused_with_its_place_and_stores_nothing() {
    let _machine = Machine::shared();
    let (_addresses, control) = start();
    let good = service("odd", "name");
    let name = |n: &str| good.replace("name: name", &format!("name: {n}"));
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n".to_owned();
    let cases = [
        ("empty", String::new(), "no object"),
        ("dashes", "---\n---\n# nothing\n---\n".into(), "no object"),
        ("bomb", bomb, "anchors"),
        ("deep", "[".repeat(200_000), "not YAML"),
        ("tabs", good.replace("metadata: {", "metadata:\n\tx: {"), "tabs"),
        ("nul", good.clone() + "\0", "unprintable"),
        ("duplicate key", good.replace("kind:", "kind: Site\nkind:"), "twice"),
        ("duplicate object", good.clone() + &good, "twice"),
        ("version", good.replace("v1alpha1", "v9"), "apiVersion"),
        ("list", "- 1\n".into(), "found a list"),
        (
            "large",
            good.replace("namespace:", &format!("annotations: {{a: {}}}, namespace:", "a".repeat(2 << 20))),
            "larger",
        ),
        ("slash", name("'../x'"), "not a DNS name"),
        ("unicode", name("ä"), "not a DNS name"),
        ("direction", name("\"a\\u202eb\""), "not a DNS name"),
        ("number", name("12"), "quotes"),
        ("long", name(&"a".repeat(300)), "not a DNS name"),
    ];
    for (case, text, expected) in cases {
        let output = control.apply(&text, &[]);
        assert_eq!(output.code, 1, "{case}: {output:?}");
        assert!(output.stderr.contains(expected), "{case}: {}", output.stderr);
        assert!(output.stderr.contains("nothing was stored"), "{case}: {}", output.stderr);
    }
    assert_eq!(control.run(&["get", "services", "-n", "odd", "-o", "name"]).ok().stdout, "");
    for (case, text) in [("crlf", good.replace('\n', "\r\n")), ("bom", format!("\u{feff}{good}"))] {
        assert_eq!(control.apply(&text, &[]).code, 0, "{case}");
    }
}

#[test]
fn exit_codes_say_what_happened_and_nobody_waits_for_ever() {
    let _machine = Machine::shared();
    let (addresses, control) = start();
    let code = |arguments: &[&str]| control.run(arguments).code;
    assert_eq!(code(&["get", "service", "nothing"]), 1);
    assert_eq!(code(&["get", "nokind"]), 2);
    assert_eq!(code(&["delete", "service/shop/nothing"]), 1);
    assert_eq!(code(&["wait", "service/shop/nothing", "--timeout", "1s"]), 3);
    assert_eq!(tidegate(&["--server", "ftp://x", "get", "services"]).code, 2);
    let nobody = format!("http://{}:1", addresses.take());
    assert_eq!(tidegate(&["--server", &nobody, "get", "services"]).code, 1);
    // Listens, accepts by its backlog, says nothing.
    let silent = TcpListener::bind((addresses.take(), 0)).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let before = Instant::now();
    assert_eq!(tidegate(&["--server", &url, "--request-timeout", "500ms", "get", "services"]).code, 5);
    assert!(before.elapsed() < Duration::from_secs(10));
    // Named twice is meant once.
    let twice = control.run(&["delete", "service/shop/first", "service/shop/first"]).ok();
    assert_eq!(twice.stdout.lines().count(), 1, "{twice:?}");
}

#[test]
fn a_thousand_objects_by_two_people_at_once_arrive_whole_on_both_stores() {
    let _machine = Machine::shared();
    let etcd = Etcd::start();
    for store in ["memory", &format!("etcd:{}", etcd.url())] {
        let addresses = Addresses::next();
        let control = Tidegate::serve(addresses.take(), store, &[]);
        std::thread::scope(|scope| {
            for namespace in ["a", "b"] {
                let control = &control;
                scope.spawn(move || {
                    let text = services(namespace, 1_000);
                    // 4: another write came between two of its transactions; running it again completes it.
                    wait_for("the apply is complete", SOON, || match control.apply(&text, &[]) {
                        output if output.code == 0 => Ok(()),
                        output if output.code == 4 => Err(output.stderr),
                        output => panic!("{output:?}"),
                    });
                });
            }
        });
        let all = control.run(&["get", "services", "-A", "-o", "name"]).ok();
        assert_eq!(all.stdout.lines().count(), 2_000, "{store}");
    }
}

#[test]
fn rubbish_in_etcd_is_named_and_harms_nothing_else() {
    let _machine = Machine::shared();
    let etcd = Etcd::start();
    let addresses = Addresses::next();
    let control = Tidegate::serve(addresses.take(), &format!("etcd:{}", etcd.url()), &[]);
    control.apply(SITES, &[]).ok();
    let mut proxy = Client::core(control.xds(), "a");
    comes(&mut proxy, "shop/first:80");
    let objects = "/tidegate/v1/objects";
    etcd.put(&format!("{objects}/services/odd/empty"), "");
    etcd.put(&format!("{objects}/services/odd/large"), &"a".repeat(100_000));
    etcd.put(&format!("{objects}/services/odd/elsewhere"), &service("other", "elsewhere"));
    etcd.put(&format!("{objects}/services/odd/red\u{1b}[31m\nlines"), "x");
    etcd.put(&format!("{objects}/httproute/shop/singular"), "x");
    etcd.put(&format!("{objects}/services/a/b/c"), "x");
    etcd.put("/tidegate/v1/", "x");
    etcd.put("/tidegate/v1/endpoints/core1/shop/first/one", "rubbish");
    etcd.put("/tidegate/v1/endpoints/core1/shop/first/two", r#"{"address":"10.0.0.1:80"}"#);
    etcd.put("/tidegate/v1/head", "rubbish");
    let page = wait_for("every fault is named", SOON, || {
        let (code, page) = control.page("/readyz?verbose")?;
        let all =
            ["odd/empty", "odd/large", "odd/elsewhere", "odd/red", "httproute/shop/singular", "a/b/c", "first/one"];
        match all.iter().find(|part| !page.contains(**part)) {
            None if code == 200 => Ok(page),
            missing => Err(format!("{code}, without {missing:?}: {page}")),
        }
    });
    assert!(!page.contains('\u{1b}'), "what a key says does not reach the terminal's controls: {page}");
    let table = control.run(&["get", "services", "-A"]).ok().stdout;
    assert!(table.contains("empty") && !table.contains('\u{1b}'), "{table}");
    // The API still writes, and the proxy still gets it.
    control.apply(&served("second"), &[]).ok();
    comes(&mut proxy, "shop/second:80");
    // Everything goes, then comes back: the proxy keeps its stream, or gets a new one, but never a wrong answer.
    etcd.ctl(&["del", "--prefix", "/tidegate/"]);
    wait_for("nothing is left", SOON, || match control.run(&["get", "services", "-A", "-o", "name"]).stdout {
        text if text.is_empty() => Ok(()),
        text => Err(text),
    });
    control.apply(SITES, &[]).ok();
    control.apply(&served("third"), &[]).ok();
    let mut another = Client::core(control.xds(), "b");
    comes(&mut another, "shop/third:80");
    comes(&mut proxy, "shop/third:80");
}

#[test]
fn garbage_and_silence_on_the_xds_port_cost_little_and_stop_nobody() {
    let _machine = Machine::shared();
    let (_addresses, mut control) = start();
    let before = rss(&mut control);
    let silent: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(control.xds()).unwrap()).collect();
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 65_536],
    ];
    for bytes in garbage {
        for _ in 0..50 {
            let mut peer = TcpStream::connect(control.xds()).unwrap();
            peer.set_read_timeout(Some(SOON)).unwrap();
            // It may have closed already: that is the point.
            let _ = peer.write_all(bytes);
            let _ = peer.shutdown(std::net::Shutdown::Write);
            let _ = peer.read_to_end(&mut Vec::new());
        }
    }
    comes(&mut Client::core(control.xds(), "a"), "shop/first:80");
    let grown = rss(&mut control).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for 500 silent connections and 200 bad ones");
    drop(silent);
}

#[test]
fn odd_requests_are_answered_refused_or_ignored_and_the_next_proxy_is_served() {
    let _machine = Machine::shared();
    let (_addresses, control) = start();
    let xds = control.xds();
    // Ten thousand names that do not exist, answered; then one that does.
    let mut many = Client::core(xds, "many");
    let names: Vec<String> = (0..10_000).map(|n| format!("no/such-{n}:80")).collect();
    many.send(ask(ENDPOINTS, &names));
    comes(&mut many, "shop/first:80");
    // A type that nobody knows, a nonce that nobody sent: the stream stands.
    many.send(ask("type.googleapis.com/no.such.Type", &["x".into()]));
    many.send(DeltaDiscoveryRequest { response_nonce: "dead".into(), ..ask(CLUSTER, &[]) });
    many.send(DeltaDiscoveryRequest { response_nonce: "\u{1b}ä".into(), ..ask(CLUSTER, &[]) });
    control.apply(&served("second"), &[]).ok();
    comes(&mut many, "shop/second:80");
    // Texts that are too long end the stream that sent them.
    for bad in [
        ask(CLUSTER, &["x".repeat(1 << 10)]),
        ask(&"x".repeat(1 << 20), &["x".into()]),
        DeltaDiscoveryRequest {
            initial_resource_versions: HashMap::from([("x".repeat(1 << 10), "1".into())]),
            ..ask(CLUSTER, &[])
        },
        ask("", &[]),
    ] {
        let mut client = Client::core(xds, "long");
        client.send(bad);
        assert_eq!(client.end().code(), Code::InvalidArgument);
    }
    // No node: nothing is sent, and the operator sees why.
    let mut nobody = Client::open(xds, ask(CLUSTER, &[])).unwrap();
    assert!(nobody.within(Duration::from_millis(300)).is_none());
    assert!(control.run(&["proxy", "status"]).ok().stdout.to_lowercase().contains("refused"));
    // Who is refused may not pile up requests: 64 of 4 MiB would be kept for it.
    let unknown = DeltaDiscoveryRequest { node: node("nowhere", "hoard"), ..ask(CLUSTER, &[]) };
    let mut hoard = Client::open(xds, unknown).unwrap();
    let names: Vec<String> = (0..8_192).map(|n| format!("{n:0512}")).collect();
    for _ in 0..12 {
        // The stream may have ended already.
        let _ = hoard.runtime.block_on(hoard.requests.send(ask(CLUSTER, &names)));
    }
    assert_eq!(hoard.end().code(), Code::ResourceExhausted);
    // A node of 20 MiB.
    let huge = DeltaDiscoveryRequest { node: node("core1", &"x".repeat(20 << 20)), ..ask(CLUSTER, &[]) };
    if let Ok(mut client) = Client::open(xds, huge) {
        assert_eq!(client.end().code(), Code::OutOfRange);
    }
    // Ids that would break a terminal, or fill it.
    let odd = DeltaDiscoveryRequest { node: node("core1", "\u{1b}[31m\nred"), ..ask(CLUSTER, &[]) };
    let odd = Client::open(xds, odd);
    assert!(!control.run(&["proxy", "status"]).ok().stdout.contains('\u{1b}'));
    drop(odd);
    comes(&mut Client::core(xds, "last"), "shop/second:80");
}

#[test]
fn a_proxy_that_refuses_for_ever_is_sent_each_version_once() {
    let _machine = Machine::shared();
    let (_addresses, mut control) = start();
    let mut client = Client::core(control.xds(), "a");
    let before = rss(&mut control);
    let mut sent = 0;
    // Megabytes of reasons: they are kept, but not all of them.
    let reason = "because ".repeat(1 << 17);
    while let Some(response) = client.within(Duration::from_millis(700)) {
        let response = response.unwrap().unwrap();
        sent += response.resources.iter().filter(|r| r.name == "shop/first:80").count();
        client.answer(&response, Some(&reason));
        assert!(sent < 5, "sent again and again");
    }
    assert_eq!(sent, 1);
    // It says no again, for no reason; nothing comes of it.
    for _ in 0..200 {
        let error_detail = Some(Rpc { code: 3, message: "no".into(), ..Rpc::default() });
        client.send(DeltaDiscoveryRequest { response_nonce: "1".into(), error_detail, ..ask(CLUSTER, &[]) });
    }
    assert!(client.within(Duration::from_millis(300)).is_none());
    let status = control.run(&["describe", "service/shop/first"]).ok().stdout;
    assert!(status.contains("because") && status.len() < 64 << 10, "{} bytes of status", status.len());
    let grown = rss(&mut control).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB");
}

#[test]
fn a_proxy_that_never_reads_holds_up_nobody_and_nothing_piles_up() {
    let _machine = Machine::shared();
    let (_addresses, mut control) = start();
    let deaf: Vec<Client> = (0..5).map(|n| Client::core(control.xds(), &format!("deaf{n}"))).collect();
    let mut hears = Client::core(control.xds(), "hears");
    comes(&mut hears, "shop/first:80");
    let before = rss(&mut control);
    for round in 0..20 {
        control.apply(&served(&format!("n{round}")), &[]).ok();
        comes(&mut hears, &format!("shop/n{round}:80"));
    }
    let grown = rss(&mut control).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB");
    drop(deaf);
}

#[test]
fn what_the_embedded_store_acknowledged_outlives_kills_and_a_broken_file_is_no_store() {
    let _machine = Machine::shared();
    let addresses = Addresses::next();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("not/there/yet/store.redb");
    let store = format!("embedded:{}", path.display());
    let mut control = Tidegate::serve(addresses.take(), &store, &[]);
    let url = control.api();
    let mut acknowledged = BTreeSet::new();
    for round in 0..6 {
        let (said, heard) = std::sync::mpsc::channel();
        let (url, dir) = (url.clone(), dir.path().to_owned());
        let writer = std::thread::spawn(move || {
            // Ends with the first write that the kill took the answer of.
            for batch in 0.. {
                let (namespace, file) = (format!("r{round}-{batch}"), dir.join(format!("r{round}-{batch}.yaml")));
                fs::write(&file, services(&namespace, 10)).unwrap();
                let output = tidegate(&["--server", &url, "apply", "-f", file.to_str().unwrap()]);
                if output.code != 0 || said.send(namespace).is_err() {
                    return;
                }
            }
        });
        acknowledged.extend((0..3).map(|_| heard.recv_timeout(SOON).expect("it writes")));
        std::thread::sleep(Duration::from_millis(round * 7));
        control.process().kill();
        writer.join().unwrap();
        acknowledged.extend(heard.try_iter());
        control.restart();
        let all = control.run(&["get", "services", "-A", "-o", "name"]).ok().stdout;
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for line in all.lines() {
            *found.entry(line.split('/').nth(1).unwrap()).or_default() += 1;
        }
        assert!(found.values().all(|&count| count == 10), "nothing is there by half: {found:?}");
        assert!(acknowledged.iter().all(|n| found.contains_key(n.as_str())), "nothing acknowledged is lost: {found:?}");
    }
    let other = addresses.take();
    let flags = [("--xds-listen", 18_000), ("--api-listen", 18_001), ("--http-listen", 18_002)];
    let flags: Vec<String> = flags.iter().flat_map(|(f, port)| [(*f).to_owned(), format!("{other}:{port}")]).collect();
    let serve = |store: &str| {
        let mut arguments = vec!["serve", "--store", store];
        arguments.extend(flags.iter().map(String::as_str));
        tidegate_within(&arguments)
    };
    let second = serve(&store);
    assert!(second.code == 1 && second.stderr.contains("another process"), "{second:?}");
    control.process().kill();
    let whole = fs::read(&path).unwrap();
    let broken = dir.path().join("broken.redb");
    for bytes in [&whole[..1_000], &[7; 50_000][..]] {
        fs::write(&broken, bytes).unwrap();
        let output = serve(&format!("embedded:{}", broken.display()));
        assert!(output.code == 1 && output.stderr.contains("damaged"), "{output:?}");
        assert_eq!(fs::read(&broken).unwrap(), bytes, "it is left as it was");
    }
}
