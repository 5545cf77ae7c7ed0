//! Replicas whose registration ended without a farewell: one that is cut off from the store still has its proxies, so it
//! is asked on until it is known to be gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::Status;

use super::{Member, Members, membership};
use crate::store::{Change, Feed, KeyValue};

/// How long one that cannot be reached is missed.
const KEPT: Duration = Duration::from_secs(600);
/// More than these are not asked.
const MAX: usize = 256;

/// A replica by its name, and since when it is gone from the store.
type Gone = (Arc<str>, Member, Instant);

/// Who is gone from the store, by address.
#[derive(Default)]
pub(super) struct Departed(Mutex<BTreeMap<String, Gone>>);

impl Departed {
    /// Takes note of who goes with a message of the prefix `replicas/`.
    pub(super) fn note(&self, known: &Members, prefix: &str, feed: &Feed) {
        let mut departed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        departed.retain(|_, (_, _, since)| since.elapsed() < KEPT);
        for (name, member) in lost(known, prefix, feed) {
            if departed.len() < MAX && !member.api.is_empty() {
                departed.insert(member.api.clone(), (name, member, Instant::now()));
            }
        }
        // Whoever is registered where one was lost is that one, or has its port.
        membership::written(feed).for_each(|entry| drop(departed.remove(&membership::parse(&entry.value).api)));
    }

    /// Who is missed beside the registered ones.
    pub(super) fn missed(&self, registered: &Members) -> Vec<(Arc<str>, Member)> {
        let departed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let back = |api: &str| registered.values().any(|member| member.api == api);
        let missed = departed.iter().filter(|(api, (_, _, since))| !back(api) && since.elapsed() < KEPT);
        missed.map(|(_, (name, member, _))| (Arc::clone(name), member.clone())).collect()
    }

    /// Forgets a departed replica if this answer tells that it is gone for good, and says so: nothing listens where it was.
    pub(super) fn dismiss(&self, member: &Member, answer: &Status) -> bool {
        let mut source = std::error::Error::source(answer);
        while let Some(error) = source {
            let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
            if error.downcast_ref().is_some_and(refused) {
                return self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&member.api).is_some();
            }
            source = error.source();
        }
        false
    }
}

/// The known replicas whose registration goes with a message and that did not say farewell.
fn lost(known: &Members, prefix: &str, feed: &Feed) -> Members {
    let (mut standing, mut lost) = (known.clone(), Members::new());
    match feed {
        Feed::Reset(listing) => {
            lost = standing;
            for entry in &listing.entries {
                entry.key.strip_prefix(prefix).map(|name| lost.remove(name));
            }
        }
        Feed::Batch(batch) => {
            for change in &batch.changes {
                let (Change::Put(KeyValue { key, .. }) | Change::Delete(key)) = change;
                let Some(name) = key.strip_prefix(prefix) else { continue };
                match change {
                    Change::Put(entry) if membership::leaves(&entry.value) => drop(standing.remove(name)),
                    Change::Put(entry) => drop(standing.insert(name.into(), membership::parse(&entry.value))),
                    Change::Delete(_) => lost.extend(standing.remove_entry(name)),
                }
            }
        }
        _ => {}
    }
    lost
}
