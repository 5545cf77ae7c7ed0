//! The operator API in one process, on the embedded store: what is written, what is answered, what is refused.

mod accepted;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::*;
use crate::{
    catalog::Catalog,
    feedback::{Parked, ProxyId, TypeState},
    identity::Peer,
    manifest::{self, Mode},
    model::{Audience, Object, ObjectRef, Role, Sites},
    pipeline::Pipeline,
    replicas::Settings,
    rpc::{self, applied::Outcome, operator_server::Operator},
    snapshot::{Reader, Seq},
    store::{self, Embedded, Op, Transaction},
    xds::{ResourceType, Subscription},
};

const FLEET: &str = include_str!("../../envoy-configs/examples/fleet.yaml");
const SHOP: &str = include_str!("../../envoy-configs/examples/shop.yaml");
const HTTPS: &str = include_str!("../../envoy-configs/examples/https.yaml");
/// How long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(20);

/// A control plane without its ports; its tasks end with it.
struct Plane {
    service: OperatorService,
    context: Context,
    _tasks: JoinSet<()>,
}

fn parse(reference: &ObjectRef, bytes: &[u8], mode: Mode) -> Result<(Object, Vec<String>), Vec<String>> {
    manifest::read_stored(reference, bytes, mode).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn plane() -> Plane {
    let store: Arc<dyn Store> = Embedded::in_memory().unwrap();
    let keyspace = Keyspace::default();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (feed_in, feed) = mpsc::channel(64);
    tasks.spawn(store::follow(Arc::clone(&store), keyspace.watched(), cancel.clone(), feed_in));
    let (state_in, state) = watch::channel(Arc::new(State::starting()));
    let (sites, _) = watch::channel(Arc::new(Sites::default()));
    let views = Arc::new(Views::default());
    let catalog = Catalog::new(keyspace.clone(), parse, manifest::parse_endpoint);
    let (watermarks_in, watermarks) = watch::channel(Arc::default());
    let fresh = watch::Sender::new(false);
    let pipeline =
        Pipeline { catalog, views: Arc::clone(&views), feed, state: state_in, sites, watermarks: watermarks_in, fresh };
    let stop = cancel.clone();
    tasks.spawn(async move { pipeline.run(stop).await.unwrap() });
    let ttl = Duration::from_secs(10);
    let settings = Settings { name: "test".into(), advertise: String::new(), caution: None, ttl, tls: None };
    let (replicas, registrar) = Replicas::join(settings, Arc::clone(&store), &keyspace, cancel);
    tasks.spawn(registrar);
    let (feedback, judged) = Default::default();
    let context = Context {
        store,
        keyspace,
        state,
        views,
        feedback,
        watermarks,
        replica: "test".into(),
        replicas,
        judged,
        control: StoreControl::default(),
    };
    Plane { service: OperatorService::new(context.clone()), context, _tasks: tasks }
}

/// As a caller on loopback.
fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer { spiffe: None, loopback: true });
    request
}

fn sources(texts: &[&str]) -> Vec<rpc::ManifestSource> {
    let source = |(n, text): (usize, &&str)| rpc::ManifestSource { name: format!("{n}.yaml"), text: (*text).into() };
    texts.iter().enumerate().map(source).collect()
}

fn named(kind: &str, namespace: &str, name: &str) -> rpc::ObjectRef {
    rpc::ObjectRef { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

fn a_service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: shop\n\
         spec:\n  ports:\n    - port: {port}\n"
    )
}

impl Plane {
    async fn apply_as(&self, texts: &[&str], dry_run: bool) -> Result<rpc::ApplyResponse, Status> {
        let request = rpc::ApplyRequest { sources: sources(texts), dry_run };
        self.service.apply(asked(request)).await.map(tonic::Response::into_inner)
    }

    /// Applies, and fails on a fault.
    async fn apply(&self, texts: &[&str]) -> rpc::ApplyResponse {
        let response = self.apply_as(texts, false).await.unwrap();
        assert_eq!(response.faults, [], "{texts:?}");
        response
    }

