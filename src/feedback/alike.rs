//! Proxies of which the same is known, word for word. Ten thousand proxies are a few such sets, so that a question about
//! the fleet is put once for each of them and not once a proxy.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{Arc, PoisonError, atomic::Ordering},
};

use super::{Extent, Feedback, ProxyState, ProxyView, TypeState, speaker};
use crate::{model::Audience, xds::ResourceType};

/// Proxies of which the same is known; at least one.
#[derive(Debug)]
pub struct Alike {
    /// One of them, which speaks for all.
    pub one: ProxyView,
    members: Vec<Arc<ProxyState>>,
}

impl Alike {
    /// How many they are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// All of them, in no order.
    pub fn members(&self) -> impl Iterator<Item = &ProxyState> {
        self.members.iter().map(|member| &**member)
    }

    /// The first of them by id, at most so many.
    pub fn first(&self, most: usize) -> Vec<&ProxyState> {
        let mut members: Vec<_> = self.members().collect();
        if most < members.len() {
            members.select_nth_unstable_by(most, |a, b| a.id.cmp(&b.id));
            members.truncate(most);
        }
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        members
    }

    /// With others for whom the same one may speak.
    pub fn join(&mut self, others: Self) {
        self.members.extend(others.members);
    }
}

/// What the streams of a set have in common.
struct Common {
    audience: Audience,
    complete: bool,
    types: BTreeMap<ResourceType, TypeState>,
}

impl Feedback {
    /// Every connected proxy, in sets of those of which the same is known; its cursors reach as far as `extent` says.
    /// One set may say the same as another one, of the same by other words.
    pub fn alike(&self, extent: &Extent<'_>) -> Vec<Alike> {
        let mut sets = Vec::new();
        let mut found: HashMap<u64, Vec<(usize, Common)>> = HashMap::new();
        let hasher = RandomState::new();
        for entry in &self.proxies {
            if let [stream] = &**entry.value() {
                stream.join(&mut sets, &mut found, &hasher, extent);
            } else if let (Some(one), Some(newest)) = (speaker(entry.value(), extent), entry.value().last()) {
                sets.push(Alike { one, members: vec![Arc::clone(newest)] });
            }
        }
        sets
    }
}

impl ProxyState {
    /// Puts the only stream of a proxy into its set.
    fn join(
        self: &Arc<Self>,
        sets: &mut Vec<Alike>,
        found: &mut HashMap<u64, Vec<(usize, Common)>>,
        hasher: &RandomState,
        extent: &Extent<'_>,
    ) {
        let who = self.who.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(audience) = &*who else {
            drop(who);
            return sets.push(Alike { one: self.view(extent), members: vec![Arc::clone(self)] });
        };
        let complete = self.complete.load(Ordering::Relaxed);
        let types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        let same = found.entry(digest(hasher, &types)).or_default();
        let is_same = |common: &&(usize, Common)| {
            let (_, common) = common;
            common.complete == complete && common.audience == *audience && equal(&common.types, &types)
        };
        if let Some(set) = same.iter().find(is_same).and_then(|(at, _)| sets.get_mut(*at)) {
            return set.members.push(Arc::clone(self));
        }
        let common = Common { audience: audience.clone(), complete, types: types.clone() };
        drop((who, types));
        let one = self.seen(Ok(common.audience.clone()), common.types.clone(), complete, extent);
        same.push((sets.len(), common));
        sets.push(Alike { one, members: vec![Arc::clone(self)] });
    }
}

/// Without a look at what is behind the pointers, which for each of ten thousand streams is somewhere else.
fn digest(hasher: &RandomState, types: &BTreeMap<ResourceType, TypeState>) -> u64 {
    let mut state = hasher.build_hasher();
    for (kind, of) in types {
        (*kind as u8, Arc::as_ptr(&of.subscription), of.sent, of.acked).hash(&mut state);
    }
    state.finish()
}

