//! Frames that streams share: one per (view, type, subscription, range), encoded once.

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    absent::Absent,
    wire::{begin_message, end_message, put},
};
use crate::{
    snapshot::{Content, Group, Seq},
    xds::{Removal, Resource, ResourceType, Subscription},
};

/// Responses are split here; a stream's first response of a whole set (CDS, LDS, SRDS) never is (O28).
const SPLIT: usize = 1 << 20;

/// Ranges that a fan-out remembers: streams are at most a few publishes apart.
const REMEMBERED: usize = 8;

/// The next nonce of this process: a frame goes out at most once per stream, so it is unique in each.
static NONCE: AtomicU64 = AtomicU64::new(1);

/// One delta response, immutable.
#[derive(Debug)]
pub struct Frame {
    /// Its nonce, in hex on the wire.
    pub nonce: u64,
    /// Its type URL.
    pub url: Cow<'static, str>,
    /// What it brings.
    pub resources: Vec<Arc<Resource>>,
    /// Names that are gone, or never were.
    pub removed: Vec<Arc<str>>,
    /// Why some of those that are asked for by name are not there.
    pub errors: Vec<Absent>,
    /// `system_version_info`: for people only.
    seq: Seq,
    identifier: Arc<str>,
    bytes: OnceLock<Bytes>,
}

impl Frame {
    /// A frame with a nonce of its own.
    pub fn new(
        identifier: &Arc<str>,
        url: impl Into<Cow<'static, str>>,
        seq: Seq,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
    ) -> Self {
        Self {
            nonce: NONCE.fetch_add(1, Ordering::Relaxed),
            url: url.into(),
            resources,
            removed,
            errors: Vec::new(),
            seq,
            identifier: Arc::clone(identifier),
            bytes: OnceLock::new(),
        }
    }

    /// It only renews the time to live of what it names.
    pub(super) fn renews(&self) -> bool {
        !self.resources.is_empty() && self.resources.iter().all(|r| r.ttl.is_some() && r.payload.is_empty())
    }

    /// The encoded `DeltaDiscoveryResponse` behind its gRPC prefix, as it goes out.
    pub fn bytes(&self) -> &Bytes {
        self.bytes.get_or_init(|| {
            let bodies: usize = self.resources.iter().map(|r| r.body.len()).sum();
            let names: usize = self.removed.iter().map(|n| n.len() + 6).sum();
            let mut out = BytesMut::with_capacity(bodies + names + self.url.len() + self.identifier.len() + 64);
            begin_message(&mut out);
            put(1, self.seq.to_string().as_bytes(), &mut out);
            for resource in &self.resources {
                out.put_slice(&resource.body);
            }
            put(4, self.url.as_bytes(), &mut out);
            put(5, format!("{:x}", self.nonce).as_bytes(), &mut out);
            for name in &self.removed {
                put(6, name.as_bytes(), &mut out);
            }
            self.errors.iter().for_each(|error| error.encode(9, &mut out));
            let mut control_plane = BytesMut::with_capacity(self.identifier.len() + 8);
            put(1, self.identifier.as_bytes(), &mut control_plane);
            put(7, &control_plane, &mut out);
            end_message(out)
        })
    }
}

/// Cuts what has to be sent into frames; `whole` forbids that. At least one frame, if need be an empty one.
pub fn frames(
    identifier: &Arc<str>,
    kind: ResourceType,
    seq: Seq,
    resources: Vec<Arc<Resource>>,
    mut removed: Vec<Arc<str>>,
    whole: bool,
) -> Vec<Arc<Frame>> {
    let mut out = Vec::new();
    let mut part = Vec::new();
    let mut size = removed.iter().map(|n| n.len()).sum::<usize>();
    for resource in resources {
        if !whole && size + resource.body.len() > SPLIT && !part.is_empty() {
            let (part, removed) = (std::mem::take(&mut part), std::mem::take(&mut removed));
            out.push(Arc::new(Frame::new(identifier, kind.url(), seq, part, removed)));
            size = 0;
        }
        size += resource.body.len();
        part.push(resource);
    }
    out.push(Arc::new(Frame::new(identifier, kind.url(), seq, part, removed)));
    out
}

