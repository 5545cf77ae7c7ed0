//! The roles of docs/operations.md, typed into an etcd as they stand there: each user can do its work, and no more.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    harness::{Addresses, Etcd, Process, Tidegate, wait_for},
    world::{Machine, SOON, route_yaml},
};

/// The passwords that the page's commands take from the environment, by user.
const USERS: [(&str, &str); 5] = [
    ("cp1", "CP1_PASSWORD"),
    ("registrar-core1", "REGISTRAR_PASSWORD"),
    ("gitops", "GITOPS_PASSWORD"),
    ("observer", "OBSERVER_PASSWORD"),
    ("root", "ROOT_PASSWORD"),
];

/// How long an endpoint lives on unheard of.
const LEASE: Duration = Duration::from_secs(2);

/// The page's block of shell that makes the first role.
fn commands() -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.into_iter().find(|block| block.contains("role add tidegate")).expect("a block makes the roles").to_owned()
}

fn shell(etcd: &Etcd, text: &str) {
    let done = Command::new("sh")
        .args(["-euc", text])
        .envs([("ETCDCTL_API", "3"), ("ETCDCTL_ENDPOINTS", &etcd.url())])
        .envs(USERS.map(|(user, variable)| (variable, format!("secret of {user}"))))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Whether etcd lets a user do it; any failure but a denial is one of the test.
fn may(etcd: &Etcd, user: &str, arguments: &[&str]) -> bool {
    let done = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.url(), "--user", user, "--password", &format!("secret of {user}")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() || told.contains("permission denied"), "{user} {arguments:?}: {told}");
    done.status.success()
}

fn password_file(dir: &TempDir, user: &str) -> String {
    let file = dir.path().join(user);
    fs::write(&file, format!("secret of {user}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

fn registrar(etcd: &Etcd, dir: &TempDir, site: &str) -> Process {
    let file = password_file(dir, "registrar-core1");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["register", "--service", "shop/web", "--site", site, "--id", "one", "--address", "10.0.0.7:8080"]);
    let ttl = format!("{}s", LEASE.as_secs());
    command.args(["--ttl", &ttl, "--etcd", &etcd.url(), "--etcd-user", "registrar-core1"]);
    command.args(["--etcd-password-file", &file]);
    Process::spawn(&format!("registrar-{site}"), dir.path(), command)
}

#[test]
fn the_roles_of_the_operations_page_let_each_do_its_work_and_no_more() {
    let _machine = Machine::shared();
    let (etcd, dir, addresses) = (Etcd::start(), TempDir::new().unwrap(), Addresses::next());
    shell(&etcd, &commands());

    let password = password_file(&dir, "cp1");
    let store = format!("etcd:{}", etcd.url());
    let more = ["--etcd-user", "cp1", "--etcd-password-file", &password];
    let control = Tidegate::serve(addresses.take(), &store, &more);
    control.apply(&route_yaml("web", "a.example", "[{backendRefs: [{name: web, port: 80}]}]"), &[]).ok();
    assert!(!may(&etcd, "cp1", &["put", "/other", "x"]));

    let endpoints = "/tidegate/v1/endpoints";
    let own = format!("{endpoints}/core1/shop/web/one");
    let announced = || may_read(&etcd, &own);
    let mut here = registrar(&etcd, &dir, "core1");
    here.wait_for("the endpoint stands", SOON, announced);
    // For two leases' time it is looked at: it is kept alive, not only made.
    let end = Instant::now() + 2 * LEASE;
    while Instant::now() < end {
        announced().unwrap();
    }
    here.kill();
    wait_for("the endpoint goes with its registrar", SOON, || announced().err().ok_or("it stands"));
    let mut elsewhere = registrar(&etcd, &dir, "core2");
    wait_for("the registrar gives up at another site", SOON, || {
        if elsewhere.is_running() { Err(elsewhere.log_tail()) } else { Ok(()) }
    });
    assert!(elsewhere.log().contains("permission denied"), "{}", elsewhere.log());
    assert!(!may(&etcd, "registrar-core1", &["get", "--prefix", "/tidegate/v1/"]));
    assert!(!may(&etcd, "registrar-core1", &["get", &own]));

    let (routes, certificates) = ("/tidegate/v1/objects/httproutes/", "/tidegate/v1/objects/certificates/");
    assert!(may(&etcd, "gitops", &["get", "--prefix", routes]));
    assert!(may(&etcd, "gitops", &["put", &format!("{routes}shop/other"), "x"]));
    assert!(!may(&etcd, "gitops", &["put", &format!("{certificates}shop/other"), "x"]));
    assert!(may(&etcd, "observer", &["get", "--prefix", "/tidegate/observed/"]));
    for user in ["gitops", "observer"] {
        assert!(!may(&etcd, user, &["get", "--prefix", certificates]), "{user}");
        assert!(!may(&etcd, user, &["get", "--prefix", "/tidegate/v1/"]), "{user}");
    }
    assert!(!may(&etcd, "observer", &["put", "/tidegate/observed/v1/x", "x"]));
}

/// Whether a key exists, asked as root.
fn may_read(etcd: &Etcd, key: &str) -> Result<(), String> {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.url(), "--user", "root", "--password", "secret of root", "get", key])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.is_empty() { Err("it is not there".to_owned()) } else { Ok(()) }
}
