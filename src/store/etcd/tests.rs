//! The contract over a real etcd, and what only this store promises: deadlines, and noticing another store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use super::{Etcd, EtcdConfig, server::Server};
use crate::{
    model::Revision,
    store::{
        Change, Store, StoreError, Transaction,
        suite::{self, Harness, batch, event, put, write},
    },
};

struct Fresh {
    server: Server,
    store: Arc<Etcd>,
}

async fn etcd() -> Fresh {
    let server = Server::start().await;
    let store = server.store().await;
    Fresh { server, store }
}

#[async_trait]
impl Harness for Fresh {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn forget_history(&self) {
        self.server.compact().await;
    }
}

mod contract {
    crate::store::suite::contract_tests!(super::etcd());
}

/// Asks until the store answers.
async fn recovered(store: &dyn Store) {
    let until = Instant::now() + suite::PATIENCE;
    while let Err(error) = store.get("/").await {
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn without_etcd_every_call_answers_in_time_that_it_cannot_be_reached() {
    let endpoints = vec!["http://127.0.0.1:1".to_owned()];
    let store = Etcd::connect(EtcdConfig { endpoints, ..EtcdConfig::default() }).await.unwrap();
    let answer = timeout(Duration::from_secs(8), store.list("/")).await.expect("an answer in time");
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    let bad = Etcd::connect(EtcdConfig { endpoints: vec!["http://[".to_owned()], ..EtcdConfig::default() }).await;
    assert!(matches!(bad.map(|_| ()), Err(StoreError::Refused(_))));
}

#[tokio::test]
async fn a_page_that_is_too_large_is_asked_for_in_smaller_ones() {
    let Fresh { server: _server, store } = etcd().await;
    for n in 0..20 {
        write(&*store, vec![put(&format!("/big/{n:02}"), vec![n; 1 << 20])]).await;
    }
    let listing = store.list("/big/").await.unwrap();
    assert!(listing.entries.iter().map(|kv| kv.value[0]).eq(0..20));
}

#[tokio::test]
async fn a_frozen_etcd_fails_calls_and_watches_in_time_and_is_found_again() {
    let Fresh { server, store } = etcd().await;
    let first = write(&*store, vec![put("/a", "1")]).await;
    let mut watcher = store.watch("/", Revision(first.0 + 1)).await.unwrap();
    server.signal("STOP");
    let frozen = Instant::now();
    let answer = store.get("/a").await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(frozen.elapsed() < Duration::from_secs(7));
    let ended = event(&mut watcher).await;
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
    assert!(frozen.elapsed() < Duration::from_secs(15), "{:?}", frozen.elapsed());
    server.signal("CONT");
    recovered(&*store).await;
    let second = write(&*store, vec![put("/a", "2")]).await;
    let mut watcher = store.watch("/", second).await.unwrap();
    assert!(matches!(&batch(&mut watcher).await.changes[..], [Change::Put(kv)] if &kv.value[..] == b"2"));
}

#[tokio::test]
async fn an_older_state_of_the_store_is_noticed() {
    let Fresh { mut server, store } = etcd().await;
    write(&*store, vec![put("/a", "1")]).await;
    server.kill();
    let backup = tempfile::tempdir().unwrap();
    server.copy_data(&backup.path().join("data"));
    server.start_again().await;
    recovered(&*store).await;
    let last = write(&*store, vec![put("/a", "2")]).await;
    server.kill();
    std::fs::remove_dir_all(server.data()).unwrap();
    std::fs::rename(backup.path().join("data"), server.data()).unwrap();
    server.start_again().await;
    let until = Instant::now() + suite::PATIENCE;
    let answer = loop {
        match store.list("/").await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => sleep(Duration::from_millis(50)).await,
            answer => break answer,
        }
    };
    assert!(matches!(answer, Err(StoreError::Changed(_))), "{answer:?}");
    let watch = store.watch("/", Revision(last.0 + 1)).await.map(|_| ());
    assert!(matches!(watch, Err(StoreError::Changed(_))), "{watch:?}");
    store.adopt();
    let adopted = store.list("/a").await.unwrap();
    assert_eq!(&adopted.entries[0].value[..], b"1", "the operator's word counts");
    assert!(store.watch("/", Revision(adopted.revision.0 + 1)).await.is_ok());
}

#[tokio::test]
async fn a_user_is_known_by_the_password_and_etcd_may_be_away_at_first() {
    let mut server = Server::start().await;
    let store = server.store().await;
    let made = store.call(|client| async move {
        let mut auth = client.auth_client();
        auth.user_add("root", "secret", None).await?;
        auth.user_grant_role("root", "root").await?;
        auth.auth_enable().await
    });
    made.await.unwrap();
    server.kill();
    let config = |password: &str| EtcdConfig {
        endpoints: server.endpoints(),
        user: Some("root".to_owned()),
        password: Some(password.to_owned()),
        ..EtcdConfig::default()
    };
    let (known, unknown) = (config("secret"), config("wrong"));
    assert!(!format!("{known:?}").contains("secret"));
    let known = Etcd::connect(known).await.unwrap();
    assert!(matches!(known.get("/").await, Err(StoreError::Unavailable(_))));
    server.start_again_unready();
    recovered(&*known).await;
    write(&*known, vec![put("/a", "1")]).await;
    let unknown = Etcd::connect(unknown).await.unwrap();
    assert!(matches!(unknown.get("/a").await, Err(StoreError::Refused(_))));
    assert!(store.get("/a").await.is_err(), "nobody without a user");
}

#[tokio::test]
async fn a_key_that_is_not_text_is_left_out() {
    let Fresh { server: _server, store } = etcd().await;
    let first = write(&*store, vec![put("/a", "1")]).await;
    let raw = |client: etcd_client::Client| async move { client.kv_client().put(b"/\xff".to_vec(), "", None).await };
    store.call(raw).await.unwrap();
    let last = write(&*store, vec![put("/b", "1")]).await;
    let listing = store.list("/").await.unwrap();
    assert_eq!(listing.entries.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), ["/a", "/b"]);
    let mut watcher = store.watch("/", first).await.unwrap();
    assert_eq!(batch(&mut watcher).await.revision, first);
    assert_eq!(batch(&mut watcher).await.revision, last);
}

