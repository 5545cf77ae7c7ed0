//! What proxies may have half accepted: names that stood in a response which was refused, and that were not taken since.
//!
//! Envoy applies what is good in a response that it refuses, but does not report it when it reconnects (O9, O10). What
//! is deleted in between would stay at the proxy for ever, unless it is told that the name is gone. The memory is this
//! process's: a proxy that moves to another replica between the refusal and the answer to the next response (which has
//! the names one by one) may keep one that is deleted at that moment, until it restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{feedback::ProxyId, xds::ResourceType};

/// Proxies of which something is remembered.
const PROXIES: usize = 4096;
/// Names per proxy and type.
const NAMES: usize = 1024;

/// By proxy and type.
type Names = BTreeMap<(ProxyId, ResourceType), BTreeSet<Arc<str>>>;

/// Those of all proxies.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<Names>);

impl Doubts {
    /// What is remembered of one proxy.
    pub(super) fn of(self: &Arc<Self>, proxy: &ProxyId) -> Doubt {
        Doubt { all: Arc::clone(self), proxy: proxy.clone() }
    }
}

/// Those of one proxy.
#[derive(Debug)]
pub struct Doubt {
    all: Arc<Doubts>,
    proxy: ProxyId,
}

impl Doubt {
    /// What it may have without saying so.
    pub(super) fn names(&self, kind: ResourceType) -> BTreeSet<Arc<str>> {
        let all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(self.proxy.clone(), kind)).cloned().unwrap_or_default()
    }

    /// Replaces that; beyond the limits nothing is remembered.
    pub(super) fn set(&self, kind: ResourceType, names: &BTreeSet<Arc<str>>) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.proxy.clone(), kind);
        if names.is_empty() {
            all.remove(&key);
        } else if all.len() < PROXIES || all.contains_key(&key) {
            all.insert(key, names.iter().take(NAMES).cloned().collect());
        }
    }
}
