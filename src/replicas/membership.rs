//! What the keys of replicas and leader say, taken in change by change. Pure.

use std::sync::Arc;

use serde_json::Value;

use super::{Member, Members};
use crate::{
    model::Revision,
    store::{Change, Feed, KeyValue},
};

/// More replicas than this are not asked: a flood of keys must not become a flood of connections.
const MEMBERS_MAX: usize = 256;

/// The leader key as it was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// What has been read goes up to here.
    pub(super) at: Revision,
    /// When the key was made; none: it is absent.
    pub(super) made: Option<Revision>,
}

/// The text of a registration.
pub(super) fn value(member: &Member) -> String {
    serde_json::json!({ "api": member.api, "version": member.version, "instance": member.instance }).to_string()
}

/// Reads a registration; what is not JSON stands for a replica that nobody can ask, and it is named as such.
pub(super) fn parse(value: &[u8]) -> Member {
    let value: Value = serde_json::from_slice(value).unwrap_or_default();
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Member { api: text("api"), version: text("version"), instance: text("instance") }
}

/// Up to where a message has read.
pub(super) fn at(feed: &Feed) -> Option<Revision> {
    match feed {
        Feed::Reset(listing) => Some(listing.revision),
        Feed::Batch(batch) => Some(batch.revision),
        _ => None,
    }
}

/// What stands for a registration while it is given up: whoever goes without has not stopped of its own accord.
pub(super) const FAREWELL: &str = r#"{"leaving":true}"#;

/// Whether a registration is being given up.
pub(super) fn leaves(value: &[u8]) -> bool {
    value == FAREWELL.as_bytes()
}

/// The keys that a message says are there.
pub(super) fn written(feed: &Feed) -> impl Iterator<Item = &KeyValue> {
    let (listed, changes) = match feed {
        Feed::Reset(listing) => (listing.entries.as_slice(), [].as_slice()),
        Feed::Batch(batch) => ([].as_slice(), batch.changes.as_slice()),
        _ => ([].as_slice(), [].as_slice()),
    };
    listed.iter().chain(changes.iter().filter_map(|change| match change {
        Change::Put(entry) => Some(entry),
        Change::Delete(_) => None,
    }))
}

/// Takes a message of the prefix `replicas/` in; `None`: nothing is different. While the store is away the last known
/// replicas stand, or none are known if it never answered.
pub(super) fn members(known: Option<&Members>, prefix: &str, feed: &Feed) -> Option<Members> {
    let mut new = known.cloned().unwrap_or_default();
    let put = |new: &mut Members, entry: &KeyValue| {
        let name = entry.key.strip_prefix(prefix).filter(|name| !name.is_empty() && !name.contains('/'));
        if let Some(name) = name
            && leaves(&entry.value)
        {
            new.remove(name);
        } else if let Some(name) = name
            && (new.len() < MEMBERS_MAX || new.contains_key(name))
        {
            new.insert(Arc::from(name), parse(&entry.value));
        }
    };
    match feed {
        Feed::Reset(listing) => {
            new.clear();
            listing.entries.iter().for_each(|entry| put(&mut new, entry));
        }
        Feed::Batch(batch) => {
            for change in &batch.changes {
                match change {
                    Change::Put(entry) => put(&mut new, entry),
                    Change::Delete(key) => {
                        key.strip_prefix(prefix).map(|name| new.remove(name));
                    }
                }
            }
        }
        _ => return None,
    }
    (known != Some(&new)).then_some(new)
}

/// Takes a message of the leader key in.
pub(super) fn leader(seen: Seen, key: &str, feed: &Feed) -> Seen {
    match feed {
        Feed::Reset(listing) => {
            let made = listing.entries.iter().find(|entry| entry.key == key).map(|entry| entry.create_revision);
            Seen { at: listing.revision, made }
        }
        Feed::Batch(batch) => {
            let mut made = seen.made;
            for change in &batch.changes {
                match change {
                    Change::Put(entry) if entry.key == key => made = Some(entry.create_revision),
                    Change::Delete(gone) if gone == key => made = None,
                    _ => {}
                }
            }
            Seen { at: batch.revision, made }
        }
        _ => seen,
    }
}