    async fn get(&self, kind: &str, name: &str) -> Vec<rpc::Object> {
        let request = rpc::GetRequest { kind: kind.into(), namespace: String::new(), name: name.into() };
        self.service.get(asked(request)).await.unwrap().into_inner().objects
    }

    async fn delete(&self, objects: Vec<rpc::ObjectRef>) -> Result<rpc::DeleteResponse, Status> {
        self.service.delete(asked(rpc::DeleteRequest { objects })).await.map(tonic::Response::into_inner)
    }

    async fn keys(&self, prefix: &str) -> BTreeMap<String, KeyRevisions> {
        let listing = self.context.store.list(prefix).await.unwrap();
        listing.entries.into_iter().map(|kv| (kv.key, (kv.create_revision.0, kv.value))).collect()
    }

    async fn audits(&self) -> Vec<Value> {
        let entries = self.keys(&format!("{}audit/", self.context.keyspace.observed())).await;
        let mut audits: Vec<_> = entries.into_values().collect();
        audits.sort();
        audits.into_iter().map(|(_, value)| serde_json::from_slice(&value).unwrap()).collect()
    }
}

/// When a key came to be, and its value.
type KeyRevisions = (u64, bytes::Bytes);

fn outcomes(response: &rpc::ApplyResponse, outcome: Outcome) -> usize {
    response.applied.iter().filter(|applied| applied.outcome() == outcome).count()
}

#[tokio::test]
async fn what_is_applied_is_got_waited_for_and_deleted() {
    let plane = plane();
    let applied = plane.apply(&[FLEET, SHOP]).await;
    let count = FLEET.matches("\nkind: ").count() + SHOP.matches("\nkind: ").count();
    assert_eq!((outcomes(&applied, Outcome::Created), applied.transactions), (count, 1));
    let objects = applied.applied.iter().filter_map(|one| one.object.clone()).collect();
    let request = rpc::WaitRequest { objects, revision: applied.revision, timeout_ms: 20_000 };
    let waited = plane.service.wait(asked(request)).await.unwrap().into_inner();
    assert!(waited.programmed && waited.no_proxies, "{waited:?}");
    assert_eq!((waited.proxies, waited.laggards.len(), waited.problems.len()), (0, 0, 0));

    let got = plane.get("route", "web").await;
    let [route] = got.as_slice() else { panic!("{got:?}") };
    let manifest: Value = serde_json::from_str(&route.manifest_json).unwrap();
    assert_eq!(manifest["spec"]["hostnames"][0], "shop.example.com");
    let status: Value = serde_json::from_str(&route.status_json).unwrap();
    assert_eq!(status["conditions"][1]["type"], "Programmed");
    assert_eq!(
        (&status["conditions"][1]["status"], &status["conditions"][1]["reason"]),
        (&"Unknown".into(), &"NoProxies".into())
    );
    assert_eq!(status["parents"][0]["parentRef"]["name"], "public");
    assert_eq!((route.create_revision, route.mod_revision), (applied.revision, applied.revision));

    let again = plane.apply(&[FLEET, SHOP]).await;
    assert_eq!((outcomes(&again, Outcome::Unchanged), again.transactions), (count, 0));
    assert_eq!(again.revision, applied.revision, "what is waited for is the revision that wrote it");

    let twice = vec![named("HTTPRoute", "shop", "web"), named("httproutes", "shop", "web"), named("svc", "shop", "no")];
    let deleted = plane.delete(twice).await.unwrap();
    assert_eq!(deleted.deleted, [named("HTTPRoute", "shop", "web")]);
    assert_eq!(deleted.missing, [named("Service", "shop", "no")]);
    assert!(deleted.revision > applied.revision);
    assert_eq!(plane.get("route", "web").await, []);
}

