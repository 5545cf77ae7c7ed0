//! A replica's loop: changes of the store and interest in, publishes out. It computes nothing long itself: a batch
//! compiles on one blocking thread, and what arrives meanwhile is the next batch; there is no hold-off.

mod engine;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use engine::{Delta, Engine};

use crate::{
    catalog::{Catalog, Changed, Configuration, Read, Runtime},
    model::{Audience, Problem, Revision, Sites},
    snapshot::{Publish, Seq, Views},
    store::Feed,
};

/// How many waiting changes one batch takes at most.
const BATCH_MAX: usize = 10_000;
/// How often views that nobody uses are looked for.
const IDLE_TICK: Duration = Duration::from_secs(30);

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

/// What the rest of the replica reads: one immutable value per publish.
#[derive(Clone, Debug)]
pub struct State {
    /// The objects.
    pub configuration: Configuration,
    /// The live endpoints.
    pub runtime: Runtime,
    /// The store revision that has been compiled and published to every open view.
    pub revision: Revision,
    /// How fresh it is.
    pub freshness: Freshness,
    /// Faults of single keys, and resources that failed their check.
    pub problems: Arc<Vec<Problem>>,
}

impl State {
    /// Whether a full listing has been read; before it, nothing can be said.
    pub fn loaded(&self) -> bool {
        !matches!(self.freshness, Freshness::Starting { .. })
    }

    /// The state before the first listing.
    pub fn starting() -> Self {
        Self {
            configuration: Configuration::default(),
            runtime: Runtime::default(),
            revision: Revision(0),
            freshness: Freshness::Starting { reason: None },
            problems: Arc::default(),
        }
    }
}

/// What the loop is made of.
pub struct Pipeline {
    /// Parses keys.
    pub catalog: Catalog,
    /// Where publishes go.
    pub views: Arc<Views>,
    /// The store's changes.
    pub feed: mpsc::Receiver<Feed>,
    /// Where [`State`] goes.
    pub state: watch::Sender<Arc<State>>,
    /// Where the sites go, for identity.
    pub sites: watch::Sender<Arc<Sites>>,
}

/// What one batch gathered.
#[derive(Default)]
struct Batch {
    changed: BTreeSet<Read>,
    opened: Vec<Audience>,
}

impl Pipeline {
    /// Runs until `cancel`, or until the store's feed ends.
    ///
    /// # Errors
    /// In words, when the compiler panicked: the process must not go on with half of a state.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), String> {
        let mut engine = Engine::default();
        let mut revision = Revision(0);
        let mut freshness = Freshness::Starting { reason: None };
        let mut tick = tokio::time::interval(IDLE_TICK);
        let mut waiting: Vec<Audience> = Vec::new();
        loop {
            let mut batch = Batch::default();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                feed = self.feed.recv() => match feed {
                    Some(feed) => self.take(feed, &mut batch, &mut revision, &mut freshness),
                    None => return Ok(()),
                },
                opened = self.views.interest() => batch.opened = opened,
                _ = tick.tick() => {
                    for audience in self.views.idle(Instant::now()) {
                        engine.close(&audience);
                    }
                    continue;
                }
            }
            for _ in 0..BATCH_MAX {
                let Ok(feed) = self.feed.try_recv() else { break };
                self.take(feed, &mut batch, &mut revision, &mut freshness);
            }
            waiting.append(&mut batch.opened);
            // Before the first full listing nothing is known: silence, never an empty set.
            if matches!(freshness, Freshness::Starting { .. }) {
                self.publish_state(&engine, revision, &freshness);
                continue;
            }
            let opened = std::mem::take(&mut waiting);
            engine = self.compile(engine, batch.changed, opened, revision, &freshness).await?;
        }
    }

    fn take(&mut self, feed: Feed, batch: &mut Batch, revision: &mut Revision, freshness: &mut Freshness) {
        let changed = match feed {
            Feed::Reset(listing) => {
                *revision = listing.revision;
                *freshness = Freshness::Fresh;
                self.catalog.reset(&listing)
            }
            Feed::Batch(changes) => {
                *revision = changes.revision;
                *freshness = Freshness::Fresh;
                self.catalog.apply(&changes.changes)
            }
            Feed::Progress(at) => {
                *revision = at.max(*revision);
                *freshness = Freshness::Fresh;
                Changed::default()
            }
            Feed::Down { reason } => {
                *freshness = match freshness {
                    Freshness::Starting { .. } => Freshness::Starting { reason: Some(reason) },
                    _ => Freshness::Stale { reason },
                };
                Changed::default()
            }
            Feed::Frozen { reason } => {
                *freshness = Freshness::Frozen { reason };
                Changed::default()
            }
        };
        batch.changed.extend(changed.configuration);
        batch.changed.extend(changed.runtime);
    }

    /// Compiles on a blocking thread, then publishes.
    async fn compile(
        &mut self,
        mut engine: Engine,
        changed: BTreeSet<Read>,
        opened: Vec<Audience>,
        revision: Revision,
        freshness: &Freshness,
    ) -> Result<Engine, String> {
        let configuration = self.catalog.configuration().clone();
        let runtime = self.catalog.runtime().clone();
        let (engine, deltas) = tokio::task::spawn_blocking(move || {
            let deltas = engine.update(&configuration, &runtime, &changed, &opened);
            (engine, deltas)
        })
        .await
        .map_err(|error| format!("the compiler stopped: {error}"))?;
        self.publish(deltas, revision);
        self.publish_state(&engine, revision, freshness);
        Ok(engine)
    }

    /// One seq for all views: a publish of one store revision.
    fn publish(&self, mut deltas: BTreeMap<Audience, Delta>, revision: Revision) {
        let seq: Seq = self.views.next_seq();
        for view in self.views.all() {
            let delta = deltas.remove(view.audience());
            // A view that was opened while this batch compiled is not in it: it stays pending, not empty.
            if delta.is_none() && !view.read().ready() {
                continue;
            }
            let Delta { upserts, removals } = delta.unwrap_or_default();
            let removals = removals.into_iter().map(|unit| (unit.kind, unit.name)).collect();
            view.publish(seq, revision, Publish { upserts, removals });
        }
    }

    fn publish_state(&self, engine: &Engine, revision: Revision, freshness: &Freshness) {
        let configuration = self.catalog.configuration().clone();
        let mut problems: Vec<Problem> = self.catalog.problems();
        problems.extend(engine.problems().cloned());
        problems.sort();
        self.sites.send_if_modified(|sites| {
            let new = configuration.sites();
            let differs = **sites != new;
            if differs {
                *sites = Arc::new(new);
            }
            differs
        });
        self.state.send_replace(Arc::new(State {
            configuration,
            runtime: self.catalog.runtime().clone(),
            revision,
            freshness: freshness.clone(),
            problems: Arc::new(problems),
        }));
    }
}
