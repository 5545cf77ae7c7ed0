//! The container stack of docker/, started as `make stack-up` starts it: edge, core and back end on networks of their
//! own, and what its traffic does when the control planes and etcd are killed.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output as Done, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    harness::{Load, Output, Request, Running, tidegate, wait_for},
    world::{Machine, SOON},
};

/// How long a container may take until its health check has seen it healthy.
const HEALTHY: Duration = Duration::from_secs(60);
/// Requests that must have gone well after each blow: two seconds' worth.
const ENOUGH: u64 = 400;

/// A stack of its own name, networks and ports; it goes with the value.
struct Stack {
    name: String,
    net: String,
    ports: [u16; 4],
    dir: TempDir,
    // Last, so that it is given back when everything has stopped.
    _machine: Machine,
}

impl Stack {
    fn up() -> Self {
        let machine = Machine::alone();
        let pid = std::process::id();
        let stack = Self {
            name: format!("tidegate-e2e-{pid}"),
            net: format!("10.{}", 100 + pid % 100),
            ports: free_ports(),
            dir: TempDir::new().unwrap(),
            _machine: machine,
        };
        stack.script(&["up", env!("CARGO_BIN_EXE_tidegate"), env!("CARGO_BIN_EXE_backend")]);
        stack
    }

    fn script(&self, arguments: &[&str]) -> String {
        let done = self.try_script(arguments);
        let (stdout, stderr) = (text(&done.stdout), text(&done.stderr));
        assert!(done.status.success(), "scripts/stack.sh {arguments:?}: {}\n{stdout}\n{stderr}", done.status);
        stdout
    }

    fn try_script(&self, arguments: &[&str]) -> Done {
        let [edge1, edge2, api, http] = self.ports.map(|port| port.to_string());
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stack.sh"))
            .args(arguments)
            .env("STACK_NAME", &self.name)
            .env("STACK_DIR", self.dir.path())
            .env("TIDEGATE_NET", &self.net)
            .envs([("TIDEGATE_EDGE1_PORT", edge1), ("TIDEGATE_EDGE2_PORT", edge2)])
            .envs([("TIDEGATE_API_PORT", api), ("TIDEGATE_HTTP_PORT", http)])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn container(&self, service: &str) -> String {
        format!("{}_{service}_1", self.name)
    }

    /// SIGKILL; the engine does not start it again.
    fn kill(&self, service: &str) {
        self.script(&["docker", "kill", &self.container(service)]);
    }

    /// Starts containers and waits until they are healthy.
    fn start(&self, services: &[&str]) {
        for service in services {
            self.script(&["docker", "start", &self.container(service)]);
        }
        for service in services {
            let container = self.container(service);
            wait_for(&format!("{service} is healthy"), HEALTHY, || {
                match self.script(&["docker", "inspect", "--format", "{{.State.Health.Status}}", &container]).trim() {
                    "healthy" => Ok(()),
                    _ => Err(text(&self.try_script(&["docker", "logs", "--tail", "20", &container]).stderr)),
                }
            });
        }
    }

    /// Whether a container can open a connection to an address, `IP/PORT` as bash writes it.
    fn reaches(&self, service: &str, address: &str) -> bool {
        let line = format!("exec 3<>/dev/tcp/{address}");
        let container = self.container(service);
        self.try_script(&["docker", "exec", &container, "timeout", "2", "bash", "-c", &line]).status.success()
    }

    fn address(&self, service: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{}_{network}\").IPAddress}}}}", self.name);
        self.script(&["docker", "inspect", "--format", &format, &self.container(service)]).trim().to_owned()
    }

    /// A request to an edge's published port.
    fn request(&self, edge: usize, host: &str) -> Request {
        Request::get(&format!("http://{host}/")).to(([127, 0, 0, 1], self.ports[edge]))
    }

