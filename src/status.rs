//! Problems, sources and acknowledgements → conditions and laggards; computed when asked, nothing is stored.

mod conditions;
#[cfg(test)]
mod tests;
mod watermarks;

use std::collections::BTreeMap;

pub use conditions::to_json;
pub use watermarks::{SiteReport, merge_watermarks, watermarks};

use crate::{
    feedback::{Acked, Feedback, ProxyView},
    model::{Audience, ObjectRef},
    snapshot::Views,
    xds::ResourceType,
};

/// How many laggards one answer names; the counts are complete.
const LAGGARDS_MAX: usize = 50;

/// How far an object has come in the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Connected proxies whose view holds a resource that carries the object.
    pub total: u32,
    /// Those that have acknowledged every such resource.
    pub acked: u32,
    /// Those that refused one of them because of this object.
    pub nacked: u32,
    /// The rest.
    pub pending: u32,
    /// Who has not acknowledged what, refusals first.
    pub laggards: Vec<Laggard>,
}

/// A proxy that has not acknowledged a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Laggard {
    /// The proxy's node id.
    pub proxy: String,
    /// Its site.
    pub site: String,
    /// The resource's type.
    pub kind: ResourceType,
    /// The resource's name.
    pub resource: String,
    /// The proxy's own words; empty while pending.
    pub error: String,
}

/// The object's standing, as of now.
pub fn standing(object: &ObjectRef, views: &Views, feedback: &Feedback) -> Standing {
    let mut standing = Standing::default();
    for proxy in feedback.proxies() {
        let Some(audience) = &proxy.audience else { continue };
        let Some(view) = views.get(audience) else { continue };
        let content = view.read();
        if !content.ready() {
            // Nothing is known of it yet, so nothing is claimed.
            standing.total += 1;
            standing.pending += 1;
            continue;
        }
        let carriers: Vec<_> = content.carriers(object).collect();
        if carriers.is_empty() {
            continue;
        }
        standing.total += 1;
        let mut worst = Worst::Acked;
        for (name, entry, contributed) in carriers {
            let kind = entry.resource.kind;
            let error = match proxy.taken(kind, name, entry.resource.version, entry.seq) {
                Acked::Acked => continue,
                // Only those whose changes are refused are shown the refusal; for others it is not theirs to mend.
                Acked::Refused(error) if proxy.parked(kind, name).is_some_and(|p| contributed >= p.since) => {
                    error.to_string()
                }
                Acked::Refused(_) => continue,
                Acked::Pending | Acked::NotSubscribed => String::new(),
            };
            worst = worst.max(if error.is_empty() { Worst::Pending } else { Worst::Nacked });
            standing.laggards.push(Laggard {
                proxy: proxy.id.node.to_string(),
                site: audience.site.to_string(),
                kind,
                resource: name.to_string(),
                error,
            });
        }
        match worst {
            Worst::Acked => standing.acked += 1,
            Worst::Pending => standing.pending += 1,
            Worst::Nacked => standing.nacked += 1,
        }
    }
    finish(standing)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worst {
    Acked,
    Pending,
    Nacked,
}

fn finish(mut standing: Standing) -> Standing {
    standing.laggards.sort_by(|a, b| a.error.is_empty().cmp(&b.error.is_empty()).then_with(|| a.cmp(b)));
    standing.laggards.dedup();
    standing.laggards.truncate(LAGGARDS_MAX);
    standing
}

/// The standing of several objects together; totals are the largest, the others the worst.
pub fn merge(all: impl Iterator<Item = Standing>) -> Standing {
    let mut merged = Standing::default();
    for one in all {
        merged.total = merged.total.max(one.total);
        merged.nacked = merged.nacked.max(one.nacked);
        merged.pending = merged.pending.max(one.pending);
        merged.laggards.extend(one.laggards);
    }
    merged.acked = merged.total.saturating_sub(merged.nacked).saturating_sub(merged.pending);
    finish(merged)
}

/// One row of `proxy status`.
#[derive(Clone, Debug)]
pub struct Row {
    /// The proxy's node id.
    pub id: String,
    /// Its site, as proven or believed; the claimed one of a refused proxy.
    pub site: String,
    /// Its role.
    pub role: String,
    /// Whether a certificate proved it.
    pub proven: bool,
    /// One entry a type.
    pub types: Vec<TypeRow>,
    /// Since its stream began.
    pub connected_seconds: u64,
    /// Why it is answered nothing; empty for a served proxy.
    pub refused: String,
}

/// One type of a row.
#[derive(Clone, Debug)]
pub struct TypeRow {
    /// The type.
    pub kind: ResourceType,
    /// `SYNCED`, `PENDING`, `NACKED` or `NOT_SUBSCRIBED`.
    pub state: &'static str,
    /// How many resources its view has.
    pub resources: u32,
    /// `<resource>: <the proxy's words>`.
    pub errors: Vec<String>,
}

/// Every proxy that is connected or was refused, by id.
pub fn proxies(views: &Views, feedback: &Feedback) -> Vec<Row> {
    feedback.proxies().iter().map(|proxy| row(proxy, views)).collect()
}

fn row(proxy: &ProxyView, views: &Views) -> Row {
    // A clock that was set back shows a new connection, which is the lesser lie.
    let connected_seconds = proxy.since.elapsed().unwrap_or_default().as_secs();
    let mut row = Row {
        id: proxy.id.node.to_string(),
        site: proxy.id.site.to_string(),
        role: String::new(),
        proven: false,
        types: Vec::new(),
        connected_seconds,
        refused: proxy.refused.clone().unwrap_or_default(),
    };
    let Some(audience) = &proxy.audience else { return row };
    row.site = audience.site.to_string();
    audience.role.as_str().clone_into(&mut row.role);
    row.proven = audience.proven;
    let view = views.get(audience);
    for kind in ResourceType::ALL {
        let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
        let mut errors = Vec::new();
        let content = view.as_ref().map(|v| v.read());
        for (name, entry) in content.iter().flat_map(|c| c.entries(kind)) {
            let state = match proxy.taken(kind, name, entry.resource.version, entry.seq) {
                Acked::Acked => "SYNCED",
                Acked::Pending => "PENDING",
                Acked::NotSubscribed => "NOT_SUBSCRIBED",
                Acked::Refused(error) => {
                    errors.push(format!("{name}: {error}"));
                    "NACKED"
                }
            };
            *counts.entry(state).or_default() += 1;
        }
        let resources = counts.values().sum();
        let state = ["NACKED", "PENDING", "NOT_SUBSCRIBED"].into_iter().find(|s| counts.contains_key(s));
        row.types.push(TypeRow { kind, state: state.unwrap_or("SYNCED"), resources, errors });
    }
    row
}

/// The audience of a connected proxy.
pub fn audience(feedback: &Feedback, proxy: &str) -> Option<Audience> {
    feedback.proxies().into_iter().filter(|p| &*p.id.node == proxy).find_map(|p| p.audience)
}
