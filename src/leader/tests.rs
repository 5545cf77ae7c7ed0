//! What the leader plans: conditions, watermarks, agreement. No store, no clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{agreement::Agreement, conditions::Books, watermarks::Marks, *};
use crate::{
    catalog::{
        accepted,
        testing::{World, service},
    },
    model::{Kind, Watermark},
    replicas::{Settings, SiteReports},
    status::SiteReport,
    store::{Compare, Embedded, KeyValue, Listing},
};

fn fence() -> Fence {
    Fence { key: "/leader".into(), create_revision: Revision(4) }
}

fn listing(entries: &[(&str, Bytes)]) -> Listing {
    let entry = |(key, value): &(&str, Bytes)| KeyValue {
        key: (*key).into(),
        value: value.clone(),
        create_revision: Revision(1),
        mod_revision: Revision(2),
    };
    Listing { revision: Revision(2), entries: entries.iter().map(entry).collect(), ..Listing::default() }
}

fn keys(txn: &Transaction) -> Vec<String> {
    let key = |op: &Op| match op {
        Op::Put { key, .. } => key.clone(),
        Op::Delete { key } => format!("-{key}"),
    };
    txn.ops.iter().map(key).collect()
}

fn state(world: &World) -> Arc<State> {
    Arc::new(State {
        configuration: world.catalog.configuration().clone(),
        runtime: world.catalog.runtime().clone(),
        revision: world.listing().revision,
        freshness: Freshness::Fresh,
        problems: Arc::new(world.catalog.problems()),
        unagreed: Arc::clone(world.catalog.unagreed()),
        ..State::starting()
    })
}

fn books() -> Books {
    Books::new(&Keyspace::default(), &"a".into())
}

fn values(txn: &Transaction) -> impl Iterator<Item = &Bytes> {
    txn.ops.iter().filter_map(|op| if let Op::Put { value, .. } = op { Some(value) } else { None })
}

fn found(objects: Vec<ObjectRef>, say: &str) -> Vec<(ObjectRef, Value, bool)> {
    objects.into_iter().map(|object| (object, json!({ "say": say }), true)).collect()
}

#[test]
fn conditions_are_written_once_again_when_they_differ_and_go_with_their_objects() {
    let mut world = World::of([service("shop/a", &[80]), service("shop/b", &[80])]);
    let (mut books, mut now) = (books(), Instant::now());
    books.observe(&state(&world));
    let first = books.next(now);
    assert_eq!(first.len(), 2);
    assert!(books.next(now).len() <= 2, "the sweep at most");
    books.take(found(first, "x"), now);
    let (txn, written) = books.plan(&fence()).unwrap();
    assert_eq!(txn.compares, [fence().compare()]);
    let prefix = "/tidegate/observed/v1/status/services/shop";
    assert_eq!(keys(&txn), [format!("{prefix}/a"), format!("{prefix}/b")]);
    books.written(written, now);
    assert!(books.plan(&fence()).is_none());

    // What is no object changes none, and a state that differs only in that is no reason to look at any.
    let (one, other) = (state(&world), state(&world));
    assert!(one.configuration.is_same(&other.configuration));
    books.observe(&other);

    // The sweep finds one of them different.
    now += Duration::from_secs(2);
    let swept = books.next(now);
    assert_eq!(swept.len(), 2);
    books.take(found(swept[..1].to_vec(), "y"), now);
    books.take(found(swept[1..].to_vec(), "x"), now);
    let (txn, written) = books.plan(&fence()).unwrap();
    assert_eq!(keys(&txn), [format!("{prefix}/a")]);
    books.written(written, now);

    world.remove(&ObjectRef::new(Kind::Service, "shop", "a"));
    world.agree();
    assert!(!state(&world).configuration.is_same(&one.configuration));
    books.observe(&state(&world));
    let (txn, written) = books.plan(&fence()).unwrap();
    assert_eq!(keys(&txn), [format!("-{prefix}/a")]);
    books.written(written, now);
    // What a look finds out that began before the object went is too late.
    books.take(found(vec![ObjectRef::new(Kind::Service, "shop", "a")], "z"), now);
    assert!(books.plan(&fence()).is_none());
}