#[tokio::test]
async fn mutual_tls_lets_in_who_has_a_certificate() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |names: &[&str]| {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let (cert, key) = issue(&["127.0.0.1"]);
    let server = Server::start_tls([&ca.pem(), &cert, &key]);
    let (cert, key) = issue(&["tidegate"]);
    let nobody =
        EtcdConfig { endpoints: server.tls_endpoints(), ca: Some(ca.pem().into_bytes()), ..EtcdConfig::default() };
    let us = EtcdConfig { cert: Some(cert.into_bytes()), key: Some(key.into_bytes()), ..nobody.clone() };
    let store = Etcd::connect(us).await.unwrap();
    recovered(&*store).await;
    write(&*store, vec![put("/a", "1")]).await;
    let nobody = Etcd::connect(nobody).await.unwrap();
    assert!(matches!(nobody.get("/a").await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_member_of_etcd_that_is_down_costs_no_call() {
    let server = Server::start().await;
    let endpoints = [vec!["http://127.0.0.1:1".to_owned()], server.endpoints()].concat();
    let store = Etcd::connect(EtcdConfig { endpoints, ..EtcdConfig::default() }).await.unwrap();
    let mut failures = Vec::new();
    for n in 0..100 {
        let written = store.txn(Transaction { compares: Vec::new(), ops: vec![put("/a", n.to_string())] }).await;
        failures.extend(written.err());
        failures.extend(store.get("/a").await.err());
    }
    for _ in 0..20 {
        failures.extend(store.list("/").await.err());
        failures.extend(store.watch("/", Revision(2)).await.err());
        failures.extend(store.grant(Duration::from_secs(60)).await.err());
    }
    assert!(failures.is_empty(), "{} of 260 calls failed, such as {:?}", failures.len(), failures[0]);
}

#[tokio::test]
async fn a_member_of_etcd_that_stands_still_costs_one_call() {
    let server = Server::start().await;
    // Connections are taken by the system, and nobody ever reads them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = [vec![format!("http://{}", silent.local_addr().unwrap())], server.endpoints()].concat();
    let store = Etcd::connect(EtcdConfig { endpoints, ..EtcdConfig::default() }).await.unwrap();
    let mut failures = Vec::new();
    for _ in 0..20 {
        failures.extend(store.get("/a").await.err());
        failures.extend(store.list("/").await.err());
    }
    assert!(failures.len() <= 1, "{failures:?}");
}
