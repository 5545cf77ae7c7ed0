//! What the intake and a handler know together of one connection.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio::sync::Notify;

use super::gate::Permit;

/// One connection, to the handlers of its requests, which find it in their extensions: they say who it is.
#[derive(Clone, Debug, Default)]
pub struct Arrival(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Its place among those that are just being opened.
    opening: Mutex<Option<Permit<IpAddr>>>,
    site: OnceLock<Arc<str>>,
    evicted: Notify,
}

impl Arrival {
    /// It may begin.
    pub(super) fn begin(&self, opening: Permit<IpAddr>) {
        self.opening(Some(opening));
    }

    /// Its first request is read, and names this site: the next may be opened; large responses to this one take turns
    /// with those to other sites.
    pub fn known(&self, site: &Arc<str>) {
        self.0.site.get_or_init(|| Arc::clone(site));
        self.opening(None);
    }

    fn opening(&self, permit: Option<Permit<IpAddr>>) {
        let mut place = self.0.opening.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped behind the lock: that lets somebody else through.
        let before = std::mem::replace(&mut *place, permit);
        drop(place);
        drop(before);
    }

    /// The site that it named.
    pub(super) fn site(&self) -> Arc<str> {
        self.0.site.get().map_or_else(|| "".into(), Arc::clone)
    }

    /// Closes it.
    pub(super) fn evict(&self) {
        self.0.evicted.notify_one();
    }

    /// Waits until it has to be closed.
    pub(super) async fn evicted(&self) {
        self.0.evicted.notified().await;
    }
}
