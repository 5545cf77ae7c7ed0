//! Who has acknowledged what, and whom a refusal is told to.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use serde_json::Value;

use super::*;
use crate::{
    feedback::{Connected, Parked, ProxyId, TypeState},
    model::{Kind, Problem, Revision, Role, Severity, Watermark, Watermarks},
    pipeline::State,
    snapshot::{Publish, Seq},
    xds::{Resource, Source, Subscription},
};
use ResourceType::{Cluster, Route};

fn audience() -> Audience {
    Audience { site: "e1".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true }
}

fn object(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::HttpRoute, "a", name)
}

/// A resource that comes from these objects, each with what it contributes.
fn resource(kind: ResourceType, name: &str, sources: &[(&str, u64)]) -> Arc<Resource> {
    let mut resource = Resource::new(kind, name, format!("{sources:?}").into_bytes().into());
    resource.sources = sources
        .iter()
        .map(|(name, contribution)| Source { object: object(name), contribution: *contribution })
        .collect();
    Arc::new(resource)
}

/// The view of one edge, and the proxies there.
struct Fleet {
    views: Views,
    reader: crate::snapshot::Reader,
    feedback: Arc<Feedback>,
}

impl Fleet {
    fn new() -> Self {
        let views = Views::default();
        let reader = views.open(&audience());
        Self { views, reader, feedback: Arc::default() }
    }

    fn publish(&self, seq: u64, upserts: Vec<Arc<Resource>>) {
        self.reader.view().publish(Seq(seq), Revision(seq), Publish { upserts, removals: Vec::new() });
    }

    fn connect(&self, node: &str) -> Connected {
        let id = ProxyId { site: "e1".into(), node: node.into() };
        self.feedback.connect(id, SystemTime::now(), Ok(audience()))
    }

    fn standing(&self, name: &str) -> Standing {
        standing(&object(name), &self.views, &self.feedback)
    }
}

/// Everything is asked for, and acknowledged up to `acked`, but for what is `refused`.
fn answer(fleet: &Fleet, proxy: &Connected, kind: ResourceType, acked: u64, refused: &[(&str, &str)]) {
    let mut subscription = Subscription::default();
    subscription.set_wildcard(true);
    let content = fleet.reader.view().read();
    let park = |(name, error): &(&str, &str)| {
        let entry = content.get(kind, name).unwrap();
        (Arc::from(*name), Parked { version: entry.resource.version, error: (*error).into(), since: entry.content })
    };
    let parked = Arc::new(refused.iter().map(park).collect());
    let subscription = Arc::new(subscription);
    proxy.set(kind, TypeState { subscription, sent: Seq(acked), acked: Seq(acked), parked, ..TypeState::default() });
}

fn counts(standing: &Standing) -> [u32; 4] {
    [standing.total, standing.acked, standing.nacked, standing.pending]
}

fn errors(standing: &Standing) -> Vec<String> {
    standing.laggards.iter().map(|l| format!("{} {} {}: {}", l.proxy, l.kind.short(), l.resource, l.error)).collect()
}

#[test]
fn programmed_means_every_resource_that_carries_the_object_at_every_proxy() {
    let fleet = Fleet::new();
    assert_eq!(fleet.standing("r"), Standing::default());
    fleet.publish(1, vec![resource(Cluster, "c", &[("r", 1)]), resource(Route, "x", &[("r", 1), ("other", 1)])]);
    let (one, two) = (fleet.connect("one"), fleet.connect("two"));
    answer(&fleet, &one, Cluster, 1, &[]);
    answer(&fleet, &one, Route, 1, &[]);
    answer(&fleet, &two, Cluster, 1, &[]);
    assert_eq!(counts(&fleet.standing("r")), [2, 1, 0, 1]);
    assert_eq!(errors(&fleet.standing("r")), ["two RDS x: "]);
    answer(&fleet, &two, Route, 1, &[]);
    assert_eq!(counts(&fleet.standing("r")), [2, 2, 0, 0]);
    fleet.publish(2, vec![resource(Route, "x", &[("r", 2), ("other", 1)])]);
    assert_eq!(counts(&fleet.standing("r")), [2, 0, 0, 2]);
    drop((one, two));
    assert_eq!(counts(&fleet.standing("r")), [0, 0, 0, 0]);
}

