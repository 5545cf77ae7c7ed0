//! What one stream asks for of one type.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use super::{Names, name};

/// A wildcard, names, glob collections, or all of them (xDS: "How the client specifies what resources to return").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    wildcard: bool,
    /// Those of glob collections among them.
    names: Names,
    /// How many of the names are collections.
    globs: usize,
    /// Sum of the names' hashes: free of order, so that a set which grows name by name costs one hash a step.
    hash: u64,
}

impl Subscription {
    /// Whether a resource of that name is wanted.
    pub fn contains(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name) || self.collects(name)
    }

    /// Whether a collection that is asked for has a member of that name.
    fn collects(&self, member: &str) -> bool {
        self.globs > 0 && name::collection(member).is_some_and(|glob| self.names.contains(&glob))
    }

    /// All that is wanted is in [`Subscription::names`].
    pub fn named_only(&self) -> bool {
        !self.wildcard && self.globs == 0
    }

    /// How many collections are asked for.
    pub fn globs(&self) -> usize {
        self.globs
    }

    /// Whether everything is wanted.
    pub fn wildcard(&self) -> bool {
        self.wildcard
    }

    /// Sets or ends the wildcard; names stay. Returns whether that changed anything.
    pub fn set_wildcard(&mut self, on: bool) -> bool {
        std::mem::replace(&mut self.wildcard, on) != on
    }

    /// The names that are asked for by name, sorted; those of collections among them.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Nothing is wanted.
    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// Adds a name; false if it was there.
    pub fn insert(&mut self, name: Arc<str>) -> bool {
        let (hash, glob) = (hash_of(&name), name::is_glob(&name));
        let new = self.names.insert(name);
        if new {
            self.globs += usize::from(glob);
            self.hash = self.hash.wrapping_add(hash);
        }
        new
    }

    /// Adds many names; at once where there are none yet.
    pub fn extend(&mut self, names: Vec<Arc<str>>) {
        if self.names.is_empty() {
            self.names = names.into();
            self.globs = self.names.iter().filter(|name| name::is_glob(name)).count();
            self.hash = self.names.iter().map(|name| hash_of(name)).fold(0, u64::wrapping_add);
        } else {
            for name in names {
                self.insert(name);
            }
        }
    }

    /// Takes a name out; false if it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        let had = self.names.remove(name);
        if had {
            self.globs -= usize::from(name::is_glob(name));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_come_together_are_as_those_that_come_one_by_one() {
        let glob = "xdstp://a/t/x/*";
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>();
        let (mut together, mut apart) = (Subscription::default(), Subscription::default());
        together.extend(names(&["b", glob, "a", "b"]));
        together.extend(names(&["a", "c"]));
        for name in names(&["a", "b", "c", glob]) {
            apart.insert(name);
        }
        assert_eq!(together, apart);
        assert_eq!((together.digest(), together.globs()), (apart.digest(), 1));
    }

    /// Streams that ask for different things stand in different places of the tables by digest.
    #[test]
    fn different_subscriptions_have_different_digests() {
        let digest = |names: &[&str], wildcard| {
            let mut subscription = Subscription::default();
            subscription.extend(names.iter().map(|name| Arc::from(*name)).collect());
            subscription.set_wildcard(wildcard);
            subscription.digest()
        };
        let all: std::collections::BTreeSet<u64> = [&[][..], &["a"], &["b"], &["a", "b"], &["ab"]]
            .into_iter()
            .flat_map(|names| [digest(names, false), digest(names, true)])
            .collect();
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn a_collection_holds_its_members_until_it_is_taken_out() {
        let mut subscription = Subscription::default();
        let glob = "xdstp://a/t/x/*?b=1";
        assert!(subscription.insert(glob.into()) && !subscription.named_only());
        assert!(subscription.contains("xdstp://a/t/x/y?b=1") && subscription.contains(glob));
        for other in ["xdstp://a/t/x/y", "xdstp://a/t/x/y/z?b=1", "xdstp://b/t/x/y?b=1", "x/y"] {
            assert!(!subscription.contains(other), "{other}");
        }
        assert!(subscription.remove(glob) && subscription.is_empty() && subscription.named_only());
        assert!(!subscription.contains("xdstp://a/t/x/y?b=1"));
        assert_eq!(subscription.digest(), Subscription::default().digest());
    }

    #[test]
    fn a_name_that_is_put_in_twice_or_taken_out_twice_counts_once() {
        for name in ["xdstp://a/t/x/*", "x"] {
            let mut subscription = Subscription::default();
            assert!(!subscription.remove(name));
            assert!(subscription.insert(name.into()));
            let once = subscription.clone();
            assert!(!subscription.insert(name.into()));
            assert_eq!((subscription.globs(), subscription.digest()), (once.globs(), once.digest()));
            assert!(subscription.remove(name) && !subscription.remove(name));
            assert_eq!((subscription.globs(), subscription.digest()), (0, Subscription::default().digest()));
        }
    }
}