    /// Waits until an edge answers 200 for a host.
    fn wait_served(&self, edge: usize, host: &str) {
        wait_for(&format!("{host} at edge{}", edge + 1), SOON, || match self.request(edge, host).send()? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("{} {}", answer.status, answer.text())),
        });
    }

    /// Waits until `/readyz?verbose` of cp1 says a word.
    fn wait_says(&self, word: &str) {
        let page = Request::get(&format!("http://127.0.0.1:{}/readyz?verbose", self.ports[3]));
        wait_for(&format!("cp1 says {word:?}"), SOON, || match page.send()?.text() {
            text if text.contains(word) => Ok(()),
            text => Err(text),
        });
    }

    /// Waits until the copy on cp1's disk is as new as the route, without which a start from it would be from nothing.
    fn wait_copied(&self) {
        let key = "/tidegate/v1/objects/httproutes/default/hello";
        let fields = self.script(&["docker", "exec", &self.container("etcd"), "etcdctl", "get", "-w", "fields", key]);
        let written = number_after(&fields, "\"ModRevision\" : ").expect("the route is there");
        let page = Request::get(&format!("http://127.0.0.1:{}/readyz?verbose", self.ports[3]));
        wait_for("cp1 has the route on disk", SOON, || {
            let text = page.send()?.text();
            let copied = number_after(&text, "last-known-good copy: revision ");
            if copied >= Some(written) { Ok(()) } else { Err(text) }
        });
    }

    /// An operator's command to cp1.
    fn operate(&self, arguments: &[&str]) -> Output {
        let server = format!("https://127.0.0.1:{}", self.ports[2]);
        let files = ["ca.crt", "tls.crt", "tls.key"].map(|file| {
            let path = self.dir.path().join("certs/operator/ann").join(file);
            path.to_str().unwrap().to_owned()
        });
        let flags = ["--server", &server, "--ca", &files[0], "--cert", &files[1], "--key", &files[2]];
        tidegate(&[&flags[..], arguments].concat())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.try_script(&["compose", "logs", "--no-color", "--tail", "30"]);
            eprintln!("--- the containers' logs\n{}", text(&logs.stdout));
        }
        let down = self.try_script(&["down"]);
        if !down.status.success() {
            eprintln!("the stack was not taken down: {}", text(&down.stderr));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn number_after(text: &str, words: &str) -> Option<u64> {
    let rest = text.split_once(words)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Four free ports in a row, below those that the system gives away: minutes pass until they are used.
fn free_ports() -> [u16; 4] {
    let first = 20_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 4;
    let free = |ports: &[u16; 4]| ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let rows = (first..28_000).step_by(4).map(|port| [port, port + 1, port + 2, port + 3]);
    rows.into_iter().find(free).expect("there are free ports")
}

/// Waits for more good answers, and says so when one is not.
fn goes_on(load: &Running, after: &str) {
    let before = load.report().ok;
    wait_for(&format!("traffic goes on after {after}"), SOON, || match load.report() {
        report if report.failed > 0 => panic!("after {after}: {:#?}\n{:#?}", report.kinds, report.failures),
        report if report.ok >= before + ENOUGH => Ok(()),
        report => Err(report.ok),
    });
}

fn only_the_next_tier_is_reached(stack: &Stack) {
    let back_end = format!("{}/8080", stack.address("hello-core1-a", "core1"));
    let etcd = format!("{}/2379", stack.address("etcd", "store"));
    let gateway = format!("{}/15443", stack.address("core1", "backbone"));
    let expected = [
        ("edge1", &gateway, true),
        ("edge1", &back_end, false),
        ("edge1", &etcd, false),
        ("core1", &back_end, true),
        ("core1", &etcd, false),
        ("core2", &back_end, false),
        ("cp1", &etcd, true),
        ("cp1", &back_end, false),
    ];
    for (from, to, expected) in expected {
        assert_eq!(stack.reaches(from, to), expected, "{from} to {to}");
    }
    for service in ["etcd", "cp1", "edge1", "core1", "hello-core1-a"] {
        let user = stack.script(&["docker", "exec", &stack.container(service), "id", "-u"]);
        assert_eq!(user.trim(), "10001", "{service}");
    }
}

#[test]
fn the_stack_serves_on_while_control_planes_and_etcd_die_and_start_again_without_one_another() {
    let stack = Stack::up();
    only_the_next_tier_is_reached(&stack);
    stack.wait_served(0, "hello.example");
    stack.wait_copied();

    // edge2 is the one that is restarted, so the load goes by edge1.
    let load = Load::new([stack.request(0, "hello.example")]).start();
    goes_on(&load, "the start");
    stack.kill("cp2");
    goes_on(&load, "the death of a control plane");
    stack.kill("etcd");
    goes_on(&load, "the death of etcd");
    stack.wait_says("stale");
    stack.kill("cp1");
    goes_on(&load, "the death of all control planes");

    stack.start(&["cp1"]);
    stack.wait_says("stale");
    stack.kill("edge2");
    stack.start(&["edge2"]);
    stack.wait_served(1, "hello.example");
    goes_on(&load, "a start from the copy on disk");

    stack.start(&["etcd", "cp2"]);
    stack.wait_says("store: fresh");
    let change = stack.dir.path().join("change.yaml");
    std::fs::write(
        &change,
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: again}
spec: {parentRefs: [{name: web}], hostnames: [again.example], rules: [{backendRefs: [{name: hello, port: 80}]}]}
",
    )
    .unwrap();
    stack.operate(&["apply", "-f", change.to_str().unwrap(), "--wait"]).ok();
    for edge in [0, 1] {
        stack.wait_served(edge, "again.example");
    }
    goes_on(&load, "the return of all");
    load.stop().flawless(6 * ENOUGH);
}