#[test]
fn a_refusal_is_told_to_the_object_whose_contribution_changed_and_to_no_other() {
    let fleet = Fleet::new();
    fleet.publish(1, vec![resource(Route, "x", &[("guilty", 1), ("innocent", 1)])]);
    fleet.publish(2, vec![resource(Route, "x", &[("guilty", 2), ("innocent", 1)])]);
    let proxy = fleet.connect("one");
    answer(&fleet, &proxy, Route, 2, &[("x", "bad regex")]);
    assert_eq!(counts(&fleet.standing("guilty")), [1, 0, 1, 0]);
    assert_eq!(errors(&fleet.standing("guilty")), ["one RDS x: bad regex"]);
    assert_eq!(counts(&fleet.standing("innocent")), [1, 1, 0, 0]);
    assert_eq!(errors(&fleet.standing("innocent")), Vec::<String>::new());
    assert_eq!(counts(&fleet.standing("stranger")), [0, 0, 0, 0]);
}

#[test]
fn refusals_stand_before_what_is_pending_and_a_proxy_counts_once() {
    let fleet = Fleet::new();
    fleet.publish(1, vec![resource(Cluster, "c", &[("r", 1)]), resource(Route, "x", &[("r", 1)])]);
    let proxy = fleet.connect("one");
    answer(&fleet, &proxy, Cluster, 0, &[]);
    answer(&fleet, &proxy, Route, 1, &[("x", "no")]);
    let standing = fleet.standing("r");
    assert_eq!(counts(&standing), [1, 0, 1, 0]);
    assert_eq!(errors(&standing), ["one RDS x: no", "one CDS c: "]);
    let merged = merge([standing.clone(), standing].into_iter());
    assert_eq!((counts(&merged), merged.laggards.len()), ([1, 0, 1, 0], 2));
}

/// `status reason` of `Programmed`, and of `Accepted`.
fn told(standing: &Standing, problems: &[Problem], gaps: &Gaps) -> [String; 2] {
    let state = State { problems: Arc::new(problems.to_vec()), ..State::starting() };
    let status = to_json((&object("r"), ""), &state, &Judged::of(&state), standing, gaps);
    let of = |kind: &str| {
        let all: &Vec<Value> = status["conditions"].as_array().unwrap();
        let found = all.iter().find(|c| c["type"] == kind).unwrap();
        format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
    };
    [of("Programmed"), of("Accepted")]
}

fn conditions(standing: &Standing, problems: &[Problem]) -> [String; 2] {
    told(standing, problems, &Gaps::default())
}

fn problem(severity: Severity, reason: &str) -> Problem {
    let (object, reason) = (Some(object("r")), reason.to_owned());
    Problem { object, key: String::new(), severity, reason, message: "why".into(), revision: Revision(1) }
}

#[test]
fn programmed_is_true_false_or_unknown() {
    let of = |total, acked, nacked, pending| Standing { total, acked, nacked, pending, laggards: Vec::new() };
    let programmed = |standing: Standing| conditions(&standing, &[])[0].clone();
    assert_eq!(programmed(of(0, 0, 0, 0)), "Unknown NoProxies");
    assert_eq!(programmed(of(3, 3, 0, 0)), "True Programmed");
    assert_eq!(programmed(of(3, 2, 0, 1)), "False Pending");
    assert_eq!(programmed(of(3, 1, 1, 1)), "False Refused");
    let unreachable = Gaps { unreachable: vec!["cp2".into()], ..Gaps::default() };
    let stale = Gaps { stale: "cp2: the store is away".into(), ..Gaps::default() };
    let behind = Gaps { behind: "replica cp2 has not compiled revision 7 yet".into(), ..Gaps::default() };
    for (gaps, expected) in
        [(unreachable, "Unknown ReplicaUnreachable"), (stale, "Unknown ReplicaStale"), (behind, "False Pending")]
    {
        assert_eq!(told(&of(3, 3, 0, 0), &[], &gaps)[0], expected);
        assert_eq!(told(&of(3, 2, 0, 1), &[], &gaps)[0], "False Pending");
        assert!(!gaps.none());
    }
}

