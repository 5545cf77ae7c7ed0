//! What proxies may have half accepted: names that stood in a response which was refused, and that were not taken since.
//!
//! Envoy applies what is good in a response that it refuses, but does not report it when it reconnects (O9, O10). What
//! is deleted in between would stay at the proxy for ever, unless it is told that the name is gone. In state of the world
//! a response that is not answered is remembered too, since the refusal may be lost with the stream. The memory is this
//! process's: a proxy that moves to another replica between the refusal and the answer to the next response (which has
//! the names one by one) may keep one that is deleted at that moment, until it restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{feedback::ProxyId, model::Role, xds::ResourceType};

/// Proxies and types of which something is remembered; the oldest memory goes first.
const REMEMBERED: usize = 8192;
/// Names per proxy and type.
const NAMES: usize = 1024;

/// Whose memory it is: a node's id alone is only a claim, which somebody of another role may make too.
type Who = (ProxyId, Role, bool);

/// Names, and the number of the write.
type Doubted = (u64, BTreeSet<Arc<str>>);

#[derive(Debug, Default)]
struct Memory {
    names: BTreeMap<(Who, ResourceType), Doubted>,
    writes: u64,
}

/// Those of all proxies.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<Memory>);

impl Doubts {
    /// What is remembered of one proxy, of that role, and proven or not.
    pub(super) fn of(self: &Arc<Self>, proxy: &ProxyId, role: Role, proven: bool) -> Doubt {
        Doubt { all: Arc::clone(self), who: (proxy.clone(), role, proven) }
    }
}

/// Those of one proxy.
#[derive(Debug)]
pub struct Doubt {
    all: Arc<Doubts>,
    who: Who,
}

impl Doubt {
    /// What it may have without saying so.
    pub(super) fn names(&self, kind: ResourceType) -> BTreeSet<Arc<str>> {
        let all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.names.get(&(self.who.clone(), kind)).map(|(_, names)| names.clone()).unwrap_or_default()
    }

    /// Adds to that.
    pub(super) fn add(&self, kind: ResourceType, more: impl Iterator<Item = Arc<str>>) {
        let mut names = self.names(kind);
        names.extend(more.take(NAMES));
        self.set(kind, &names);
    }

    /// Replaces that, up to a limit for each.
    pub(super) fn set(&self, kind: ResourceType, names: &BTreeSet<Arc<str>>) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.who.clone(), kind);
        if names.is_empty() {
            all.names.remove(&key);
            return;
        }
        if all.names.len() >= REMEMBERED && !all.names.contains_key(&key) {
            let oldest = all.names.iter().min_by_key(|(_, (write, _))| *write).map(|(key, _)| key.clone());
            oldest.map(|oldest| all.names.remove(&oldest));
        }
        all.writes += 1;
        let write = all.writes;
        all.names.insert(key, (write, names.iter().take(NAMES).cloned().collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResourceType::{Cluster, Listener};

    fn proxy(node: &str) -> ProxyId {
        ProxyId { site: "ams".into(), node: node.into() }
    }

    fn names(of: &[&str]) -> BTreeSet<Arc<str>> {
        of.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn who_merely_bears_the_same_name_neither_sees_nor_ends_what_is_remembered() {
        let doubts = Arc::new(Doubts::default());
        let gateway = doubts.of(&proxy("a"), Role::Core, true);
        gateway.set(Cluster, &names(&["x"]));
        for other in [doubts.of(&proxy("a"), Role::Grpc, true), doubts.of(&proxy("a"), Role::Core, false)] {
            assert!(other.names(Cluster).is_empty());
            other.set(Cluster, &names(&[]));
        }
        assert_eq!(doubts.of(&proxy("a"), Role::Core, true).names(Cluster), names(&["x"]));
        assert!(gateway.names(Listener).is_empty());
        gateway.set(Cluster, &names(&[]));
        assert!(gateway.names(Cluster).is_empty());
    }

    #[test]
    fn the_oldest_memory_makes_room() {
        let doubts = Arc::new(Doubts::default());
        let of = |node: usize| doubts.of(&proxy(&node.to_string()), Role::Edge, true);
        (0..REMEMBERED).for_each(|node| of(node).set(Cluster, &names(&["x"])));
        of(0).set(Cluster, &names(&["y"]));
        of(REMEMBERED).set(Cluster, &names(&["x"]));
        assert!(of(1).names(Cluster).is_empty());
        assert_eq!((of(0).names(Cluster), of(REMEMBERED).names(Cluster)), (names(&["y"]), names(&["x"])));
        // What is nothing takes no room.
        (0..REMEMBERED).for_each(|node| of(node).set(Listener, &names(&[])));
        assert_eq!(of(0).names(Cluster), names(&["y"]));
    }
}
