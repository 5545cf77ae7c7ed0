//! What one stream asks for of one type.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use super::Names;

/// A wildcard, names, or both (xDS: "How the client specifies what resources to return").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    wildcard: bool,
    names: Names,
    /// Sum of the names' hashes: free of order, so that a set which grows name by name costs one hash a step.
    hash: u64,
}

impl Subscription {
    /// Whether a resource of that name is wanted.
    pub fn contains(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether everything is wanted.
    pub fn wildcard(&self) -> bool {
        self.wildcard
    }

    /// Sets or ends the wildcard; names stay. Returns whether that changed anything.
    pub fn set_wildcard(&mut self, on: bool) -> bool {
        std::mem::replace(&mut self.wildcard, on) != on
    }

    /// The names that are asked for by name, sorted.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Nothing is wanted.
    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// Adds a name; false if it was there.
    pub fn insert(&mut self, name: Arc<str>) -> bool {
        let hash = hash_of(&name);
        let new = self.names.insert(name);
        if new {
            self.hash = self.hash.wrapping_add(hash);
        }
        new
    }

    /// Takes a name out; false if it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        let had = self.names.remove(name);
        if had {
            self.hash = self.hash.wrapping_sub(hash_of(name));
        }
        had
    }

    /// Equal subscriptions have equal digests; the inverse has to be compared.
    pub fn digest(&self) -> u64 {
        self.hash.rotate_left(1) ^ u64::from(self.wildcard)
    }
}

fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
