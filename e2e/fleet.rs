//! Several replicas over one etcd: they answer for one another, and their leader may die, sleep and wake up.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidegate::{
    model::Revision,
    store::{Change, Etcd as EtcdStore, EtcdConfig, Op, Store as _, Transaction, TxnOutcome, WatchEvent},
};

use crate::{
    harness::{Addresses, Etcd, Tidegate, tidegate, wait_for},
    swarm::Swarm,
    world::{Machine, SOON, route_yaml, service_yaml, sites_yaml},
};

/// How long a dead leader stays in office here; etcd's shortest lease.
const TTL: Duration = Duration::from_secs(2);
/// Rounds of killing and pausing, over two fleets at once.
const ROUNDS: usize = 50;

fn replica(ip: Ipv4Addr, etcd: &Etcd, prefix: &str, name: &str, more: &[&str]) -> Tidegate {
    let ttl = format!("{}s", TTL.as_secs());
    let flags = ["--prefix", prefix, "--replica", name, "--lease-ttl", &ttl];
    Tidegate::serve(ip, &format!("etcd:{}", etcd.url()), &[&flags[..], more].concat())
}

/// Two replicas of one fleet, and the etcd that others may share.
struct Pair<'a> {
    etcd: &'a Etcd,
    prefix: &'static str,
    replicas: [Tidegate; 2],
}

impl<'a> Pair<'a> {
    fn start(addresses: &Addresses, etcd: &'a Etcd, prefix: &'static str) -> Self {
        let replicas = ["cp1", "cp2"].map(|name| replica(addresses.take(), etcd, prefix, name, &[]));
        replicas[0].apply(&sites_yaml(addresses.take(), &[addresses.take()]), &[]).ok();
        Self { etcd, prefix, replicas }
    }

    /// Which of the two leads.
    fn leader(&self) -> Result<usize, String> {
        let value = self.etcd.get(&format!("{}/observed/v1/leader", self.prefix));
        match value.as_deref().and_then(|value| value.split(' ').next()) {
            Some("cp1") => Ok(0),
            Some("cp2") => Ok(1),
            other => Err(format!("{other:?}")),
        }
    }

    fn get(&self, key: &str) -> Option<String> {
        self.etcd.get(&format!("{}/{key}", self.prefix))
    }

    fn condition(&self, object: &str) -> Option<Value> {
        serde_json::from_str(&self.get(&format!("observed/v1/status/{object}"))?).ok()
    }
}

fn raw_service(name: &str, port: usize) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{ports: [{{port: {port}}}]}}\n"
    )
}

/// One round: the leader dies or sleeps past its lease while things change; then it is back, and things change again.
fn round(pair: &mut Pair<'_>, number: usize) {
    let leader = wait_for("one leads", SOON, || pair.leader());
    let other = 1 - leader;
    let kill = number.is_multiple_of(2);
    if kill {
        pair.replicas[leader].process().kill()
    } else {
        pair.replicas[leader].process().pause()
    }
    let key = |name: &str| format!("{}/v1/objects/services/shop/{name}", pair.prefix);
    pair.etcd.put(&key("raw"), &raw_service("raw", 1_000 + number));
    pair.etcd.put(&key(&format!("once{number}")), &raw_service(&format!("once{number}"), 80));
    if number > 0 {
        pair.etcd.delete(&key(&format!("once{}", number - 1)));
    }
    pair.replicas[other].apply(&service_yaml(&format!("api{}", number % 3), "", &[]), &[]).ok();
    wait_for("the other leads", SOON, || match pair.leader() {
        Ok(now) if now == other => Ok(()),
        now => Err(format!("{now:?}")),
    });
    if kill {
        pair.replicas[leader].restart()
    } else {
        pair.replicas[leader].process().resume()
    }
    // The one that wakes up would write this too, if nothing kept it from it.
    let late = raw_service("late", 2_000 + number);
    pair.etcd.put(&key("late"), &late);
    wait_for("the new leader does its work", SOON, || {
        let copy = pair.get("v1/accepted/services/shop/late").unwrap_or_default();
        if copy.contains(&late) { Ok(()) } else { Err(copy) }
    });
}