#[test]
fn an_error_takes_acceptance_away_and_a_resource_left_out_programming_too() {
    let acked = Standing { total: 1, acked: 1, ..Standing::default() };
    assert_eq!(conditions(&acked, &[]), ["True Programmed", "True Accepted"]);
    let warning = problem(Severity::Warning, "Invalid");
    assert_eq!(conditions(&acked, &[warning]), ["True Programmed", "True Accepted"]);
    let left_out = problem(Severity::Error, "Invalid");
    assert_eq!(conditions(&acked, &[left_out]), ["False Invalid", "False Invalid"]);
    let conflict = problem(Severity::Error, "Conflicted");
    assert_eq!(conditions(&acked, &[conflict]), ["True Programmed", "False Conflicted"]);
}

#[test]
fn a_row_shows_each_type_by_its_worst_resource_and_a_refused_proxy_by_its_claim() {
    let fleet = Fleet::new();
    fleet.publish(1, vec![resource(Cluster, "a", &[]), resource(Cluster, "b", &[])]);
    let proxy = fleet.connect("one");
    answer(&fleet, &proxy, Cluster, 1, &[("b", "no")]);
    let claimed = ProxyId { site: "nowhere".into(), node: "two".into() };
    let _refused = fleet.feedback.connect(claimed, SystemTime::now(), Err("unknown site".into()));
    let rows = proxies(&fleet.views, &fleet.feedback);
    let [row, refused] = rows.as_slice() else { panic!("{rows:?}") };
    let clusters = &row.types[0];
    assert_eq!((clusters.kind, clusters.state, clusters.resources), (Cluster, "NACKED", 2));
    assert_eq!(clusters.errors, ["b: no"]);
    assert_eq!((row.site.as_str(), row.role.as_str(), row.proven), ("e1", "edge", true));
    assert_eq!((refused.site.as_str(), refused.refused.as_str()), ("nowhere", "unknown site"));
    assert!(refused.types.is_empty());
}

/// What ten thousand proxies say must cost what their groups cost; and each proxy still has its own row.
#[test]
fn proxies_that_stand_alike_are_counted_once_and_named_each() {
    let fleet = Fleet::new();
    fleet.publish(1, vec![resource(Cluster, "a", &[("r", 1)]), resource(Cluster, "b", &[("s", 1)])]);
    let proxies: Vec<Connected> = (0..200).map(|n| fleet.connect(&format!("p{n:03}"))).collect();
    for (n, proxy) in proxies.iter().enumerate() {
        // A fifth is behind, one refuses in words of its own.
        let refused: &[(&str, &str)] = if n == 7 { &[("a", "no")] } else { &[] };
        answer(&fleet, proxy, Cluster, u64::from(n % 5 != 0), refused);
    }
    assert_eq!(groups(&fleet.views, &fleet.feedback).len(), 3);
    let standing = fleet.standing("r");
    assert_eq!(counts(&standing), [200, 159, 1, 40]);
    let named: Vec<_> = standing.laggards.iter().map(|l| l.proxy.as_str()).collect();
    assert_eq!((named.len(), &named[..3]), (41, &["p007", "p000", "p005"][..]));
    assert_eq!(counts(&fleet.standing("s")), [200, 160, 0, 40]);
    let rows = super::proxies(&fleet.views, &fleet.feedback);
    let ids: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    assert_eq!(ids, (0..200).map(|n| format!("p{n:03}")).collect::<Vec<_>>());
    let of = |state: &str| rows.iter().filter(|row| row.types[0].state == state).count();
    assert_eq!((of("SYNCED"), of("PENDING"), of("NACKED")), (159, 40, 1));
    assert_eq!(rows[7].types[0].errors, ["a: no"]);
}

#[test]
fn replicas_are_summed_and_objects_merged_by_the_worst() {
    let laggard = |proxy: &str| Laggard {
        proxy: proxy.into(),
        site: "e1".into(),
        kind: Cluster,
        resource: "a".into(),
        error: String::new(),
    };
    let one = Standing { total: 3, acked: 2, pending: 1, laggards: vec![laggard("x")], ..Standing::default() };
    let two = Standing { total: 2, acked: 1, pending: 1, laggards: vec![laggard("y")], ..Standing::default() };
    let both = sum([one.clone(), two.clone()].into_iter());
    assert_eq!((counts(&both), both.laggards.len()), ([5, 3, 0, 2], 2));
    assert_eq!(counts(&merge([one, two].into_iter())), [3, 2, 0, 1]);
}