fn equal(one: &BTreeMap<ResourceType, TypeState>, other: &BTreeMap<ResourceType, TypeState>) -> bool {
    let same = |((a, one), (b, other)): ((_, &TypeState), (_, &TypeState))| {
        a == b && Arc::ptr_eq(&one.subscription, &other.subscription) && one == other
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        feedback::{Connected, ProxyId},
        model::Role,
        xds::{Seq, Subscription},
    };

    fn connect(feedback: &Arc<Feedback>, node: &str, site: &str) -> Connected {
        let audience = Audience { site: site.into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
        feedback.connect(ProxyId { site: site.into(), node: node.into() }, SystemTime::now(), Ok(audience))
    }

    fn sets(feedback: &Feedback) -> Vec<Vec<String>> {
        let all = feedback.alike(&|_, _, _, cursors| cursors);
        let names = |set: &Alike| set.first(usize::MAX).iter().map(|member| member.id.node.to_string()).collect();
        let mut sets: Vec<Vec<_>> = all.iter().map(names).collect();
        sets.sort();
        sets
    }

    #[test]
    fn proxies_of_which_anything_else_is_known_stand_apart() {
        let feedback = Arc::new(Feedback::default());
        let (asked, other) = (Arc::<Subscription>::default(), Arc::<Subscription>::default());
        let state = |acked| TypeState { subscription: Arc::clone(&asked), acked: Seq(acked), ..TypeState::default() };
        let proxies = ["a", "b", "c", "d", "e", "f", "g"].map(|node| connect(&feedback, node, "fra"));
        let elsewhere = connect(&feedback, "h", "muc");
        elsewhere.set(ResourceType::Cluster, state(1));
        for proxy in &proxies {
            proxy.set(ResourceType::Cluster, state(1));
        }
        proxies[2].set(ResourceType::Cluster, state(2));
        proxies[3].set(ResourceType::Cluster, TypeState { subscription: other, ..state(1) });
        proxies[4].set_complete();
        proxies[5].set(ResourceType::Listener, state(1));
        proxies[6].set(ResourceType::Cluster, TypeState { pending: Arc::new(vec!["late".into()]), ..state(1) });
        assert_eq!(sets(&feedback), [&["a", "b"][..], &["c"], &["d"], &["e"], &["f"], &["g"], &["h"]]);
    }

    #[test]
    fn each_proxy_is_in_one_set_however_many_streams_it_has_and_even_if_it_is_refused() {
        let feedback = Arc::new(Feedback::default());
        let _streams = ["a", "a", "b", "c"].map(|node| connect(&feedback, node, "fra"));
        let refused = |node: &str| {
            let id = ProxyId { site: "fra".into(), node: node.into() };
            feedback.connect(id, SystemTime::now(), Err("no".into()))
        };
        let _refused = [refused("d"), refused("c")];
        let all: Vec<_> = sets(&feedback).concat();
        assert_eq!(all, ["a", "b", "c", "d"]);
        let all = feedback.alike(&|_, _, _, cursors| cursors);
        let refused = |set: &&Alike| set.one.refused.is_some();
        assert_eq!(all.iter().filter(refused).map(Alike::count).sum::<u32>(), 1, "a served stream speaks for c");
    }

    #[test]
    fn the_first_are_those_with_the_least_ids() {
        let feedback = Arc::new(Feedback::default());
        let _streams: Vec<_> = (0..100).rev().map(|n| connect(&feedback, &format!("n{n:02}"), "fra")).collect();
        let mut all = feedback.alike(&|_, _, _, cursors| cursors);
        let one = all.pop().unwrap();
        assert!(all.is_empty());
        assert_eq!((one.count(), one.members().count()), (100, 100));
        let first: Vec<_> = one.first(3).iter().map(|member| &*member.id.node).collect();
        assert_eq!(first, ["n00", "n01", "n02"]);
        assert_eq!(one.first(1_000).len(), 100);
    }
}