#[tokio::test]
async fn a_wait_for_what_does_not_exist_says_so_at_once() {
    let plane = plane();
    let applied = plane.apply(&[FLEET]).await;
    let objects = vec![named("Service", "shop", "no")];
    let request = rpc::WaitRequest { objects, revision: applied.revision, timeout_ms: 20_000 };
    let waited = plane.service.wait(asked(request)).await.unwrap().into_inner();
    assert!(!waited.programmed && waited.problems[0].contains("does not exist"), "{waited:?}");
    let request = rpc::WaitRequest { objects: vec![], revision: applied.revision + 1_000, timeout_ms: 50 };
    let waited = plane.service.wait(asked(request)).await.unwrap().into_inner();
    assert!(!waited.programmed && waited.problems[0].contains("not compiled revision"), "{waited:?}");
}

#[tokio::test]
async fn a_dry_run_and_a_refused_apply_store_nothing() {
    let plane = plane();
    let dry = plane.apply_as(&[FLEET, SHOP], true).await.unwrap();
    assert_eq!((dry.faults.len(), dry.transactions, dry.revision), (0, 0, 0));
    assert_eq!(outcomes(&dry, Outcome::Created), dry.applied.len());
    let broken = "apiVersion: tidegate.dev/v1alpha1\nkind: Service\nmetadata:\n  name: a\nspec:\n  prots: []\n";
    let refused = plane.apply_as(&[FLEET, broken, "kind: Nothing"], false).await.unwrap();
    let places: Vec<_> = refused.faults.iter().map(|fault| (fault.source.as_str(), fault.line > 0)).collect();
    assert!(places.contains(&("1.yaml", true)) && places.contains(&("2.yaml", true)), "{:?}", refused.faults);
    let twice = plane.apply_as(&[FLEET, FLEET], false).await.unwrap();
    assert!(twice.faults.iter().any(|fault| fault.message.contains("twice") && fault.source == "1.yaml"), "{twice:?}");
    let nothing = plane.apply_as(&["# nothing\n"], false).await.unwrap();
    assert!(nothing.faults[0].message.contains("no object"), "{nothing:?}");
    assert_eq!((plane.keys("/tidegate/v1/").await.len(), plane.audits().await.len()), (0, 0));
}

#[tokio::test]
async fn writers_that_meet_all_get_through_one_after_the_other() {
    let plane = Arc::new(plane());
    plane.apply(&[FLEET]).await;
    let mut writers = JoinSet::new();
    for n in 0..4 {
        let plane = Arc::clone(&plane);
        writers.spawn(async move { plane.apply(&[&a_service(&format!("s{n}"), 80), &a_service("all", 80 + n)]).await });
    }
    let mut revisions: Vec<u64> = writers.join_all().await.iter().map(|response| response.revision).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 4, "each wrote in a transaction of its own");
    assert_eq!(plane.get("service", "").await.len(), 5);
    assert_eq!(plane.audits().await.len(), 5);
}

#[tokio::test]
async fn a_large_apply_is_written_in_order_and_completed_by_another_run() {
    let plane = plane();
    let services: Vec<String> = (0..130).map(|n| a_service(&format!("s{n:03}"), 80)).collect();
    // What refers stands first, so that the order is not that of the input.
    let mut texts = vec![SHOP, FLEET];
    texts.extend(services.iter().map(String::as_str));
    let applied = plane.apply(&texts).await;
    let count = applied.applied.len();
    assert_eq!((outcomes(&applied, Outcome::Created), applied.transactions), (count, count.div_ceil(60) as u32));
    let created: BTreeMap<String, u64> =
        plane.keys("/tidegate/v1/objects/").await.into_iter().map(|(key, (created, _))| (key, created)).collect();
    let of = |plural: &str| {
        let prefix = format!("/tidegate/v1/objects/{plural}/");
        created.iter().filter(move |(key, _)| key.starts_with(&prefix)).map(|(_, created)| *created)
    };
    assert!(of("sites").max() <= of("services").min());
    assert!(of("services").max() <= of("gateways").min());
    assert!(of("gateways").max() <= of("httproutes").min());
    assert!(of("sites").max() < of("httproutes").min(), "it took several transactions");

    // As if the connection had broken before the last ones.
    plane.delete((100..130).map(|n| named("Service", "shop", &format!("s{n:03}"))).collect()).await.unwrap();
    let again = plane.apply(&texts).await;
    assert_eq!((outcomes(&again, Outcome::Created), again.transactions), (30, 1));
    assert_eq!(outcomes(&again, Outcome::Unchanged), count - 30);
    assert_eq!(plane.get("service", "").await.len(), 132);
}