#[test]
fn a_new_leader_writes_nothing_that_stands_whoever_wrote_it() {
    let world = World::of([service("shop/a", &[80])]);
    let (mut books, now) = (books(), Instant::now());
    let key = "/tidegate/observed/v1/status/services/shop/";
    let standing = |by: &str| Bytes::from(json!({ "by": by, "say": "x" }).to_string());
    let (a, gone) = (format!("{key}a"), format!("{key}gone"));
    books.reset(&listing(&[(&a, standing("b")), (&gone, standing("b"))]));
    books.observe(&state(&world));
    let next = books.next(now);
    books.take(found(next, "x"), now);
    let (txn, _) = books.plan(&fence()).unwrap();
    assert_eq!(keys(&txn), [format!("-{gone}")]);
}

#[test]
fn counts_alone_are_written_every_ten_seconds_and_all_else_at_once() {
    let world = World::of([service("shop/a", &[80])]);
    let (mut books, mut now) = (books(), Instant::now());
    books.observe(&state(&world));
    let status = |reason: &str, acked: u32, words: &str| {
        let programmed = json!({ "type": "Programmed", "reason": reason, "message": format!("{acked} of 9") });
        let conditions = json!([{ "type": "Accepted", "message": words }, programmed]);
        json!({
            "conditions": conditions, "parents": [{ "conditions": conditions }],
            "proxies": { "acked": acked }, "laggards": [acked],
        })
    };
    let mut wrote = |seconds: u64, status: Value| {
        now += Duration::from_secs(seconds);
        let object = ObjectRef::new(Kind::Service, "shop", "a");
        books.take(vec![(object, status, true)], now);
        let planned = books.plan(&fence());
        let wrote = planned.is_some();
        planned.into_iter().for_each(|(_, written)| books.written(written, now));
        wrote
    };
    assert!(wrote(0, status("Pending", 1, "")));
    assert!(!wrote(9, status("Pending", 2, "")));
    assert!(wrote(1, status("Pending", 3, "")));
    assert!(!wrote(9, status("Pending", 4, "")));
    assert!(wrote(0, status("Pending", 4, "no such port")));
    assert!(wrote(0, status("Programmed", 9, "no such port")));
    assert!(!wrote(99, status("Programmed", 9, "no such port")));
    assert!(wrote(0, status("Programmed", 8, "no such port")));
}

#[test]
fn what_is_not_written_yet_is_not_when_it_has_ceased_to_be_so() {
    let world = World::of([service("shop/a", &[80])]);
    let (mut books, now) = (books(), Instant::now());
    books.observe(&state(&world));
    let object = ObjectRef::new(Kind::Service, "shop", "a");
    let status = |reason: &str, acked: u32| json!({ "conditions": [{ "reason": reason }], "proxies": acked });
    books.take(vec![(object.clone(), status("Programmed", 1), true)], now);
    let (_, written) = books.plan(&fence()).unwrap();
    books.written(written, now);
    books.take(vec![(object.clone(), status("Pending", 1), false)], now);
    books.take(vec![(object, status("Programmed", 2), true)], now);
    assert!(books.plan(&fence()).is_none());
}

#[test]
fn what_changed_is_looked_at_first_and_what_is_unfinished_again() {
    let many: Vec<_> = (0..150).map(|n| service(&format!("shop/s{n:03}"), &[80])).collect();
    let mut world = many.into_iter().fold(World::new(), World::with);
    let (mut books, now) = (books(), Instant::now());
    books.observe(&state(&world));
    let looks: Vec<usize> = std::iter::repeat_with(|| books.next(now).len()).take(3).collect();
    assert_eq!(looks, [60, 60, 30]);
    world.put(service("shop/s100", &[81]));
    books.observe(&state(&world));
    let changed = ObjectRef::new(Kind::Service, "shop", "s100");
    assert_eq!(books.next(now), std::slice::from_ref(&changed));
    books.take(vec![(changed.clone(), json!({}), false)], now);
    let later = now + Duration::from_secs(1);
    assert_eq!(books.next(later), [changed]);
    // Then the sweep, part by part, and from the beginning again.
    let sweep: Vec<usize> = (2..6).map(|n| books.next(now + Duration::from_secs(2 * n)).len()).collect();
    assert_eq!(sweep, [60, 60, 30, 60]);
}

