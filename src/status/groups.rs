//! Proxies that stand alike, together: they see the same view, ask for the same, and have taken and refused the same.
//! Ten thousand proxies are a few dozen such groups, so a question is answered once for each and not once a proxy.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{
    feedback::{Alike, Feedback, Parked, ProxyView},
    model::Audience,
    snapshot::{Seq, View, Views},
    xds::{ResourceType, Subscription},
};

/// Proxies that stand alike.
pub(super) struct Group {
    /// They, and one that speaks for all.
    pub(super) alike: Alike,
    /// What they see; none: nothing yet, or they are refused.
    pub(super) view: Option<Arc<View>>,
}

/// All that a question about proxies can depend on.
#[derive(PartialEq, Eq, Hash)]
struct Standing {
    audience: Option<Audience>,
    refused: Option<String>,
    types: Vec<(ResourceType, TypeStanding)>,
}

#[derive(PartialEq, Eq, Hash)]
struct TypeStanding {
    subscription: Asked,
    /// The largest number for whoever lacks nothing.
    acked: Seq,
    pending: Arc<Vec<Arc<str>>>,
    parked: Arc<BTreeMap<Arc<str>, Parked>>,
}

/// A subscription that is hashed by its digest, and compared by its address before its names.
struct Asked(Arc<Subscription>);

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.digest() == other.0.digest() && self.0 == other.0)
    }
}

impl Eq for Asked {}

impl Hash for Asked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest().hash(state);
    }
}

/// All connected proxies in groups.
pub(super) fn groups(views: &Views, feedback: &Feedback) -> Vec<Group> {
    // The proxies first: what was published later than they were looked at, none of them can have taken.
    let proxies = feedback.alike(&|audience, kind, asked, seqs| views.extent(audience, kind, asked, seqs));
    let mut seen: BTreeMap<Audience, Option<(Arc<View>, Newest)>> = BTreeMap::new();
    let mut known: HashMap<Standing, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for alike in proxies {
        let view = alike.one.audience.as_ref().and_then(|audience| {
            let view = seen.entry(audience.clone()).or_insert_with(|| views.get(audience).map(newest));
            view.as_ref()
        });
        let standing = standing(&alike.one, view.map(|(_, newest)| newest));
        match known.get(&standing).and_then(|at| groups.get_mut(*at)) {
            Some(group) => group.alike.join(alike),
            None => {
                known.insert(standing, groups.len());
                let view = view.map(|(view, _)| Arc::clone(view));
                groups.push(Group { alike, view });
            }
        }
    }
    groups
}

/// When each type of a view last changed.
type Newest = BTreeMap<ResourceType, Seq>;

fn newest(view: Arc<View>) -> (Arc<View>, Newest) {
    let newest = {
        let content = view.read();
        ResourceType::ALL.into_iter().map(|kind| (kind, content.newest(kind))).collect()
    };
    (view, newest)
}

fn standing(proxy: &ProxyView, newest: Option<&Newest>) -> Standing {
    let of = |(kind, state): (&ResourceType, &crate::feedback::TypeState)| {
        let lacks_nothing = newest.and_then(|newest| newest.get(kind)).is_some_and(|newest| state.acked >= *newest);
        let standing = TypeStanding {
            subscription: Asked(Arc::clone(&state.subscription)),
            acked: if lacks_nothing { Seq(u64::MAX) } else { state.acked },
            pending: Arc::clone(&state.pending),
            parked: Arc::clone(&state.parked),
        };
        (*kind, standing)
    };
    Standing {
        audience: proxy.audience.clone(),
        // Who is refused is named by the site that it claims.
        refused: proxy.refused.as_ref().map(|reason| format!("{} {reason}", proxy.id.site)),
        types: proxy.types.iter().map(of).collect(),
    }
}