fn revisions(reports: &BTreeMap<Arc<str>, SiteReport>) -> Vec<(u32, u32, Option<u64>)> {
    reports.values().map(|r| (r.gateways, r.counted, r.revision.map(|r| r.0))).collect()
}

/// What is seen by one who looks only at a new edition.
fn reports(fleet: &Fleet) -> impl FnMut() -> BTreeMap<Arc<str>, SiteReport> {
    let mut seen = None;
    move || {
        let now = Edition::of(&fleet.views, &fleet.feedback);
        let report = seen.take().filter(|(edition, _)| *edition == now);
        let (_, report) = seen.insert(report.unwrap_or_else(|| (now, watermarks(&fleet.views, &fleet.feedback))));
        report.clone()
    }
}

#[test]
fn a_site_has_come_as_far_as_its_slowest_gateway_that_has_acknowledged_everything_once() {
    let fleet = Fleet::new();
    let mut report = reports(&fleet);
    assert_eq!(report(), BTreeMap::new());
    fleet.publish(1, vec![resource(Cluster, "c", &[("r", 1)])]);
    let (one, two) = (fleet.connect("one"), fleet.connect("two"));
    assert_eq!(revisions(&report()), [(2, 0, None)]);
    answer(&fleet, &one, Cluster, 1, &[]);
    assert_eq!(revisions(&report()), [(2, 0, None)]);
    one.set_complete();
    assert_eq!(revisions(&report()), [(2, 1, Some(1))]);
    fleet.publish(2, vec![resource(Cluster, "c", &[("r", 1)])]);
    assert_eq!(revisions(&report()), [(2, 1, Some(2))]);
    fleet.publish(3, vec![resource(Cluster, "c", &[("r", 3)])]);
    answer(&fleet, &two, Cluster, 3, &[]);
    answer(&fleet, &two, Route, 3, &[]);
    two.set_complete();
    assert_eq!(revisions(&report()), [(2, 2, Some(2))]);
    answer(&fleet, &one, Cluster, 3, &[]);
    assert_eq!(revisions(&report()), [(2, 2, Some(3))]);
    // The slowest of its types speaks for it.
    answer(&fleet, &two, Route, 1, &[]);
    assert_eq!(revisions(&report()), [(2, 2, Some(2))]);
    drop((one, two));
    assert_eq!(report(), BTreeMap::new());
}

#[test]
fn a_name_on_its_way_holds_a_gateway_back_and_a_refused_one_is_told_apart() {
    let fleet = Fleet::new();
    let mut report = reports(&fleet);
    fleet.publish(1, vec![resource(Cluster, "c", &[("r", 1)])]);
    fleet.publish(2, vec![resource(Cluster, "d", &[("r", 1)])]);
    let one = fleet.connect("one");
    one.set_complete();
    answer(&fleet, &one, Cluster, 2, &[("d", "bad")]);
    assert_eq!(revisions(&report()), [(1, 1, Some(2))]);
    assert_eq!(report()["e1"].except, ["CDS/d".to_owned()].into());
    answer(&fleet, &one, Cluster, 2, &[]);
    let pending = |names: &[&str]| {
        let types = fleet.feedback.proxies().remove(0).types;
        let pending = Arc::new(names.iter().map(|n| Arc::from(*n)).collect());
        one.set(Cluster, TypeState { pending, ..types[&Cluster].clone() });
    };
    pending(&["d"]);
    assert_eq!(revisions(&report()), [(1, 1, Some(1))]);
    pending(&["unknown"]);
    assert_eq!(revisions(&report()), [(1, 1, Some(2))]);
    // It says itself up to where a name that changed more than once is taken.
    let types = fleet.feedback.proxies().remove(0).types;
    one.set(Cluster, TypeState { behind: Some(Seq(0)), ..types[&Cluster].clone() });
    assert_eq!(revisions(&report()), [(1, 1, Some(0))]);
}

fn said(site: &str, gateways: u32, counted: u32, revision: u64, except: &[&str]) -> BTreeMap<Arc<str>, SiteReport> {
    let revision = (counted > 0).then_some(Revision(revision));
    let except = except.iter().map(ToString::to_string).collect();
    [(site.into(), SiteReport { gateways, counted, revision, except })].into()
}