/// What stands at the end, after all that was done in `rounds` rounds.
fn ends_right(pair: &Pair<'_>, rounds: usize) {
    let last = rounds - 1;
    let expected =
        [("raw", 1_000 + last), ("late", 2_000 + last), (&*format!("once{last}"), 80)].map(|(n, p)| (n.to_owned(), p));
    for (name, port) in expected {
        wait_for("what was written last is accepted", SOON, || {
            let copy = pair.get(&format!("v1/accepted/services/shop/{name}")).unwrap_or_default();
            if copy.contains(&raw_service(&name, port)) { Ok(()) } else { Err(format!("{name}: {copy}")) }
        });
        wait_for("it has conditions", SOON, || {
            pair.condition(&format!("services/shop/{name}")).map(drop).ok_or_else(|| name.clone())
        });
    }
    wait_for("what went is agreed to, and has no conditions", SOON, || {
        let left: Vec<String> = ["v1/accepted/services/", "observed/v1/status/services/"]
            .iter()
            .flat_map(|room| pair.etcd.keys(&format!("{}/{room}", pair.prefix)))
            .filter(|key| key.contains("/once") && !key.ends_with(&format!("once{last}")))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    wait_for("the route is live on both replicas' proxies", SOON, || {
        let status = pair.condition("httproutes/shop/web").unwrap_or_default();
        if status["proxies"]["acked"] == 4 { Ok(()) } else { Err(status.to_string()) }
    });
    wait_for("the watermark has come as far as the last change", SOON, || {
        let status = pair.replicas[0].run(&["proxy", "status", "-o", "json"]).ok().stdout;
        let status: Value = serde_json::from_str(&status).unwrap();
        let mark = &status["watermarks"][0];
        if mark["site"] == "edge1" && mark["connected"] == true && mark["behind"] == 0 {
            Ok(())
        } else {
            Err(status["watermarks"].to_string())
        }
    });
}

/// Every write of a leader's was written by whoever led at that revision: the store's own history says so.
fn nobody_else_wrote(pair: &Pair<'_>) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config =
        EtcdConfig { endpoints: vec![pair.etcd.url()], ca: None, cert: None, key: None, user: None, password: None };
    runtime.block_on(async {
        let store = EtcdStore::connect(config).await.unwrap();
        // Others write to this etcd too: where this fleet's history ends is said by a key of its own.
        let key = format!("{}/end", pair.prefix);
        let ops = vec![Op::Put { key, value: "".into(), lease: None }];
        let TxnOutcome::Committed(end) = store.txn(Transaction { compares: vec![], ops }).await.unwrap() else {
            panic!("a write without a condition is refused")
        };
        let mut history = store.watch(&format!("{}/", pair.prefix), Revision(1)).await.unwrap();
        let observed = format!("{}/observed/v1/", pair.prefix);
        let acked = format!("{}/v1/acked/", pair.prefix);
        let (mut leader, mut checked, mut at) = (None::<String>, 0, Revision(0));
        let mut marks: BTreeMap<String, u64> = BTreeMap::new();
        while at < end {
            let batch = match tokio::time::timeout(SOON, history.recv()).await.unwrap().unwrap().unwrap() {
                WatchEvent::Batch(batch) => batch,
                WatchEvent::Progress(_) => continue,
                WatchEvent::Compacted(revision) => panic!("history is gone up to {revision}"),
            };
            at = batch.revision;
            for change in &batch.changes {
                match change {
                    Change::Delete(key) if *key == format!("{observed}leader") => leader = None,
                    Change::Put(kv) if kv.key == format!("{observed}leader") => {
                        // Its name, and which process of that name.
                        let value = String::from_utf8(kv.value.to_vec()).unwrap();
                        leader = value.split(' ').next().map(ToOwned::to_owned);
                    }
                    Change::Put(kv) => {
                        let value: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
                        let by = if kv.key.starts_with(&format!("{observed}status/")) {
                            value["by"].as_str()
                        } else if value["verb"] == "accept" {
                            value["replica"].as_str()
                        } else {
                            if kv.key.starts_with(&acked) {
                                assert!(leader.is_some(), "{} at {at} without a leader", kv.key);
                                let old = marks.insert(kv.key.clone(), value["revision"].as_u64().unwrap());
                                assert!(old <= value["revision"].as_u64(), "{} went back at {at}", kv.key);
                            }
                            continue;
                        };
                        assert_eq!(by, leader.as_deref(), "{} at {at}", kv.key);
                        checked += 1;
                    }
                    Change::Delete(_) => {}
                }
            }
        }
        checked
    })
}

#[test]
fn a_leader_that_is_killed_or_sleeps_past_its_lease_leaves_everything_right_and_writes_nothing_when_it_wakes() {
    let _machine = Machine::shared();
    let etcd = Etcd::start();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for prefix in ["/one", "/two"] {
            let etcd = &etcd;
            scope.spawn(move || {
                let addresses = Addresses::next();
                let mut pair = Pair::start(&addresses, etcd, prefix);
                let web = route_yaml("web", "web.example", "[{backendRefs: [{name: api0, port: 80}]}]");
                pair.replicas[0].apply(&web, &[]).ok();
                let swarm = Swarm::new();
                for (replica, name) in pair.replicas.iter().zip(["a", "b"]) {
                    swarm.join(replica.xds(), "edge1", name, 2);
                }
                (0..ROUNDS / 2).for_each(|number| round(&mut pair, number));
                ends_right(&pair, ROUNDS / 2);
                let checked = nobody_else_wrote(&pair);
                assert!(checked > ROUNDS, "only {checked} writes were found");
            });
        }
    });
    eprintln!("{ROUNDS} rounds in {:?}", began.elapsed());
}

