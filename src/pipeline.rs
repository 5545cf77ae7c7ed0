//! A replica's loop: changes of the store and interest in, publishes out. It computes nothing long itself: a batch
//! compiles on one blocking thread, and what arrives meanwhile is the next batch; there is no hold-off.

mod confirm;
mod engine;
#[cfg(test)]
pub(crate) mod histories;
mod spread;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use confirm::confirm;
pub use engine::{Delta, Engine};

use crate::{
    catalog::{Catalog, Changed, Configuration, Read, Runtime, Unagreed},
    compile::{self, Judgement, Reader, Unit},
    model::{Audience, Freshness, Problem, Revision, Role, Scope, Sites, Watermarks},
    snapshot::{Origin, Publish, Seq, Views},
    store::{Change, Feed, Listing},
    xds::ResourceType,
};

/// How many waiting changes one batch takes at most.
const BATCH_MAX: usize = 10_000;
/// How often views that nobody uses are looked for.
const IDLE_TICK: Duration = Duration::from_secs(30);

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
    /// What is wrong between the objects, as of the last compile: ask whether it is of this configuration.
    pub judgement: Judgement,
    /// What came past admission and waits for the leader's word.
    pub unagreed: Arc<Unagreed>,
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
            judgement: Judgement::default(),
            unagreed: Arc::default(),
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
    /// Where the sites' watermarks go, at once: they wait for no batch, and no publish carries them.
    pub watermarks: watch::Sender<Arc<Watermarks>>,
    /// Whether the store's changes arrive, for streams: a replica that is cut off only adds.
    pub fresh: watch::Sender<bool>,
}

/// What has changed since the last compile.
#[derive(Default)]
struct Pending {
    configuration: BTreeSet<Read>,
    runtime: BTreeSet<Read>,
    /// Those of `runtime` that no publish has carried yet.
    live: BTreeSet<Read>,
    opened: Vec<Audience>,
}

/// A batch of configuration on its blocking thread; the engine is with it.
struct Job {
    handle: JoinHandle<(Engine, BTreeMap<Audience, Delta>)>,
    configuration: Configuration,
    origin: Origin,
}

/// Where the engine is.
#[allow(clippy::large_enum_variant, reason = "there is one, and it is moved once a batch")]
enum Stage {
    Idle(Engine),
    Compiling(Job),
}

/// What the loop remembers between turns.
struct Progress {
    /// The configuration of the last publish, and where it is from.
    published: Configuration,
    published_origin: Origin,
    /// What was read.
    origin: Origin,
    freshness: Freshness,
    pending: Pending,
    /// Faults of resources, and what is wrong between the objects, as of the last compile.
    problems: Vec<Problem>,
    judgement: Judgement,
}

