//! Problems, sources and acknowledgements → conditions and laggards; computed when asked, from what proxies and replicas say.

mod conditions;
mod groups;
mod judged;
mod rows;
#[cfg(test)]
mod tests;
mod watermarks;

pub use conditions::{Gaps, to_json};
pub use judged::Judged;
pub use rows::{Row, TypeRow, proxies};
pub use watermarks::{Edition, SiteReport, merge_watermarks, watermarks};

use std::cell::OnceCell;

use self::groups::{Group, groups};
use crate::{
    feedback::{Acked, Feedback},
    model::{Audience, ObjectRef, Role},
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
    standings(std::slice::from_ref(object), views, feedback).pop().unwrap_or_default()
}

/// The standing of each object, as of now.
pub fn standings(objects: &[ObjectRef], views: &Views, feedback: &Feedback) -> Vec<Standing> {
    let groups = groups(views, feedback);
    let of = |object| {
        let mut standing = Standing::default();
        for group in &groups {
            count(object, group, &mut standing);
        }
        finish(standing)
    };
    objects.iter().map(of).collect()
}

/// Adds the proxies of a group to an object's standing.
fn count(object: &ObjectRef, group: &Group, standing: &mut Standing) {
    let proxy = &group.alike.one;
    let (Some(audience), Some(view)) = (&proxy.audience, &group.view) else { return };
    let members = group.alike.count();
    let content = view.read();
    if !content.ready() {
        // Nothing is known of it yet, so nothing is claimed.
        standing.total += members;
        standing.pending += members;
        return;
    }
    let mut carried = false;
    let mut worst = Worst::Acked;
    let first = OnceCell::new();
    for (name, entry, contributed) in content.carriers(object) {
        let kind = entry.resource.kind;
        let taken = proxy.taken(kind, name, entry.resource.version, entry.seq);
        if audience.role == Role::Grpc && taken == Acked::NotSubscribed {
            // It asks for the services that it calls, and for no other.
            continue;
        }
        carried = true;
        let error = match taken {
            Acked::Acked => continue,
            // Only those whose changes are refused are shown the refusal; for others it is not theirs to mend.
            Acked::Refused(error) if proxy.parked(kind, name).is_some_and(|p| contributed >= p.since) => {
                error.to_string()
            }
            Acked::Refused(_) => continue,
            Acked::Pending | Acked::NotSubscribed => String::new(),
        };
        worst = worst.max(if error.is_empty() { Worst::Pending } else { Worst::Nacked });
        // No answer names more of them.
        let first = first.get_or_init(|| group.alike.first(LAGGARDS_MAX)).iter();
        standing.laggards.extend(first.map(|member| Laggard {
            proxy: member.id.node.to_string(),
            site: audience.site.to_string(),
            kind,
            resource: name.to_string(),
            error: error.clone(),
        }));
    }
    if !carried {
        return;
    }
    standing.total += members;
    match worst {
        Worst::Acked => standing.acked += members,
        Worst::Pending => standing.pending += members,
        Worst::Nacked => standing.nacked += members,
    }
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

/// The standing of one object over several replicas, each with proxies of its own.
pub fn sum(all: impl Iterator<Item = Standing>) -> Standing {
    let mut sum = Standing::default();
    for one in all {
        sum.total += one.total;
        sum.acked += one.acked;
        sum.nacked += one.nacked;
        sum.pending += one.pending;
        sum.laggards.extend(one.laggards);
    }
    finish(sum)
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

/// The audience of a connected proxy.
pub fn audience(feedback: &Feedback, proxy: &str) -> Option<Audience> {
    feedback.proxies().into_iter().filter(|p| &*p.id.node == proxy).find_map(|p| p.audience)
}
