//! What happens in the model: edits of objects, whims of the client, and the two replicas.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ResourceType::{Cluster, Listener, Route, Secret};
use proptest::prelude::*;

use crate::{
    model::{Audience, Revision, Role},
    snapshot::{Publish, Reader, Views},
    xds::{Resource, ResourceType},
};

pub(super) const CLUSTERS: u8 = 4;
pub(super) const ROUTES: u8 = 2;

#[derive(Clone, Debug)]
pub(super) enum Op {
    SetCluster(u8, bool),
    BumpEndpoints(u8),
    RemoveCluster(u8),
    SetRoute(u8, u8, bool),
    BumpListener(u8),
    RemoveRoute(u8),
    BumpSecret(bool),
    /// The client reads so many responses, and answers all that it has read if the flag is set.
    Read(u8, bool),
    Advance(u16),
    /// The same request once more, or one with a nonce of yore and other names.
    Again(u8),
    Stale(u8),
    /// Drops all names of a type, and asks for them again.
    Resubscribe(u8),
    /// With some reported versions untrue.
    Reconnect(u8),
    Move(u8),
    Cut,
    Notice,
    Heal,
    Confirm,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let rarely = || prop::bool::weighted(0.15);
    prop_oneof![
        4 => (0..CLUSTERS, rarely()).prop_map(|(i, bad)| Op::SetCluster(i, bad)),
        1 => (0..CLUSTERS).prop_map(Op::BumpEndpoints),
        3 => (0..CLUSTERS).prop_map(Op::RemoveCluster),
        4 => (0..ROUTES, any::<u8>(), rarely()).prop_map(|(j, mask, bad)| Op::SetRoute(j, mask, bad)),
        1 => (0..ROUTES).prop_map(Op::BumpListener),
        1 => (0..ROUTES).prop_map(Op::RemoveRoute),
        1 => rarely().prop_map(Op::BumpSecret),
        8 => (0..4_u8, any::<bool>()).prop_map(|(n, answer)| Op::Read(n, answer)),
        2 => prop_oneof![0..8_u16, 0..900_u16].prop_map(Op::Advance),
        1 => (0..5_u8).prop_map(Op::Again),
        1 => (0..5_u8).prop_map(Op::Stale),
        1 => (0..5_u8).prop_map(Op::Resubscribe),
        1 => any::<u8>().prop_map(Op::Reconnect),
        1 => any::<u8>().prop_map(Op::Move),
        1 => prop_oneof![Just(Op::Cut), Just(Op::Notice)],
        1 => Just(Op::Heal),
        2 => Just(Op::Confirm),
    ]
}

/// One publish.
pub(super) type Edit = (Vec<Resource>, Vec<(ResourceType, String)>);

pub(super) struct Replica {
    pub(super) views: Views,
    pub(super) reader: Reader,
    pub(super) fresh: bool,
    pub(super) cut: bool,
    pub(super) missed: Vec<Edit>,
}

impl Replica {
    pub(super) fn new() -> Self {
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, delta: false, cohort: "".into() };
        Self { reader: views.open(&audience), views, fresh: true, cut: false, missed: Vec::new() }
    }

    pub(super) fn catch_up(&mut self) {
        if self.cut {
            return;
        }
        for (upserts, removals) in self.missed.drain(..) {
            let removals = removals.into_iter().map(|(kind, name)| (kind, name.into())).collect();
            let changes = Publish { upserts: upserts.into_iter().map(Arc::new).collect(), removals };
            self.reader.view().publish(self.views.next_seq(), Revision(1), changes);
        }
    }
}

/// What the objects say.
#[derive(Default)]
pub(super) struct Desired {
    pub(super) edits: u32,
    pub(super) clusters: BTreeMap<u8, String>,
    pub(super) endpoints: BTreeMap<u8, String>,
    pub(super) routes: BTreeMap<u8, (String, BTreeSet<u8>)>,
    pub(super) listeners: BTreeMap<u8, String>,
    pub(super) secret: String,
}

pub(super) fn text(kind: ResourceType, name: &str, payload: &str) -> Resource {
    Resource::new(kind, name, payload.to_owned().into())
}

impl Desired {
    pub(super) fn payload(&mut self, bad: bool) -> String {
        self.edits += 1;
        format!("{}{}", if bad { "bad" } else { "good" }, self.edits)
    }

    pub(super) fn route(&self, j: u8) -> Resource {
        let (payload, clusters) = &self.routes[&j];
        let requires = clusters.iter().map(|c| (Cluster, format!("c{c}").into())).collect();
        Resource { requires, ..text(Route, &format!("r{j}"), payload) }
    }

    pub(super) fn listener(&self, j: u8) -> Resource {
        let requires = vec![(Route, format!("r{j}").into())];
        let children = vec![(Secret, "s".into()), (Secret, "t".into())];
        Resource { requires, children, ..text(Listener, &format!("l{j}"), &self.listeners[&j]) }
    }
}
