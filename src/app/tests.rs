//! Two replicas in one process, on one embedded store: they answer for one another, and one of them leads.

use clap::Parser;
use serde_json::Value;
use tonic::{Code, Request, transport::Channel};

use super::*;
use crate::{
    cli::{Cli, Command},
    feedback::{Connected, ProxyId, TypeState},
    identity::Peer as Caller,
    model::{Audience, Role},
    rpc::{self, operator_client::OperatorClient, peer_client::PeerClient, peer_server::Peer},
    snapshot::{Reader, Seq},
    xds::{ResourceType, Subscription},
};

const FLEET: &str = include_str!("../../envoy-configs/examples/fleet.yaml");
const SHOP: &str = include_str!("../../envoy-configs/examples/shop.yaml");
const LIMIT: Duration = Duration::from_secs(20);

async fn replica(store: &Arc<dyn Store>, name: &str) -> App {
    replica_with(store, name, &[]).await
}

async fn replica_with(store: &Arc<dyn Store>, name: &str, more: &[&str]) -> App {
    let free = ["--xds-listen", "--api-listen", "--http-listen"].into_iter().flat_map(|flag| [flag, "127.0.0.1:0"]);
    let line = ["tidegate", "serve", "--store", "memory", "--lease-ttl", "2s", "--replica", name];
    let Command::Serve(args) =
        Cli::try_parse_from(line.into_iter().chain(free).chain(more.iter().copied())).unwrap().command
    else {
        panic!()
    };
    let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let opened = follow(Arc::clone(store), "/tidegate/v1/".into(), &cancel, &mut tasks);
    App::start_on(&args, opened, cancel, tasks).await.unwrap()
}

