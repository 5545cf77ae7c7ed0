//! The elected replica's work: it agrees to what came past admission, keeps the sites' watermarks and writes conditions.
//!
//! What is to be written is planned without I/O ([`conditions`], [`watermarks`]) and written here, one transaction
//! every 100 ms for all of it, each with the fence. Everything is cancelled at once when the leadership is lost.

mod conditions;
mod reports;
#[cfg(test)]
mod tests;
mod watermarks;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::{conditions::Books, reports::Reports, watermarks::Marks};
use crate::{
    feedback::Feedback,
    model::{Freshness, Keyspace, ObjectRef, Revision},
    pipeline::State,
    replicas::{Fence, Replicas, Report},
    snapshot::Views,
    status::{self, Judged},
    store::{Op, Store, StoreError, Transaction, TxnOutcome},
};

/// Between two transactions of the leader.
const PACE: Duration = Duration::from_millis(100);
/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// A judgement of the whole configuration serves as long as nothing that is asked about is newer.
const JUDGED: Duration = Duration::from_secs(1);
/// Objects of one transaction.
const OBJECTS_MAX: usize = 60;
/// Bytes of one transaction.
const BYTES_MAX: usize = 600 * 1024;

/// What the leader works with; it sleeps while this replica does not lead.
pub struct Leader {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// How their keys are spelled.
    pub keyspace: Keyspace,
    /// The newest compiled state.
    pub state: watch::Receiver<Arc<State>>,
    /// What audiences see.
    pub views: Arc<Views>,
    /// What proxies answered.
    pub feedback: Arc<Feedback>,
    /// Who else is there, and whether this replica leads.
    pub replicas: Replicas,
}

impl Leader {
    /// Works whenever this replica leads, until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let mut leadership = self.replicas.leadership();
        loop {
            let fence = leadership.borrow_and_update().clone();
            let term = async {
                match fence {
                    Some(fence) => Term::new(&self, fence).run().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                () = term => {}
            }
        }
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }
}

/// What a look at some objects has found.
struct Surveyed {
    found: Vec<(ObjectRef, serde_json::Value, bool)>,
    judged: Known,
}

/// A judgement, of which state, and when.
type Known = Option<(Revision, Instant, Arc<Judged>)>;

/// One time in office.
struct Term<'a> {
    leader: &'a Leader,
    fence: Fence,
    books: Books,
    marks: Marks,
    reports: Reports,
    survey: Option<BoxFuture<'static, Surveyed>>,
    judged: Known,
    /// Whose turn it is to write.
    turn: usize,
    /// Nothing is written before.
    not_before: Instant,
}

/// What one transaction does.
enum Work {
    Watermarks(Transaction, watermarks::Written),
    Conditions(Transaction, conditions::Written),
}

impl<'a> Term<'a> {
    fn new(leader: &'a Leader, fence: Fence) -> Self {
        let reports = Reports::new(leader.replicas.clone());
        let (books, marks) = (Books::new(&leader.keyspace, leader.replicas.name()), Marks::new(&leader.keyspace));
        let (survey, judged, turn, not_before) = (None, None, 0, Instant::now());
        Self { leader, fence, books, marks, reports, survey, judged, turn, not_before }
    }

    /// Never ends by itself.
    async fn run(mut self) {
        while let Err(error) = self.take_over().await {
            tracing::warn!(%error, "the leader cannot read what stands; trying again");
            tokio::time::sleep(AGAIN).await;
        }
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let surveyed = async {
                match &mut self.survey {
                    Some(survey) => survey.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                surveyed = surveyed => {
                    self.survey = None;
                    self.judged = surveyed.judged;
                    self.books.take(surveyed.found);
                }
                _ = pace.tick() => self.step().await,
            }
        }
    }

    /// Reads what stands, so that nothing is written that stands already.
    async fn take_over(&mut self) -> Result<(), StoreError> {
        let store = &self.leader.store;
        self.marks.reset(&store.list(self.marks.prefix()).await?);
        self.books.reset(&store.list(self.books.prefix()).await?);
        Ok(())
    }