fn watermark(revision: u64, except: &[&str], connected: bool) -> Watermark {
    Watermark { revision: Revision(revision), except: except.iter().map(ToString::to_string).collect(), connected }
}

#[test]
fn the_slowest_replica_decides_and_a_watermark_never_goes_back() {
    let stored = Watermarks::from([("a".into(), watermark(5, &["CDS/old"], true))]);
    let merged = |reports: Vec<BTreeMap<Arc<str>, SiteReport>>| {
        let merged = merge_watermarks(&stored, reports);
        (merged["a"].clone(), merged.len())
    };
    assert_eq!(merged(vec![]), (watermark(5, &["CDS/old"], false), 1));
    let both = vec![said("a", 2, 2, 9, &["CDS/x"]), said("a", 1, 1, 7, &["EDS/y"])];
    assert_eq!(merged(both), (watermark(7, &["CDS/x", "EDS/y"], true), 1));
    assert_eq!(merged(vec![said("a", 1, 1, 3, &[])]), (watermark(5, &[], true), 1));
    // Nobody counts yet: it stands still, but somebody is there.
    assert_eq!(merged(vec![said("a", 1, 0, 0, &[])]), (watermark(5, &["CDS/old"], true), 1));
    assert_eq!(merged(vec![said("a", 1, 1, 9, &[]), said("a", 3, 0, 0, &[])]), (watermark(9, &[], true), 1));
    assert_eq!(merged(vec![said("b", 1, 1, 9, &[])]).1, 2);
}

#[test]
fn a_watermark_names_a_hundred_refusals_and_then_that_there_are_more() {
    let names: Vec<String> = (0..101).map(|n| format!("CDS/s{n:03}:80")).collect();
    let merged = |names: &[String]| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let halves = names.split_at(50);
        let reports = [said("a", 1, 1, 9, halves.0), said("a", 1, 1, 9, halves.1)];
        merge_watermarks(&Watermarks::new(), reports)["a"].clone()
    };
    let all = merged(&names[..100]);
    assert_eq!(all.except.len(), 100);
    assert!(all.refuses("CDS", "s099:80") && !all.refuses("CDS", "s100:80") && !all.refuses("EDS", "s099:80"));
    let more = merged(&names);
    assert_eq!((more.except.len(), more.except.first().map(String::as_str)), (101, Some(Watermark::MORE)));
    assert!(more.refuses("EDS", "never seen:80"));
    assert_eq!(merge_watermarks(&[("a".into(), more.clone())].into(), [])["a"].except, more.except);
}

#[test]
fn a_grpc_client_counts_for_what_it_asks_for_and_never_as_a_gateway() {
    let views = Views::default();
    let client = Audience { role: Role::Grpc, ..audience() };
    let reader = views.open(&client);
    let upserts = vec![resource(Cluster, "called", &[("called", 1)]), resource(Cluster, "other", &[("other", 1)])];
    reader.view().publish(Seq(1), Revision(1), Publish { upserts, removals: Vec::new() });
    let fleet = Fleet { views, reader, feedback: Arc::default() };
    let id = ProxyId { site: "e1".into(), node: "shop".into() };
    let proxy = fleet.feedback.connect(id, SystemTime::now(), Ok(client));
    let mut subscription = Subscription::default();
    subscription.insert("called".into());
    let state = TypeState { subscription: Arc::new(subscription), sent: Seq(1), ..TypeState::default() };
    proxy.set(Cluster, state.clone());
    assert_eq!(counts(&fleet.standing("called")), [1, 0, 0, 1]);
    assert_eq!(counts(&fleet.standing("other")), [0, 0, 0, 0], "it does not call it");
    proxy.set(Cluster, TypeState { acked: Seq(1), ..state });
    proxy.set_complete();
    assert_eq!(counts(&fleet.standing("called")), [1, 1, 0, 0]);
    let rows = proxies(&fleet.views, &fleet.feedback);
    let shown = |kind| rows[0].types.iter().find(|row| row.kind == kind).map(|row| (row.state, row.resources));
    assert_eq!((shown(Cluster), shown(Route)), (Some(("SYNCED", 1)), Some(("SYNCED", 0))));
    assert_eq!(rows[0].role, "grpc");
    assert!(watermarks(&fleet.views, &fleet.feedback).is_empty());
}
