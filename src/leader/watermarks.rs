//! Which watermarks have to be written, given what stands and what all replicas report. No I/O.

use std::{collections::BTreeMap, sync::Arc};

use super::{BYTES_MAX, OBJECTS_MAX};
use crate::{
    catalog::acked,
    model::{Keyspace, Revision, StoreKey, Watermark, Watermarks},
    replicas::{Fence, SiteReports},
    status,
    store::{Compare, Listing, Op, Transaction},
};

/// Sites and their watermarks, as a transaction puts them in place.
pub(super) type Written = Vec<(Arc<str>, Watermark)>;

/// What stands, and what has to stand.
pub(super) struct Marks {
    keyspace: Keyspace,
    prefix: String,
    standing: Watermarks,
    /// The last write of each site's key, whatever it says.
    revisions: BTreeMap<Arc<str>, Revision>,
    wanted: Watermarks,
}

impl Marks {
    pub(super) fn new(keyspace: &Keyspace) -> Self {
        let prefix = keyspace.format(&StoreKey::Acked(String::new()));
        let (standing, revisions, wanted) = (Watermarks::new(), BTreeMap::new(), Watermarks::new());
        Self { keyspace: keyspace.clone(), prefix, standing, revisions, wanted }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Takes note of what stands. A value that cannot be read is written over, and so is one that has gone back or is
    /// gone: how far a site has come stays true.
    pub(super) fn reset(&mut self, listing: &Listing) {
        (self.standing, self.revisions) = (Watermarks::new(), BTreeMap::new());
        for entry in &listing.entries {
            let Ok(StoreKey::Acked(site)) = self.keyspace.parse(&entry.key) else { continue };
            let site: Arc<str> = site.into();
            self.revisions.insert(Arc::clone(&site), entry.mod_revision);
            if let Ok(watermark) = acked::decode(&entry.value) {
                self.standing.insert(site, watermark);
            }
        }
        for (site, standing) in &self.standing {
            let wanted = self.wanted.entry(Arc::clone(site)).or_default();
            if standing.revision >= wanted.revision {
                *wanted = standing.clone();
            }
        }
    }

    /// Takes in what all replicas report; with one missing nothing may be concluded.
    pub(super) fn take(&mut self, reports: Vec<SiteReports>) {
        self.wanted = status::merge_watermarks(&self.wanted, reports);
    }

    /// The next transaction, if something has to be written.
    pub(super) fn plan(&self, fence: &Fence) -> Option<(Transaction, Written)> {
        let differs = self.wanted.iter().filter(|(site, wanted)| self.standing.get(*site) != Some(*wanted));
        let mut txn = Transaction { compares: vec![fence.compare()], ops: Vec::new() };
        let (mut written, mut bytes) = (Written::new(), 0);
        for (site, watermark) in differs.take(OBJECTS_MAX) {
            let (key, value) = (self.keyspace.format(&StoreKey::Acked(site.to_string())), acked::encode(watermark));
            bytes += key.len() + value.len();
            if bytes > BYTES_MAX {
                break;
            }
            let seen = self.revisions.get(site).copied().unwrap_or_default();
            txn.compares.push(Compare::ModRevision(key.clone(), seen));
            txn.ops.push(Op::Put { key, value, lease: None });
            written.push((Arc::clone(site), watermark.clone()));
        }
        (!written.is_empty()).then_some((txn, written))
    }

    /// A transaction of [`Marks::plan`] was committed.
    pub(super) fn written(&mut self, written: Written, at: Revision) {
        for (site, watermark) in written {
            self.revisions.insert(Arc::clone(&site), at);
            self.standing.insert(site, watermark);
        }
    }
}