    /// One step: what is new is noted, objects are looked at, one transaction is written.
    async fn step(&mut self) {
        let state = self.leader.state();
        // What a stale state says may be wrong by now.
        if state.freshness != Freshness::Fresh || Instant::now() < self.not_before {
            return;
        }
        self.books.observe(&state);
        if self.survey.is_none() {
            let objects = self.books.next(Instant::now().into_std());
            if !objects.is_empty() {
                self.survey = Some(self.look(objects, state));
            }
        }
        let own = || status::watermarks(&self.leader.views, &self.leader.feedback);
        if let Some(reports) = self.reports.all(own) {
            self.marks.take(reports);
        }
        self.turn += 1;
        for part in [self.turn, self.turn + 1] {
            let work = match part % 2 {
                0 => self.marks.plan(&self.fence).map(|(txn, written)| Work::Watermarks(txn, written)),
                _ => self.books.plan(&self.fence).map(|(txn, written)| Work::Conditions(txn, written)),
            };
            if let Some(work) = work {
                self.write(work).await;
                return;
            }
        }
    }

    async fn write(&mut self, work: Work) {
        let txn = match &work {
            Work::Watermarks(txn, _) | Work::Conditions(txn, _) => txn.clone(),
        };
        let outcome = self.leader.store.txn(txn).await;
        match (outcome, work) {
            (Ok(TxnOutcome::Committed(revision)), Work::Watermarks(_, written)) => {
                self.marks.written(written, revision);
            }
            (Ok(TxnOutcome::Committed(_)), Work::Conditions(_, written)) => self.books.written(written),
            (outcome, work) => {
                match outcome {
                    Err(error) => tracing::warn!(%error, "the leader could not write; trying again"),
                    Ok(_) => tracing::debug!("what the leader was to write has changed, or it leads no longer"),
                }
                self.not_before = Instant::now() + AGAIN;
                if matches!(work, Work::Watermarks(..))
                    && let Ok(listing) = self.leader.store.list(self.marks.prefix()).await
                {
                    self.marks.reset(&listing);
                }
            }
        }
    }

    /// Looks at objects over the whole fleet.
    fn look(&self, objects: Vec<ObjectRef>, state: Arc<State>) -> BoxFuture<'static, Surveyed> {
        let (views, feedback) = (Arc::clone(&self.leader.views), Arc::clone(&self.leader.feedback));
        let (replicas, keyspace) = (self.leader.replicas.clone(), self.leader.keyspace.clone());
        let newest = objects.iter().filter_map(|object| state.configuration.get(object)).map(|s| s.mod_revision).max();
        let judged = self.judged.clone().filter(|(revision, at, _)| {
            *revision == state.revision || (Some(*revision) >= newest && at.elapsed() < JUDGED)
        });
        Box::pin(async move {
            let judged = match judged {
                Some(judged) => Some(judged),
                None => {
                    let (state, at) = (Arc::clone(&state), Instant::now());
                    let revision = state.revision;
                    let made = tokio::task::spawn_blocking(move || Arc::new(Judged::of(&state))).await;
                    made.ok().map(|made| (revision, at, made))
                }
            };
            let Some((_, _, verdicts)) = &judged else { return Surveyed { found: Vec::new(), judged } };
            let standings = status::standings(&objects, &views, &feedback);
            let own = Report { standings, revision: state.revision, stale: String::new() };
            let fleet = replicas.standings(&objects, own).await;
            let unreachable: Vec<&str> = fleet.unreachable.iter().map(|(name, _)| &**name).collect();
            let one = |(object, standing): (ObjectRef, &status::Standing)| {
                let key = keyspace.format(&crate::model::StoreKey::Object(object.clone()));
                let status = status::to_json((&object, &key), &state, verdicts, standing, &unreachable);
                (object, status, standing.pending == 0 && unreachable.is_empty())
            };
            Surveyed { found: objects.into_iter().zip(&fleet.standings).map(one).collect(), judged }
        })
    }
}

/// As many of `ops` as one transaction takes, under the fence.
fn batch(fence: &Fence, ops: impl Iterator<Item = Op>) -> Transaction {
    let mut bytes = 0;
    let fits = |op: &Op| {
        bytes += match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        };
        bytes <= BYTES_MAX
    };
    Transaction { compares: vec![fence.compare()], ops: ops.take(OBJECTS_MAX).take_while(fits).collect() }
}