impl Pipeline {
    /// Runs until `cancel`, or until the store's feed ends.
    ///
    /// # Errors
    /// In words, when the compiler's thread died: the process must not go on with half of a state.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), String> {
        let mut stage = Stage::Idle(Engine::default());
        let mut progress = Progress {
            published: Configuration::default(),
            published_origin: Origin::default(),
            origin: Origin::default(),
            freshness: Freshness::Starting { reason: None },
            pending: Pending::default(),
            problems: Vec::new(),
            judgement: Judgement::default(),
        };
        let mut tick = tokio::time::interval(IDLE_TICK);
        loop {
            let compiled = async {
                match &mut stage {
                    Stage::Compiling(job) => (&mut job.handle).await,
                    Stage::Idle(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                compiled = compiled => {
                    let (engine, deltas) = compiled.map_err(|error| format!("the compiler stopped: {error}"))?;
                    stage = self.compiled(stage, engine, deltas, &mut progress);
                }
                feed = self.feed.recv() => match feed {
                    Some(feed) => self.take(feed, &mut progress),
                    None => return Ok(()),
                },
                opened = self.views.interest() => progress.pending.opened.extend(opened),
                _ = tick.tick() => {
                    if let Stage::Idle(engine) = &mut stage {
                        self.views.idle(Instant::now()).iter().for_each(|audience| engine.close(audience));
                    }
                }
            }
            for _ in 0..BATCH_MAX {
                let Ok(feed) = self.feed.try_recv() else { break };
                self.take(feed, &mut progress);
            }
            stage = self.advance(stage, &mut progress);
        }
    }

    fn take(&mut self, feed: Feed, progress: &mut Progress) {
        let changed = match feed {
            Feed::Reset(listing) => {
                let changed = self.catalog.reset(&listing);
                progress.origin = self.origin_of(&listing, &changed, progress);
                progress.freshness = Freshness::Fresh;
                changed
            }
            Feed::Copy { listing, reason } => {
                let changed = self.catalog.reset(&listing);
                progress.origin = self.origin_of(&listing, &changed, progress);
                progress.freshness = Freshness::Stale { reason };
                changed
            }
            Feed::Batch(batch) => {
                progress.origin.revision = batch.revision;
                let key = |change: &Change| match change {
                    Change::Put(entry) => self.catalog.is_configuration(&entry.key),
                    Change::Delete(key) => self.catalog.is_configuration(key),
                };
                if batch.changes.iter().any(key) {
                    progress.origin.configuration = batch.revision;
                }
                progress.freshness = Freshness::Fresh;
                self.catalog.apply(&batch.changes)
            }
            Feed::Progress(at) => {
                progress.origin.revision = at.max(progress.origin.revision);
                progress.freshness = Freshness::Fresh;
                Changed::default()
            }
            Feed::Down { reason } => {
                progress.freshness = match progress.freshness {
                    Freshness::Starting { .. } => Freshness::Starting { reason: Some(reason) },
                    _ => Freshness::Stale { reason },
                };
                Changed::default()
            }
            Feed::Frozen { reason } => {
                progress.freshness = match progress.freshness {
                    Freshness::Starting { .. } => Freshness::Starting { reason: Some(reason) },
                    _ => Freshness::Frozen { reason },
                };
                Changed::default()
            }
        };
        self.watermarks.send_if_modified(|known| {
            let new = self.catalog.watermarks();
            let differs = known != new;
            if differs {
                *known = Arc::clone(new);
            }
            differs
        });
        progress.pending.configuration.extend(changed.configuration);
        progress.pending.live.extend(changed.runtime.iter().cloned());
        progress.pending.runtime.extend(changed.runtime);
    }

    /// Where a listing is from. One that only checks what is known has no configuration that is newer than its newest
    /// key: its own revision would be told of by watermarks, whose writes are part of it.
    fn origin_of(&self, listing: &Listing, changed: &Changed, progress: &Progress) -> Origin {
        let first = matches!(progress.freshness, Freshness::Starting { .. });
        let back = listing.revision < progress.origin.configuration;
        if first || back || !changed.configuration.is_empty() {
            return listing.revision.into();
        }
        let written = listing.entries.iter().filter(|entry| self.catalog.is_configuration(&entry.key));
        let newest = written.map(|entry| entry.mod_revision).max().unwrap_or_default();
        Origin { revision: listing.revision, configuration: newest.max(progress.origin.configuration) }
    }

    /// Starts what can be started: runtime changes at once, configuration as the next batch.
    fn advance(&self, stage: Stage, progress: &mut Progress) -> Stage {
        // Before the first full listing nothing is known: silence, never an empty set.
        if matches!(progress.freshness, Freshness::Starting { .. }) {
            self.publish_state(progress);
            return stage;
        }
        match stage {
            Stage::Compiling(job) => {
                self.publish_live_endpoints(progress);
                Stage::Compiling(job)
            }
            Stage::Idle(mut engine)
                if progress.pending.configuration.is_empty()
                    && progress.pending.opened.is_empty()
                    && progress.published.is_same(self.catalog.configuration()) =>
            {
                let runtime = std::mem::take(&mut progress.pending).runtime;
                let deltas = engine.update(&progress.published, self.catalog.runtime(), &runtime, &[]);
                progress.published_origin = progress.origin;
                self.publish(deltas, progress);
                self.publish_state(progress);
                Stage::Idle(engine)
            }
            Stage::Idle(mut engine) => {
                self.publish_live_endpoints(progress);
                let Pending { configuration: mut changed, runtime, opened, .. } = std::mem::take(&mut progress.pending);
                changed.extend(runtime);
                let configuration = self.catalog.configuration().clone();
                let runtime = self.catalog.runtime().clone();
                let read = configuration.clone();
                let handle = tokio::task::spawn_blocking(move || {
                    let deltas = engine.update(&read, &runtime, &changed, &opened);
                    (engine, deltas)
                });
                Stage::Compiling(Job { handle, configuration, origin: progress.origin })
            }
        }
    }

    /// A batch is back: what it read from runtime that has changed since is compiled again, then all is published.
    fn compiled(
        &self,
        stage: Stage,
        mut engine: Engine,
        mut deltas: BTreeMap<Audience, Delta>,
        progress: &mut Progress,
    ) -> Stage {
        let Stage::Compiling(job) = stage else { return stage };
        progress.pending.live.clear();
        let runtime = std::mem::take(&mut progress.pending.runtime);
        for (audience, newer) in engine.update(&job.configuration, self.catalog.runtime(), &runtime, &[]) {
            deltas.entry(audience).or_default().follow(newer);
        }
        progress.published = job.configuration;
        progress.published_origin = job.origin;
        progress.problems = engine.problems().cloned().collect();
        progress.judgement = engine.judgement().clone();
        self.publish(deltas, progress);
        self.publish_state(progress);
        Stage::Idle(engine)
    }

    /// While a batch of configuration compiles, live endpoints flow on against the configuration that is published.
    /// They stay pending, so that the batch takes them in too.
    fn publish_live_endpoints(&self, progress: &mut Progress) {
        let live = std::mem::take(&mut progress.pending.live);
        if live.is_empty() {
            return;
        }
        let mut deltas: BTreeMap<Audience, Delta> = BTreeMap::new();
        let views = self.views.all();
        for read in live {
            let Read::Endpoints { site, service } = read else { continue };
            let stored = progress.published.get(&service);
            let Some(spec) = stored.and_then(|stored| stored.service()) else { continue };
            // A gRPC client goes to the other sites of its region too: it has the name, or not.
            let concerned = |audience: &Audience| audience.role == Role::Grpc || *audience.site == *site;
            for view in views.iter().filter(|view| concerned(view.audience())) {
                let here = Arc::clone(&view.audience().site);
                let scope = match view.audience().role {
                    Role::Grpc => Scope::Clients(here),
                    Role::Edge | Role::Core => Scope::Site(here),
                };
                for port in &spec.ports {
                    let name = format!("{}/{}:{}", service.namespace, service.name, port.port);
                    if view.read().get(ResourceType::Endpoints, &name).is_some() {
                        let unit = Unit { kind: ResourceType::Endpoints, name: name.into(), scope: scope.clone() };
                        let reader = Reader::new(&progress.published, self.catalog.runtime());
                        let outcome = compile::compile(&unit, &reader);
                        let delta = deltas.entry(view.audience().clone()).or_default();
                        delta.upserts.extend(outcome.resource.map(Arc::new));
                    }
                }
            }
        }
        self.publish(deltas, progress);
    }

    /// One seq for all views: a publish of one store revision.
    fn publish(&self, mut deltas: BTreeMap<Audience, Delta>, progress: &Progress) {
        let seq: Seq = self.views.next_seq();
        for view in self.views.all() {
            let delta = deltas.remove(view.audience());
            // A view that was opened while this batch compiled is not in it: it stays pending, not empty.
            if delta.is_none() && !view.read().ready() {
                continue;
            }
            let Delta { upserts, removals } = delta.unwrap_or_default();
            let removals = removals.into_iter().map(|unit| (unit.kind, unit.name)).collect();
            view.publish(seq, progress.published_origin, Publish { upserts, removals });
        }
    }

    fn publish_state(&self, progress: &Progress) {
        let configuration = self.catalog.configuration().clone();
        let mut problems: Vec<Problem> = self.catalog.problems();
        problems.extend(progress.problems.iter().cloned());
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
            revision: progress.published_origin.revision,
            freshness: progress.freshness.clone(),
            problems: Arc::new(problems),
            judgement: progress.judgement.clone(),
            unagreed: Arc::clone(self.catalog.unagreed()),
        }));
        self.fresh.send_if_modified(|fresh| {
            let now = progress.freshness == Freshness::Fresh;
            std::mem::replace(fresh, now) != now
        });
    }
}