/// The frames of one range, in the order in which they go out.
type Parts = Arc<[Arc<Frame>]>;

/// What streams with an equal (view, type, subscription) share.
#[derive(Debug)]
pub struct Fanout {
    /// They, as the view knows them.
    pub group: Arc<Group>,
    identifier: Arc<str>,
    recent: Mutex<VecDeque<(Seq, Seq, Parts)>>,
}

impl Fanout {
    /// What a stream that has everything up to `from` has to be sent; empty if nothing.
    pub fn frames(&self, content: &Content, from: Seq) -> Parts {
        // Streams that were last looked at between two publishes that concern them lack the same.
        let (from, to) = (self.group.base(from), self.group.base(content.seq()));
        if from == to {
            return Arc::default();
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, parts)) = recent.iter().find(|(f, t, _)| (*f, *t) == (from, to)) {
            return Arc::clone(parts);
        }
        let parts: Parts = self.build(content, from).into();
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back((from, to, Arc::clone(&parts)));
        parts
    }

    fn build(&self, content: &Content, from: Seq) -> Vec<Arc<Frame>> {
        let first = from == Seq(0);
        let (kind, subscription) = (self.group.kind(), self.group.subscription());
        let resource = |name: &Arc<str>| content.get(kind, name).map(|e| Arc::clone(&e.resource));
        let resources: Vec<_> = if first && subscription.named_only() {
            subscription.names().iter().filter_map(resource).collect()
        } else {
            let changed = content.changed(kind, from);
            changed.iter().filter(|n| subscription.contains(n)).filter_map(resource).collect()
        };
        let mut removed = Vec::new();
        // Removals that have to wait for something are each stream's own affair.
        if kind.removal() == Removal::AtOnce && !first {
            let gone = content.gone(kind, from).filter(|(n, _)| subscription.contains(n));
            removed.extend(gone.map(|(n, _)| Arc::clone(n)));
        }
        if resources.is_empty() && removed.is_empty() {
            return Vec::new();
        }
        let whole = first && kind.empty_is_all();
        frames(&self.identifier, kind, content.seq(), resources, removed, whole)
    }
}

/// By type and digest of the subscription.
type Interned = HashMap<(ResourceType, u64), Vec<Weak<Fanout>>>;

/// The fan-outs of one view.
#[derive(Debug)]
pub struct Fanouts {
    /// `control_plane.identifier` of every response.
    pub identifier: Arc<str>,
    interned: Mutex<Interned>,
}

impl Fanouts {
    /// None yet.
    pub fn new(identifier: Arc<str>) -> Self {
        Self { identifier, interned: Mutex::default() }
    }

    /// The fan-out of all streams that ask for exactly this.
    pub fn join(&self, kind: ResourceType, subscription: &Arc<Subscription>, content: &Content) -> Arc<Fanout> {
        let group = content.join(kind, subscription);
        let mut interned = self.interned.lock().unwrap_or_else(PoisonError::into_inner);
        if interned.len() > 64 && interned.len() == interned.capacity() {
            interned.retain(|_, same| same.iter().any(|f| f.strong_count() > 0));
        }
        let same = interned.entry((kind, subscription.digest())).or_default();
        same.retain(|f| f.strong_count() > 0);
        if let Some(found) = same.iter().filter_map(Weak::upgrade).find(|f| Arc::ptr_eq(&f.group, &group)) {
            return found;
        }
        let fanout = Arc::new(Fanout { group, identifier: Arc::clone(&self.identifier), recent: Mutex::default() });
        same.push(Arc::downgrade(&fanout));
        fanout
    }
}
