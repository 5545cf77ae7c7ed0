//! Sums, rates, bounds.

use super::*;

const EVERY: Duration = Duration::from_secs(10);

fn id(node: &str) -> ProxyId {
    ProxyId { site: "fra".into(), node: node.into() }
}

fn to(site: &str) -> Destination {
    Destination { site: site.into(), ..Destination::default() }
}

fn report(cluster: &str, site: &str, issued: u64) -> ClusterReport {
    let sent = Sent { to: to(site), issued, succeeded: issued, failed: 0, in_progress: 1 };
    ClusterReport { cluster: cluster.into(), sent: vec![sent], dropped: 2, interval: EVERY }
}

fn always(_: &str) -> bool {
    true
}

fn only(loads: &Loads, now: Instant) -> ClusterLoad {
    let mut rows = loads.clusters(now);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

#[test]
fn reports_are_summed_once_and_rates_are_those_of_the_last_reports() {
    let (loads, start) = (Arc::new(Loads::default()), Instant::now());
    let (a, b) = (loads.open(&id("a"), Role::Edge), loads.open(&id("b"), Role::Edge));
    a.report(vec![report("c", "core1", 100)], always, start).unwrap();
    a.report(vec![report("c", "core1", 50)], always, start).unwrap();
    b.report(vec![report("c", "core1", 10), report("c", "core2", 20)], always, start).unwrap();
    let row = only(&loads, start);
    assert_eq!((row.totals().issued, row.dropped), (180, 8));
    let by_site: Vec<_> = row.to.iter().map(|(to, totals, rates)| (&*to.site, totals.issued, rates.issued)).collect();
    assert_eq!(by_site, [("core1", 160, 6.0), ("core2", 20, 2.0)], "50 and 10 of the last reports, in 10 s");
    assert_eq!((row.rates().in_progress, row.proxies()), (3, 2));

    b.report(vec![], always, start).unwrap();
    assert_eq!(only(&loads, start).rates().issued, 5.0, "what is no longer reported is no load");
    drop(a);
    let row = only(&loads, start);
    assert_eq!((row.rates().issued, row.totals().issued), (0.0, 180), "sums stay when a stream ends");
}

#[test]
fn a_proxy_that_falls_silent_is_no_load_after_three_intervals() {
    let (loads, start) = (Arc::new(Loads::default()), Instant::now());
    let a = loads.open(&id("a"), Role::Core);
    a.report(vec![report("c", "core1", 100)], always, start).unwrap();
    assert_eq!(only(&loads, start + EVERY * 3).rates().issued, 10.0);
    assert_eq!(only(&loads, start + EVERY * 3 + Duration::from_millis(1)).rates().issued, 0.0);
}

#[test]
fn a_cluster_that_nobody_serves_is_not_counted_but_its_last_report_is() {
    let (loads, start) = (Arc::new(Loads::default()), Instant::now());
    let a = loads.open(&id("a"), Role::Edge);
    a.report(vec![report("made-up", "x", 9), report("c", "core1", 1)], |name| name == "c", start).unwrap();
    a.report(vec![report("c", "core1", 1)], |_| false, start).unwrap();
    assert_eq!(only(&loads, start).totals().issued, 2);
}

#[test]
fn a_third_stream_of_a_proxy_takes_the_place_of_its_first() {
    let (loads, start) = (Arc::new(Loads::default()), Instant::now());
    let open = || loads.open(&id("a"), Role::Edge);
    let (first, second) = (open(), open());
    let other = loads.open(&id("b"), Role::Edge);
    for stream in [&first, &second, &other] {
        assert_eq!(stream.report(vec![], always, start), Ok(()));
    }
    let third = open();
    assert_eq!(first.report(vec![report("c", "x", 1)], always, start), Err(Rejected::Replaced));
    for stream in [&second, &third, &other] {
        assert_eq!(stream.report(vec![], always, start), Ok(()));
    }
    assert!(loads.clusters(start).is_empty());
}

#[test]
fn equal_names_of_another_role_are_somebody_else() {
    let (loads, start) = (Arc::new(Loads::default()), Instant::now());
    let gateways = [loads.open(&id("a"), Role::Core), loads.open(&id("a"), Role::Core)];
    let client = loads.open(&id("a"), Role::Grpc);
    for gateway in &gateways {
        assert_eq!(gateway.report(vec![report("shop/web:80", "fra", 100)], always, start), Ok(()));
    }
    client.report(vec![report("shop/web:80", "fra", 1)], always, start).unwrap();
    let rows: Vec<_> = loads.clusters(start).iter().map(|row| (row.role, row.totals().issued, row.proxies())).collect();
    assert_eq!(rows, [(Role::Core, 200, 2), (Role::Grpc, 1, 1)]);
    drop(gateways);
    assert_eq!(loads.clusters(start)[1].proxies(), 1, "its stream goes on");
}

#[test]
fn more_than_a_proxy_can_send_is_refused_whole() {
    let (loads, start) = (Arc::new(Loads::default()), Instant::now());
    let a = loads.open(&id("a"), Role::Edge);
    let wrong = [report("d", "x", u64::MAX), ClusterReport { dropped: u64::MAX, ..report("d", "x", 1) }];
    for wrong in wrong {
        let refused = a.report(vec![report("c", "x", 1), wrong], always, start);
        assert_eq!(refused, Err(Rejected::Implausible("d".into())));
    }
    assert!(loads.clusters(start).is_empty());
}

#[test]
fn what_is_kept_is_bounded() {
    let (loads, start) = (Arc::new(Loads::default()), Instant::now());
    let a = loads.open(&id("a"), Role::Edge);
    let many = (0..DESTINATIONS_MAX + 50).map(|n| Sent { to: to(&format!("s{n:03}")), issued: 1, ..Sent::default() });
    let long = Sent { to: to(&"x".repeat(NAME_MAX + 1)), issued: 1, ..Sent::default() };
    let sent: Vec<_> = many.chain([long]).collect();
    let report = ClusterReport { cluster: "c".into(), sent, dropped: 0, interval: EVERY };
    a.report(vec![report], always, start).unwrap();
    let row = only(&loads, start);
    assert_eq!(row.to.len(), DESTINATIONS_MAX + 1);
    assert_eq!(row.totals().issued, DESTINATIONS_MAX as u64 + 51, "nothing is lost");
    assert!((row.rates().issued - row.totals().issued as f64 / 10.0).abs() < 1e-9);

    let later = start + KEPT;
    a.report((0..NAMED_MAX + 5).map(|n| super::tests::report(&format!("c{n}"), "x", 1)).collect(), always, later)
        .unwrap();
    let rows = loads.clusters(later);
    assert_eq!(rows.len(), NAMED_MAX + 5, "the first, without load for so long, is forgotten");
    assert_eq!(rows.iter().filter(|row| row.named).count(), NAMED_MAX);
    drop(a);
    assert!(loads.clusters(later + KEPT).is_empty());
    assert_eq!(loads.named.load(Ordering::Relaxed), 0);
    assert!(loads.sites.is_empty());
}