#[test]
fn one_transaction_is_never_above_its_limits() {
    let many: Vec<_> = (0..150).map(|n| service(&format!("shop/s{n:03}"), &[80])).collect();
    let world = many.into_iter().fold(World::new(), World::with);
    let (mut books, now) = (books(), Instant::now());
    books.observe(&state(&world));
    let conditions = json!([{ "type": "Accepted", "message": "x".repeat(15_000) }]);
    for _ in 0..3 {
        let objects = books.next(now);
        let status = |object| (object, json!({ "conditions": conditions }), true);
        books.take(objects.into_iter().map(status).collect(), now);
    }
    let mut all = 0;
    while let Some((txn, written)) = books.plan(&fence()) {
        let bytes: usize = values(&txn).map(Bytes::len).sum();
        assert!(txn.ops.len() < 60 && bytes <= BYTES_MAX, "{} operations, {bytes} bytes", txn.ops.len());
        all += txn.ops.len();
        books.written(written, now);
    }
    assert_eq!(all, 150);
}

#[test]
fn ten_laggards_are_written_and_the_beginning_of_what_they_say() {
    let world = World::of([service("shop/a", &[80])]);
    let (mut books, now) = (books(), Instant::now());
    books.observe(&state(&world));
    let laggards: Vec<Value> = (0..50).map(|n| json!({ "proxy": n, "error": "é".repeat(300 + n) })).collect();
    let object = ObjectRef::new(Kind::Service, "shop", "a");
    books.take(vec![(object, json!({ "laggards": laggards }), true)], now);
    let (txn, _) = books.plan(&fence()).unwrap();
    let written: Value = serde_json::from_slice(values(&txn).next().unwrap()).unwrap();
    let written = written["laggards"].as_array().unwrap();
    assert_eq!(
        written.iter().map(|laggard| laggard["proxy"].as_u64().unwrap()).collect::<Vec<_>>(),
        (0..10).collect::<Vec<_>>()
    );
    let all = "é".repeat(300);
    let said = |n: usize| written[n]["error"].as_str().unwrap().strip_prefix(&all);
    assert_eq!((said(0), said(1)), (Some(""), Some("…")));
}

#[test]
fn watermarks_are_written_where_they_differ_compared_with_what_was_read() {
    let mut marks = Marks::new(&Keyspace::default());
    let old = Watermark { revision: Revision(5), connected: true, ..Watermark::default() };
    let standing =
        [("/tidegate/v1/acked/a", crate::catalog::acked::encode(&old)), ("/tidegate/v1/acked/bad", "?".into())];
    marks.reset(&listing(&standing));
    let said = |site: &str, revision: u64| -> SiteReports {
        let revision = Some(Revision(revision));
        BTreeMap::from([(site.into(), SiteReport { gateways: 1, counted: 1, revision, ..SiteReport::default() })])
    };
    marks.take(vec![said("a", 5), said("bad", 6), said("c", 7)]);
    let (txn, written) = marks.plan(&fence()).unwrap();
    assert_eq!(keys(&txn), ["/tidegate/v1/acked/bad", "/tidegate/v1/acked/c"]);
    let compares = [
        fence().compare(),
        Compare::ModRevision("/tidegate/v1/acked/bad".into(), Revision(2)),
        Compare::ModRevision("/tidegate/v1/acked/c".into(), Revision(0)),
    ];
    assert_eq!(txn.compares, compares);
    marks.written(written, Revision(9));
    assert!(marks.plan(&fence()).is_none());
    // Behind what stands nothing is written; that a site has lost its gateways is.
    marks.take(vec![said("a", 4), said("bad", 6)]);
    let (txn, _) = marks.plan(&fence()).unwrap();
    assert_eq!(keys(&txn), ["/tidegate/v1/acked/c"]);
    assert_eq!(txn.compares[1], Compare::ModRevision("/tidegate/v1/acked/c".into(), Revision(9)));
}

#[test]
fn a_watermark_does_not_go_back_when_its_key_is_spoilt_or_deleted() {
    let key = "/tidegate/v1/acked/a";
    let said = |revision: u64| -> SiteReports {
        let revision = Some(Revision(revision));
        BTreeMap::from([("a".into(), SiteReport { gateways: 1, counted: 1, revision, ..SiteReport::default() })])
    };
    let older = crate::catalog::acked::encode(&Watermark { revision: Revision(3), ..Watermark::default() });
    let spoilt = [vec![], vec![(key, Bytes::from("?"))], vec![(key, older)]];
    for stands in spoilt {
        let mut marks = Marks::new(&Keyspace::default());
        marks.take(vec![said(9)]);
        let (_, written) = marks.plan(&fence()).unwrap();
        marks.written(written, Revision(9));
        marks.reset(&listing(&stands));
        // A gateway that has just reconnected may be behind.
        marks.take(vec![said(5)]);
        let (_, written) = marks.plan(&fence()).unwrap();
        assert_eq!(written[0].1.revision, Revision(9), "{stands:?}");
    }
}

