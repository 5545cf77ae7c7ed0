//! A sorted set of names that is cheap to copy: copies share its leaves, and a change copies the one that it is in. A
//! stream's set that grows name by name, while others hold what it was before, is not copied whole for each name.

use std::sync::Arc;

/// Names in a leaf, at most.
const LEAF: usize = 64;

/// Names, sorted, each once.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// In order; none is empty.
    leaves: Vec<Arc<Vec<Arc<str>>>>,
    len: usize,
}

impl Names {
    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `name` is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.leaves.get(self.leaf(name)).is_some_and(|leaf| find(leaf, name).is_ok())
    }

    /// All, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> + Clone {
        self.leaves.iter().flat_map(|leaf| leaf.iter())
    }

    /// Adds a name; false if it was there.
    pub fn insert(&mut self, name: Arc<str>) -> bool {
        let at = self.leaf(&name);
        let Some(shared) = self.leaves.get_mut(at) else {
            self.leaves.push(Arc::new(vec![name]));
            self.len += 1;
            return true;
        };
        let Err(place) = find(shared, &name) else { return false };
        let leaf = Arc::make_mut(shared);
        leaf.insert(place, name);
        if leaf.len() > LEAF {
            let second = leaf.split_off(LEAF / 2);
            self.leaves.insert(at + 1, Arc::new(second));
        }
        self.len += 1;
        true
    }

    /// Takes a name out; false if it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        let at = self.leaf(name);
        let Some(shared) = self.leaves.get_mut(at) else { return false };
        let Ok(place) = find(shared, name) else { return false };
        let leaf = Arc::make_mut(shared);
        leaf.remove(place);
        if leaf.is_empty() {
            self.leaves.remove(at);
        }
        self.len -= 1;
        true
    }

    /// The leaf in which `name` is, if it is in any.
    fn leaf(&self, name: &str) -> usize {
        let later = self.leaves.partition_point(|leaf| leaf.first().is_some_and(|first| **first <= *name));
        later.saturating_sub(1)
    }
}

fn find(leaf: &[Arc<str>], name: &str) -> Result<usize, usize> {
    leaf.binary_search_by(|other| (**other).cmp(name))
}

impl From<Vec<Arc<str>>> for Names {
    fn from(mut names: Vec<Arc<str>>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self { len: names.len(), leaves: names.chunks(LEAF).map(|leaf| Arc::new(leaf.to_vec())).collect() }
    }
}

impl PartialEq for Names {
    /// Sets that streams bring along are made of the view's own names, so that most are found equal without being read.
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<str>, &Arc<str>)| Arc::ptr_eq(one, other) || one == other;
        self.len == other.len && self.iter().zip(other.iter()).all(same)
    }
}

impl Eq for Names {}

impl<'a> IntoIterator for &'a Names {
    type Item = &'a Arc<str>;
    type IntoIter =
        std::iter::FlatMap<std::slice::Iter<'a, Arc<Vec<Arc<str>>>>, std::slice::Iter<'a, Arc<str>>, Leaf<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        let leaf: Leaf<'a> = |leaf| leaf.iter();
        self.leaves.iter().flat_map(leaf)
    }
}

type Leaf<'a> = fn(&'a Arc<Vec<Arc<str>>>) -> std::slice::Iter<'a, Arc<str>>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_set_whatever_was_put_in_and_taken_out(
            steps in prop::collection::vec((any::<bool>(), 0..300_u16), 0..600)
        ) {
            let (mut names, mut model) = (Names::default(), BTreeSet::new());
            for (put, name) in steps {
                let name = format!("n{name}");
                if put {
                    prop_assert_eq!(names.insert(name.as_str().into()), model.insert(name.clone()));
                } else {
                    prop_assert_eq!(names.remove(&name), model.remove(&name));
                }
                prop_assert_eq!(names.contains(&name), model.contains(&name));
            }
            prop_assert_eq!(names.len(), model.len());
            let together: Vec<_> = model.iter().chain(model.first()).rev().map(|name| name.as_str().into()).collect();
            prop_assert_eq!(&Names::from(together), &names);
            prop_assert!(names.iter().map(|name| &**name).eq(model.iter().map(String::as_str)));
        }
    }

    #[test]
    fn no_leaf_is_empty_nor_larger_than_it_may_be() {
        let name = |i: usize| format!("n{i:04}");
        let mut names = Names::default();
        for i in 0..=LEAF {
            let before: Vec<_> = names.leaves.iter().map(|leaf| leaf.len()).collect();
            assert!(before.iter().all(|len| (1..=LEAF).contains(len)), "{before:?}");
            assert_eq!(before.len(), usize::from(i > 0), "a leaf is full before it is cut in two");
            assert!(names.insert(name(i).into()));
        }
        assert_eq!(names.leaves.len(), 2);
        assert!((0..=LEAF).all(|i| names.remove(&name(i)) && names.leaves.iter().all(|leaf| !leaf.is_empty())));
        assert!(names.is_empty() && names.leaves.is_empty());
    }

    #[test]
    fn sets_are_equal_by_their_names_however_they_came_to_be() {
        let set = |of: &[u32]| {
            let mut names = Names::default();
            for i in of {
                names.insert(format!("n{i:04}").into());
            }
            names
        };
        let (up, down): (Vec<_>, Vec<_>) = ((0..200).collect(), (0..200).rev().collect());
        assert_eq!(set(&up), set(&down));
        assert_ne!(set(&[1, 2]), set(&[1, 3]));
        assert_ne!(set(&[1]), set(&[1, 2]));
    }

    #[test]
    fn a_copy_that_grows_shares_all_but_the_leaf_that_it_grows_in() {
        let mut names = Names::default();
        (0..1000).for_each(|i| assert!(names.insert(format!("n{i:04}").into())));
        let before = names.clone();
        names.insert("n0500a".into());
        let shared = |leaf: &&Arc<Vec<Arc<str>>>| before.leaves.iter().any(|other| Arc::ptr_eq(other, leaf));
        assert!(names.leaves.len() > 15);
        assert!(names.leaves.iter().filter(|leaf| !shared(leaf)).count() <= 2);
        assert!(!before.contains("n0500a") && names.contains("n0500a"));
    }
}
