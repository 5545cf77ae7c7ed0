//! What replicas know of the fleet and of themselves: how fresh they are, how far each site has come.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Revision;

/// How fresh a replica's answers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing has been read yet.
    Starting {
        /// Why it takes time, if it does.
        reason: Option<String>,
    },
    /// The store's changes arrive.
    Fresh,
    /// The store is away; the last known state is served.
    Stale {
        /// In the store client's words.
        reason: String,
    },
    /// The store is another one, or an older state; nothing from it is taken until an operator mends it.
    Frozen {
        /// What was seen.
        reason: String,
    },
}

impl Freshness {
    /// Why what is known may be old; none while it is fresh.
    pub fn stale(&self) -> Option<&str> {
        match self {
            Self::Fresh => None,
            Self::Starting { reason } => Some(reason.as_deref().unwrap_or("the store has not been read yet")),
            Self::Stale { reason } | Self::Frozen { reason } => Some(reason),
        }
    }
}

/// How far the gateways of one site have come (`acked/<site>`); never goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Every connected gateway of the site has acknowledged all that it was sent of the configuration up to here.
    pub revision: Revision,
    /// Resources that some gateway refuses, `<type>/<name>` (`CDS/shop/web:80`): the revision says nothing of them. With
    /// [`Watermark::MORE`] among them it says nothing of any.
    pub except: BTreeSet<String>,
    /// Whether the site has connected gateways; without, the watermark stands still.
    pub connected: bool,
}

impl Watermark {
    /// Stands in `except` for all that are not named.
    pub const MORE: &str = "*";
    /// How many `except` names.
    pub const EXCEPT_MAX: usize = 100;

    /// Leaves no more in `except` than one key may hold.
    pub fn shorten(except: &mut BTreeSet<String>) {
        let mut more = except.remove(Self::MORE);
        if let Some(first) = except.iter().nth(Self::EXCEPT_MAX).cloned() {
            drop(except.split_off(&first));
            more = true;
        }
        if more {
            except.insert(Self::MORE.to_owned());
        }
    }

    /// Whether some gateway refuses the resource, or may.
    pub fn refuses(&self, kind: &str, name: &str) -> bool {
        // Most refuse nothing, and that is asked for each site of each service.
        !self.except.is_empty() && (self.except.contains(Self::MORE) || self.except.contains(&format!("{kind}/{name}")))
    }
}

/// The watermarks of all sites, by site.
pub type Watermarks = BTreeMap<Arc<str>, Watermark>;
