//! The metrics page, computed from the newest state when it is asked for.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    api::Context,
    model::{Freshness, Kind, Severity},
    status,
    telemetry::Registry,
    xds::ResourceType,
};

/// How many faulty keys are named; the count is complete.
const FAULTS_MAX: usize = 100;

type Labels = Vec<(&'static str, String)>;

/// OpenMetrics text.
pub(super) fn text(context: &Context) -> String {
    let registry = Registry::new();
    let state = std::sync::Arc::clone(&context.state.borrow());
    registry.gauge("store_revision", "Store revision that is compiled and published").set(number(state.revision.0));
    let fresh = i64::from(state.freshness == Freshness::Fresh);
    registry.gauge("store_fresh", "1 while the store's changes arrive").set(fresh);
    let frozen = i64::from(matches!(state.freshness, Freshness::Frozen { .. }));
    registry.gauge("store_frozen", "1 while the store is not the one that was followed").set(frozen);
    let registered = i64::from(context.replicas.registered());
    registry.gauge("registered", "1 while the other replicas can find this one").set(registered);
    let leads = i64::from(context.replicas.leadership().borrow().is_some());
    registry.gauge("leads", "1 while this replica leads").set(leads);
    copy(context, &registry);
    let objects = registry.gauges::<Labels>("objects", "Objects in service by kind");
    for kind in Kind::ALL {
        let count = state.configuration.all(kind).count();
        objects.get_or_create(&vec![("kind", kind.to_string())]).set(number(count as u64));
    }
    let faults: Vec<_> = state.problems.iter().filter(|p| p.severity == Severity::Error).collect();
    registry.gauge("problems", "Keys and resources that are out of service").set(number(faults.len() as u64));
    let named = registry.gauges::<Labels>("problem", "One for each fault, up to 100");
    for fault in faults.iter().take(FAULTS_MAX) {
        let labels = vec![("key", fault.key.clone()), ("reason", fault.reason.clone())];
        named.get_or_create(&labels).set(1);
    }
    proxies(context, &registry);
    load(context, &registry);
    registry.encode()
}

/// The last-known-good copy, where one is kept.
fn copy(context: &Context, registry: &Registry) {
    let Some(status) = context.control.copy() else { return };
    if let Some(made) = status.newest {
        let age = made.written.elapsed().unwrap_or_default().as_secs();
        registry.gauge("last_known_good_revision", "Store revision of the copy on disk").set(number(made.revision.0));
        registry.gauge("last_known_good_age_seconds", "Since the copy on disk was written").set(number(age));
    }
    registry.counter("last_known_good_write_failures", "Copies that could not be written").inc_by(status.failures);
}

fn proxies(context: &Context, registry: &Registry) {
    let rows = status::proxies(&context.views, &context.feedback);
    let refused = rows.iter().filter(|row| !row.refused.is_empty()).count();
    registry.gauge("proxies_refused", "Proxies that are answered nothing").set(number(refused as u64));
    let mut counts: BTreeMap<(ResourceType, &str), u64> = BTreeMap::new();
    for entry in rows.iter().flat_map(|row| row.types.iter()) {
        *counts.entry((entry.kind, entry.state)).or_default() += 1;
    }
    let sets = registry.gauges::<Labels>("largest_set_bytes", "Largest set that goes whole to a client, by type");
    for kind in [ResourceType::Cluster, ResourceType::Listener] {
        let proxies = context.feedback.proxies();
        let largest = proxies.iter().filter_map(|proxy| proxy.types.get(&kind)).map(|state| state.set).max();
        sets.get_or_create(&vec![("type", kind.short().to_owned())]).set(number(largest.unwrap_or(0) as u64));
    }
    let states = registry.gauges::<Labels>("proxies", "Connected proxies by type and state");
    for ((kind, state), count) in counts {
        let labels = vec![("type", kind.short().to_owned()), ("state", state.to_owned())];
        states.get_or_create(&labels).set(number(count));
    }
}

/// What proxies report: with labels for the first 1,000 pairs of site and cluster, the rest of a site as one.
fn load(context: &Context, registry: &Registry) {
    let counters = [
        registry.counters::<Labels>("load_requests", "Requests that proxies began, retries included"),
        registry.counters::<Labels>("load_errors", "Requests of proxies that ended badly"),
        registry.counters::<Labels>("load_dropped", "Requests that proxies dropped before they chose a destination"),
    ];
    for cluster in context.feedback.loads.clusters(Instant::now()) {
        let name = if cluster.named { cluster.cluster.to_string() } else { "(others)".to_owned() };
        let labels = vec![("site", cluster.site.to_string()), ("cluster", name)];
        let totals = cluster.totals();
        for (counter, value) in counters.iter().zip([totals.issued, totals.failed, cluster.dropped]) {
            counter.get_or_create(&labels).inc_by(value);
        }
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