async fn operator(app: &App) -> OperatorClient<Channel> {
    OperatorClient::connect(format!("http://{}", app.api)).await.unwrap()
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        let last = match look().await {
            Ok(found) => return found,
            Err(last) => last,
        };
        assert!(tokio::time::Instant::now() < end, "{what}: {last}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn apply(app: &App, texts: &[&str]) -> rpc::ApplyResponse {
    let sources = texts.iter().map(|text| rpc::ManifestSource { name: "t".into(), text: (*text).into() }).collect();
    let request = rpc::ApplyRequest { sources, dry_run: false };
    let response = operator(app).await.apply(request).await.unwrap().into_inner();
    assert_eq!(response.faults, []);
    response
}

/// Both know both.
async fn meet(a: &App, b: &App) {
    until("they meet", async || {
        let known = [a, b].map(|app| app.context.replicas.members().borrow().as_ref().map_or(0, |known| known.len()));
        if known == [2, 2] { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
}

/// A proxy of `edge1` on a replica, that has acknowledged everything.
async fn proxy(app: &App, node: &str) -> (Connected, Reader) {
    let audience = Audience { site: "edge1".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
    let id = ProxyId { site: "edge1".into(), node: node.into() };
    let proxy = app.context.feedback.connect(id, std::time::SystemTime::now(), Ok(audience.clone()));
    let reader = app.context.views.open(&audience);
    until("the view is compiled", async || if reader.view().read().ready() { Ok(()) } else { Err(String::new()) })
        .await;
    acknowledge(&proxy, u64::MAX);
    proxy.set_complete();
    (proxy, reader)
}

fn acknowledge(proxy: &Connected, up_to: u64) {
    let mut all = Subscription::default();
    all.set_wildcard(true);
    for kind in ResourceType::ALL {
        let (sent, acked, subscription) = (Seq(up_to), Seq(up_to), Arc::new(all.clone()));
        proxy.set(kind, TypeState { subscription, sent, acked, ..TypeState::default() });
    }
}

async fn status_of(store: &Arc<dyn Store>, key: &str) -> Result<Value, String> {
    let key = format!("/tidegate/observed/v1/status/{key}");
    let entry = store.get(&key).await.unwrap().ok_or_else(|| format!("{key} is not there"))?;
    Ok(serde_json::from_slice(&entry.value).unwrap())
}

#[tokio::test]
async fn a_question_to_one_replica_is_answered_for_both_or_names_who_is_missing() {
    let store: Arc<dyn Store> = Embedded::in_memory().unwrap();
    let (a, b) = (replica(&store, "a").await, replica(&store, "b").await);
    meet(&a, &b).await;
    let applied = apply(&a, &[FLEET, SHOP]).await;
    let (_one, _) = proxy(&a, "one").await;
    let (two, _reader) = proxy(&b, "two").await;
    let mut at_a = operator(&a).await;

    let status = at_a.proxy_status(rpc::ProxyStatusRequest {}).await.unwrap().into_inner();
    let rows: Vec<_> = status.proxies.iter().map(|row| (row.id.as_str(), row.replica.as_str())).collect();
    assert_eq!((rows, status.unreachable.len(), status.stale.as_str()), (vec![("one", "a"), ("two", "b")], 0, ""));
    let request = rpc::ProxyConfigRequest { proxy: "two".into(), r#type: "lds".into() };
    let config = at_a.proxy_config(request.clone()).await.unwrap().into_inner();
    assert_eq!((config.replica.as_str(), config.resources.len()), ("b", 1));

    let web = rpc::ObjectRef { kind: "HTTPRoute".into(), namespace: "shop".into(), name: "web".into() };
    let wait = |timeout_ms| rpc::WaitRequest { objects: vec![web.clone()], revision: applied.revision, timeout_ms };
    let live = at_a.wait(wait(20_000)).await.unwrap().into_inner();
    assert!(live.programmed && live.proxies == 2, "{live:?}");
    acknowledge(&two, 0);
    let late = at_a.wait(wait(50)).await.unwrap().into_inner();
    assert!(!late.programmed && late.laggards.iter().all(|laggard| laggard.proxy == "two"), "{late:?}");
    acknowledge(&two, u64::MAX);

    // As if the machine had gone: nobody gives the registration up.
    let App { mut tasks, .. } = b;
    tasks.shutdown().await;
    let lame = at_a.wait(wait(50)).await.unwrap().into_inner();
    assert!(!lame.programmed && lame.unreachable[0].starts_with("b: "), "{lame:?}");
    let status = at_a.proxy_status(rpc::ProxyStatusRequest {}).await.unwrap().into_inner();
    assert!(status.proxies.len() == 1 && status.unreachable[0].starts_with("b: "), "{status:?}");
    let get = rpc::GetRequest { kind: "HTTPRoute".into(), ..Default::default() };
    let got = at_a.get(get).await.unwrap().into_inner();
    assert!(got.unreachable.len() == 1 && got.objects[0].status_json.contains("ReplicaUnreachable"), "{got:?}");
    let unknown = at_a.proxy_config(request).await.unwrap_err();
    assert!(unknown.code() == Code::NotFound && unknown.message().contains("not all replicas"), "{unknown:?}");
    // Its lease ends, and with it the doubt.
    let alone = at_a.wait(wait(20_000)).await.unwrap().into_inner();
    assert!(alone.programmed && alone.proxies == 1 && alone.unreachable.is_empty(), "{alone:?}");
    a.stop().await.unwrap();
}

#[tokio::test]
async fn the_leader_writes_conditions_watermarks_and_accepted_copies_over_both_replicas() {
    let store: Arc<dyn Store> = Embedded::in_memory().unwrap();
    let (a, b) = (replica(&store, "a").await, replica(&store, "b").await);
    meet(&a, &b).await;
    apply(&a, &[FLEET, SHOP]).await;
    let (_one, _) = proxy(&a, "one").await;
    let (two, _reader) = proxy(&b, "two").await;
    let route = "httproutes/shop/web";
    until("both proxies are counted", async || {
        let status = status_of(&store, route).await?;
        let counts = (&status["proxies"]["acked"], &status["conditions"][1]["reason"]);
        if counts == (&2.into(), &"Programmed".into()) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    until("the watermark says so", async || {
        let mark = store.get("/tidegate/v1/acked/edge1").await.unwrap().ok_or("none")?;
        let mark = crate::catalog::acked::decode(&mark.value).unwrap();
        if mark.connected && mark.revision.0 > 0 { Ok(()) } else { Err(format!("{mark:?}")) }
    })
    .await;
    let shown = until("the watermark is shown", async || {
        let status = operator(&b).await.proxy_status(rpc::ProxyStatusRequest {}).await.unwrap().into_inner();
        status.watermarks.into_iter().find(|mark| mark.site == "edge1").ok_or_else(String::new)
    });
    assert!(shown.await.connected);

    acknowledge(&two, 0);
    until("the laggard is named", async || {
        let status = status_of(&store, route).await?;
        if status["laggards"][0]["proxy"] == "two" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;

    let key = "/tidegate/v1/objects/services/shop/raw";
    let raw = "apiVersion: tidegate.dev/v1alpha1\nkind: Service\nmetadata: {name: raw, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
    let op = Op::Put { key: key.into(), value: raw.into(), lease: None };
    store.txn(Transaction { compares: vec![], ops: vec![op] }).await.unwrap();
    let copy = "/tidegate/v1/accepted/services/shop/raw";
    until("the raw write is accepted", async || match store.get(copy).await.unwrap() {
        Some(kv) if crate::catalog::accepted::decode(&kv).unwrap().1 == raw => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    until("it has conditions", async || status_of(&store, "services/shop/raw").await).await;
    store.txn(Transaction { compares: vec![], ops: vec![Op::Delete { key: key.into() }] }).await.unwrap();
    until("the deletion is agreed to, and its conditions go", async || {
        let gone = (store.get(copy).await.unwrap(), status_of(&store, "services/shop/raw").await);
        if matches!(gone, (None, Err(_))) { Ok(()) } else { Err(format!("{gone:?}")) }
    })
    .await;
    let audits = store.list("/tidegate/observed/v1/audit/").await.unwrap().entries;
    let texts = audits.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    let words = texts.filter(|text| text.contains("\"accept\"") && text.contains("shop/raw")).count();
    assert_eq!(words, 2, "each word of the leader's is in the audit trail");
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[tokio::test]
async fn only_control_planes_may_ask_as_replicas() {
    let store: Arc<dyn Store> = Embedded::in_memory().unwrap();
    let a = replica(&store, "a").await;
    let service = PeerService::new(a.context.clone());
    let asked = async |spiffe: Option<&str>, loopback: bool| {
        let mut request = Request::new(rpc::ProxiesRequest {});
        request.extensions_mut().insert(Caller { spiffe: spiffe.map(Into::into), loopback });
        service.proxies(request).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(asked(Some("spiffe://tidegate.local/control-plane/b"), false).await, Ok(()));
    assert_eq!(asked(None, true).await, Ok(()));
    for (spiffe, loopback) in [
        (None, false),
        (Some("spiffe://tidegate.local/operator/ann"), true),
        (Some("spiffe://tidegate.local/edge/edge1"), true),
        (Some("spiffe://other/control-plane/b"), true),
    ] {
        assert_eq!(asked(spiffe, loopback).await, Err(Code::PermissionDenied), "{spiffe:?}");
    }
    PeerClient::connect(format!("http://{}", a.api)).await.unwrap().proxies(rpc::ProxiesRequest {}).await.unwrap();
    a.stop().await.unwrap();
}

#[tokio::test]
async fn an_address_that_leads_to_another_replica_is_noticed_by_whoever_asks() {
    let store: Arc<dyn Store> = Embedded::in_memory().unwrap();
    let a = replica(&store, "a").await;
    let of_a = a.api.to_string();
    let b = replica_with(&store, "b", &["--advertise", &of_a]).await;
    meet(&a, &b).await;
    let request = rpc::ProxyStatusRequest::default();
    let status = operator(&a).await.proxy_status(request).await.unwrap().into_inner();
    let [unreachable] = &status.unreachable[..] else { panic!("{status:?}") };
    assert!(unreachable.starts_with("b: ") && unreachable.contains("--advertise"), "{unreachable}");
    let status = operator(&b).await.proxy_status(request).await.unwrap().into_inner();
    assert_eq!(status.unreachable, Vec::<String>::new(), "b asks a where a is");
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[test]
fn an_address_of_this_machine_is_remarked_where_replicas_may_be_elsewhere() {
    let etcd = |urls: &[&str]| StoreUrl::Etcd(urls.iter().map(|url| (*url).to_owned()).collect());
    let far = etcd(&["https://etcd1:2379", "https://127.0.0.1:2379"]);
    for address in ["127.0.0.1:18001", "localhost:18001", "[::1]:18001", ""] {
        assert!(out_of_reach(address, &far).is_some_and(|why| why.contains("--advertise")), "{address:?}");
        assert_eq!(out_of_reach(address, &etcd(&["http://127.0.0.1:2379", "http://[::1]:2379"])), None);
        assert_eq!(out_of_reach(address, &StoreUrl::Memory), None);
    }
    assert_eq!(out_of_reach("cp1.example:18001", &far), None);
}

#[tokio::test]
async fn the_metrics_tell_who_is_registered_and_who_leads() {
    let store: Arc<dyn Store> = Embedded::in_memory().unwrap();
    let (a, b) = (replica(&store, "a").await, replica(&store, "b").await);
    meet(&a, &b).await;
    let leads = |app: &&App| app.context.replicas.leadership().borrow().is_some();
    let leader = until("one leads", async || [&a, &b].into_iter().find(leads).ok_or_else(String::new)).await;
    until("both are registered, and one leads", async || {
        let pages = [&a, &b].map(|app| metrics::text(&app.context));
        let registered = pages.iter().all(|page| page.contains("\ntidegate_registered 1\n"));
        let leads = |app: &App| if std::ptr::eq(app, leader) { "\ntidegate_leads 1\n" } else { "\ntidegate_leads 0\n" };
        let right = [&a, &b].into_iter().zip(&pages).all(|(app, page)| page.contains(leads(app)));
        if registered && right { Ok(()) } else { Err(pages.join("")) }
    })
    .await;
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}