#[tokio::test]
async fn each_write_leaves_an_audit_key_in_the_same_transaction() {
    let plane = plane();
    let applied = plane.apply(&[FLEET]).await;
    plane.apply(&[FLEET]).await;
    plane.delete(vec![named("Site", "", "edge1")]).await.unwrap();
    let audits = plane.audits().await;
    let [apply, delete] = audits.as_slice() else { panic!("{audits:?}") };
    assert_eq!((&apply["verb"], &delete["verb"]), (&"apply".into(), &"delete".into()));
    assert_eq!((apply["objects"].as_array().unwrap().len(), &apply["replica"]), (4, &"test".into()));
    assert!(apply["who"].as_str().is_some_and(|who| !who.is_empty()));
    assert_eq!(delete["objects"], serde_json::json!(["Site edge1"]));
    let first = plane.keys("/tidegate/observed/v1/audit/").await.into_values().map(|(created, _)| created).min();
    assert_eq!(first, Some(applied.revision));
}

#[tokio::test]
async fn an_unreadable_key_is_shown_with_its_fault_and_harms_no_other() {
    let plane = plane();
    plane.apply(&[FLEET, SHOP]).await;
    let bad = ["/tidegate/v1/objects/services/shop/bad", "/tidegate/v1/objects/services/one/part/too/many"];
    let ops = bad.map(|key| Op::Put { key: key.into(), value: "garbage: [".into(), lease: None }).into();
    plane.context.store.txn(Transaction { compares: vec![], ops }).await.unwrap();
    let shown = tokio::time::timeout(LIMIT, async {
        loop {
            let got = plane.get("service", "").await;
            if got.iter().filter(|object| !object.problems.is_empty()).count() >= 2 {
                return got;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let shown = shown.await.unwrap();
    assert_eq!(shown.len(), 4);
    for object in &shown {
        let is_bad = bad.contains(&object.key.as_str());
        assert_eq!((is_bad, is_bad), (!object.problems.is_empty(), object.manifest_json.is_empty()), "{object:?}");
    }
    let request = rpc::WaitRequest { objects: vec![named("Service", "shop", "web")], revision: 0, timeout_ms: 20_000 };
    assert!(plane.service.wait(asked(request)).await.unwrap().into_inner().programmed);
    plane.delete(vec![named("Service", "shop", "bad")]).await.unwrap();
    assert_eq!(plane.get("service", "").await.len(), 3);
}

#[tokio::test]
async fn private_keys_are_never_shown() {
    let plane = plane();
    plane.apply(&[FLEET, SHOP, HTTPS]).await;
    let got = plane.get("", "").await;
    assert!(got.iter().any(|object| object.key.contains("/certificates/")));
    assert!(!format!("{got:?}").contains("PRIVATE KEY"));
    let stored = plane.keys("/tidegate/v1/objects/certificates/").await;
    assert!(stored.values().all(|(_, value)| String::from_utf8_lossy(value).contains("PRIVATE KEY")));
}

#[tokio::test]
async fn a_caller_who_is_neither_proven_nor_on_this_machine_is_refused() {
    let plane = plane();
    let mut request = Request::new(rpc::GetRequest::default());
    request.extensions_mut().insert(Peer { spiffe: None, loopback: false });
    assert_eq!(plane.service.get(request).await.unwrap_err().code(), Code::PermissionDenied);
    let mut request = Request::new(rpc::ApplyRequest { sources: sources(&[FLEET]), dry_run: false });
    let spiffe = Some("spiffe://tidegate.local/edge/edge1".into());
    request.extensions_mut().insert(Peer { spiffe, loopback: true });
    assert_eq!(plane.service.apply(request).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(plane.keys("/").await.len(), 0);
}

#[tokio::test]
async fn a_replica_is_no_operator() {
    let plane = plane();
    let by = |name: &str| {
        let mut request = Request::new(rpc::ApplyRequest { sources: sources(&[FLEET]), dry_run: false });
        let spiffe = Some(format!("spiffe://tidegate.local/{name}"));
        request.extensions_mut().insert(Peer { spiffe, loopback: true });
        request
    };
    let refused = plane.service.apply(by("control-plane/cp1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("control-plane/cp1 is a replica"), "{refused}");
    plane.service.apply(by("operator/ann")).await.unwrap();
}

/// Everything of every type is asked for, and acknowledged, but for what is `refused`.
fn answer(reader: &Reader, proxy: &crate::feedback::Connected, refused: &[(&str, &str)]) {
    let mut all = Subscription::default();
    all.set_wildcard(true);
    for kind in ResourceType::ALL {
        let content = reader.view().read();
        let park = |(name, error): &(&str, &str)| {
            let entry = content.get(kind, name).unwrap();
            (Arc::from(*name), Parked { version: entry.resource.version, error: (*error).into(), since: entry.content })
        };
        let parked = refused.iter().filter(|_| kind == ResourceType::Route).map(park).collect();
        let (sent, acked) = (Seq(u64::MAX), Seq(u64::MAX));
        let subscription = Arc::new(all.clone());
        proxy.set(kind, TypeState { subscription, sent, acked, parked: Arc::new(parked), ..TypeState::default() });
    }
}

#[tokio::test]
async fn a_wait_ends_when_the_last_proxy_acknowledged_or_names_who_refused_and_why() {
    let plane = Arc::new(plane());
    let applied = plane.apply(&[FLEET, SHOP]).await;
    let audience = Audience { site: "edge1".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
    let id = ProxyId { site: "edge1".into(), node: "envoy-1".into() };
    let proxy = plane.context.feedback.connect(id, SystemTime::now(), Ok(audience.clone()));
    let reader = plane.context.views.open(&audience);
    let mut published = reader.view().subscribe();
    while !reader.view().read().ready() {
        tokio::time::timeout(LIMIT, published.changed()).await.unwrap().unwrap();
    }
    let wait = |timeout_ms| {
        let (plane, objects) = (Arc::clone(&plane), vec![named("HTTPRoute", "shop", "web")]);
        let request = rpc::WaitRequest { objects, revision: applied.revision, timeout_ms };
        async move { plane.service.wait(asked(request)).await.unwrap().into_inner() }
    };
    let late = wait(30).await;
    assert_eq!((late.programmed, late.no_proxies, late.proxies), (false, false, 1));
    let of = |l: &rpc::Laggard| (l.proxy.clone(), l.r#type.clone(), l.resource.clone(), l.error.clone());
    let pending = ("envoy-1".to_owned(), "RDS".to_owned(), "http/8080".to_owned(), String::new());
    assert!(late.laggards.iter().map(of).any(|laggard| laggard == pending), "{late:?}");

    let acknowledged = async {
        tokio::task::yield_now().await;
        answer(&reader, &proxy, &[]);
    };
    let (done, ()) = tokio::join!(wait(20_000), acknowledged);
    assert!(done.programmed && done.laggards.is_empty(), "{done:?}");

    answer(&reader, &proxy, &[("http/8080", "bad route")]);
    let refused = wait(20_000).await;
    let told: Vec<_> = refused.laggards.iter().map(|laggard| laggard.error.as_str()).collect();
    assert_eq!((refused.programmed, told), (false, vec!["bad route"]));
    let status: Value = serde_json::from_str(&plane.get("route", "web").await[0].status_json).unwrap();
    assert_eq!(status["conditions"][1]["reason"], "Refused");
    assert_eq!(status["laggards"][0]["error"], "bad route");
}