#[test]
fn proxy_status_over_two_replicas_and_ten_thousand_streams_answers_within_a_second() {
    let _machine = Machine::alone();
    let etcd = Etcd::start();
    let addresses = Addresses::next();
    let pair = Pair::start(&addresses, &etcd, "/tidegate");
    let yaml =
        service_yaml("web", "", &[]) + &route_yaml("web", "web.example", "[{backendRefs: [{name: web, port: 80}]}]");
    pair.replicas[0].apply(&yaml, &[]).ok();
    let swarm = Swarm::new();
    for (replica, name) in pair.replicas.iter().zip(["a", "b"]) {
        swarm.join(replica.xds(), "edge1", name, 5_000);
    }
    let rows = |text: &str| text.lines().filter(|line| line.contains("edge1") && line.contains("SYNCED")).count();
    wait_for("all are connected", Duration::from_secs(120), || {
        let status = pair.replicas[0].run(&["proxy", "status"]);
        if rows(&status.stdout) == 10_000 { Ok(()) } else { Err(format!("{} {}", rows(&status.stdout), status.stderr)) }
    });
    let mut took = [(); 5].map(|()| {
        let began = Instant::now();
        let status = pair.replicas[0].run(&["proxy", "status"]).ok();
        assert_eq!((rows(&status.stdout), status.stderr.as_str()), (10_000, ""));
        began.elapsed()
    });
    took.sort();
    let median = took[2];
    let began = Instant::now();
    pair.replicas[0].run(&["proxy", "status", "-o", "name"]).ok();
    eprintln!("proxy status of 10,000 proxies: {took:?}, of which not the table {:?}", began.elapsed());
    assert!(median <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn replicas_prove_themselves_to_one_another_and_one_that_does_not_answer_is_named() {
    let _machine = Machine::shared();
    let etcd = Etcd::start();
    let addresses = Addresses::next();
    let certs = tempfile::TempDir::new().unwrap();
    let dir = certs.path().to_str().unwrap();
    let planes = ["--control-plane", "cp1", "--control-plane", "cp2", "--operator", "ann", "--site", "edge1:edge"];
    tidegate(&[&["dev-certs", dir], &planes[..]].concat()).ok();
    let file = |who: &str, name: &str| format!("{dir}/{who}/{name}");
    let flags = |who: &str, prefix: &str| {
        [("cert", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt")]
            .map(|(flag, name)| [format!("--{prefix}{flag}"), file(who, name)])
            .concat()
    };
    let start = |name: &str, identity: &str| {
        let tls = flags(identity, "api-");
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        replica(addresses.take(), &etcd, "/tidegate", name, &tls)
    };
    let (one, mut two) = (start("cp1", "control-plane/cp1"), start("cp2", "control-plane/cp2"));
    let ask = |words: &[&str]| {
        let api = one.api().replace("http://", "https://");
        let mut line = vec!["--server".to_owned(), api, "--server-name".to_owned(), "localhost".to_owned()];
        line.extend(flags("operator/ann", ""));
        line.extend(words.iter().map(|word| (*word).to_owned()));
        tidegate(&line.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let site = certs.path().join("site.yaml");
    std::fs::write(&site, sites_yaml(addresses.take(), &[])).unwrap();
    ask(&["apply", "-f", site.to_str().unwrap()]).ok();
    let swarm = Swarm::new();
    swarm.join(two.xds(), "edge1", "far", 1);
    wait_for("the other replica's proxy is seen", SOON, || {
        let status = ask(&["proxy", "status"]);
        let seen = status.stdout.contains("far-00000") && status.stdout.contains("cp2");
        if seen && status.stderr.is_empty() { Ok(()) } else { Err(format!("{status:?}")) }
    });

    // Somebody at the right place with the wrong certificate is no replica.
    let impostor = start("cp3", "edge/edge1");
    wait_for("the impostor is refused", SOON, || {
        let status = ask(&["proxy", "status"]);
        if status.stderr.contains("cp3") && status.stderr.contains("certificate") { Ok(()) } else { Err(status.stderr) }
    });
    drop(impostor);
    two.process().pause();
    let status = ask(&["proxy", "status"]).ok();
    assert!(status.stderr.contains("not all replicas answered: cp2: "), "{status:?}");
    let waited = ask(&["wait", "site/edge1", "--timeout", "100ms"]);
    assert!(waited.code != 0 && waited.stderr.contains("cp2: "), "{waited:?}");
    two.process().resume();
    wait_for("it answers again", SOON, || {
        let status = ask(&["proxy", "status"]);
        if status.stderr.is_empty() && status.stdout.contains("far-00000") { Ok(()) } else { Err(status.stderr) }
    });
}