#[test]
fn sites_that_refuse_much_share_no_transaction_that_is_too_large() {
    let mut marks = Marks::new(&Keyspace::default());
    let except = (0..200).map(|n| format!("CDS/{n:03}{}:80", "x".repeat(500))).collect();
    let report = SiteReport { gateways: 1, counted: 1, revision: Some(Revision(7)), except };
    let sites = (0..40).map(|n| (format!("site{n:02}").into(), report.clone()));
    marks.take(vec![sites.collect()]);
    let mut all = 0;
    while let Some((txn, written)) = marks.plan(&fence()) {
        let bytes: usize = txn.ops.iter().map(|op| if let Op::Put { value, .. } = op { value.len() } else { 0 }).sum();
        assert!(bytes <= BYTES_MAX, "{bytes} bytes");
        all += written.len();
        marks.written(written, Revision(9));
    }
    assert_eq!(all, 40);
}

fn agree(agreement: &mut Agreement, state: &Arc<State>, now: Instant) -> Option<Transaction> {
    let verdict = agreement.ask(state, now)?.judge();
    agreement.answer(&verdict, Revision(3), &fence(), (now, 1_000))
}

#[test]
fn raw_writes_get_their_copies_with_their_age_and_raw_deletions_lose_them() {
    let mut world = World::new();
    world.apply(service("shop/old", &[80]));
    world.apply(service("shop/gone", &[80]));
    world.put(service("shop/old", &[81]));
    world.put(service("shop/new", &[80]));
    world.remove(&ObjectRef::new(Kind::Service, "shop", "gone"));
    let mut agreement = Agreement::new(&Keyspace::default(), &"a".into());
    let txn = agree(&mut agreement, &state(&world), Instant::now()).unwrap();
    let copy = "/tidegate/v1/accepted/services/shop/";
    assert_eq!(keys(&txn)[..3], [format!("{copy}new"), format!("{copy}old"), format!("-{copy}gone")]);
    assert!(keys(&txn)[3].contains("/audit/") && keys(&txn)[4] == "/tidegate/v1/head");
    let object = |name: &str, revision| {
        Compare::ModRevision(format!("/tidegate/v1/objects/services/shop/{name}"), Revision(revision))
    };
    let copied = |name: &str, revision| Compare::ModRevision(format!("{copy}{name}"), Revision(revision));
    let head = Compare::ModRevision("/tidegate/v1/head".into(), Revision(3));
    let expected = [
        vec![fence().compare(), head],
        vec![object("new", 4), copied("new", 0), object("old", 3), copied("old", 1), object("gone", 0)],
        vec![copied("gone", 2)],
    ];
    assert_eq!(txn.compares, expected.concat());
    let Op::Put { value, .. } = &txn.ops[1] else { panic!("{txn:?}") };
    let entry =
        KeyValue { key: String::new(), value: value.clone(), create_revision: Revision(9), mod_revision: Revision(9) };
    assert_eq!(accepted::decode(&entry).unwrap().0, Revision(1), "an accepted object keeps its age");

    // A state that has not read the transaction yet is not asked again; a later one is.
    agreement.written(Revision(6));
    assert!(agreement.ask(&state(&world), Instant::now()).is_none());
    world.agree();
    assert_eq!(agree(&mut agreement, &state(&world), Instant::now()), None);
}

#[test]
fn nothing_is_concluded_while_the_other_replicas_are_not_known() {
    let settings =
        Settings { name: "a".into(), advertise: String::new(), caution: None, ttl: Duration::from_secs(9), tls: None };
    let store = Embedded::in_memory().unwrap();
    // It never runs, so it is never told.
    let (replicas, _run) = Replicas::join(settings, store, &Keyspace::default(), CancellationToken::new());
    assert_eq!(
        Reports::new(replicas).all(Edition::of(&Views::default(), &Feedback::default()), SiteReports::new),
        None
    );
}
