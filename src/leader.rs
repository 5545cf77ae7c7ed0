//! The elected replica's work: it agrees to what came past admission, keeps the sites' watermarks and writes conditions.
//!
//! What is to be written is planned without I/O ([`agreement`], [`conditions`], [`watermarks`]) and written here, one transaction
//! every 100 ms for all of it, each with the fence. Everything is cancelled at once when the leadership is lost.

mod agreement;
mod conditions;
mod reports;
#[cfg(test)]
mod tests;
mod watermarks;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::{
    agreement::{Agreement, Question, Verdict},
    conditions::Books,
    reports::Reports,
    watermarks::Marks,
};
use crate::{
    feedback::Feedback,
    model::{Freshness, Keyspace, ObjectRef, Revision, StoreKey},
    pipeline::State,
    replicas::{Fence, Replicas, Report},
    snapshot::Views,
    status::{self, Edition, Judged},
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

/// What admission said, and the revision of `head` before it was asked; none: it could not be asked.
type Asked = Option<(Verdict, Revision)>;

/// A judgement, of which state, and when.
type Known = Option<(Revision, Instant, Arc<Judged>)>;

/// One time in office.
struct Term<'a> {
    leader: &'a Leader,
    fence: Fence,
    agreement: Agreement,
    books: Books,
    marks: Marks,
    reports: Reports,
    asking: Option<BoxFuture<'static, Asked>>,
    asked: Asked,
    survey: Option<BoxFuture<'static, Surveyed>>,
    judged: Known,
    /// Whose turn it is to write.
    turn: usize,
    /// What a kind of work, by its turn, does not write before: one that fails holds the others up no longer than it took.
    not_before: [Instant; 3],
}

/// What one transaction does.
enum Work {
    Agreement(Transaction),
    Watermarks(Transaction, watermarks::Written),
    Conditions(Transaction, conditions::Written),
}

impl<'a> Term<'a> {
    fn new(leader: &'a Leader, fence: Fence) -> Self {
        let reports = Reports::new(leader.replicas.clone());
        let (keyspace, name) = (&leader.keyspace, leader.replicas.name());
        Self {
            leader,
            fence,
            agreement: Agreement::new(keyspace, name),
            books: Books::new(keyspace, name),
            marks: Marks::new(keyspace),
            reports,
            asking: None,
            asked: None,
            survey: None,
            judged: None,
            turn: 0,
            not_before: [Instant::now(); 3],
        }
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
            tokio::select! {
                asked = once(&mut self.asking) => {
                    self.asking = None;
                    self.asked = asked;
                }
                mut surveyed = once(&mut self.survey) => {
                    self.survey = None;
                    self.judged = surveyed.judged.take();
                    self.surveyed(surveyed);
                }
                _ = pace.tick() => self.step().await,
            }
        }
    }

    fn surveyed(&mut self, mut surveyed: Surveyed) {
        for (object, status, _) in &mut surveyed.found {
            if let Some(message) = self.agreement.refused(object)
                && let Some(conditions) = status.get_mut("conditions").and_then(serde_json::Value::as_array_mut)
            {
                let message = format!("written past admission, which refuses it; served while it is valid: {message}");
                let condition = serde_json::json!({
                    "type": "CopyAccepted", "status": "False", "reason": "NotAdmitted", "message": message
                });
                conditions.push(condition);
            }
        }
        self.books.take(surveyed.found, Instant::now().into_std());
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
        if state.freshness != Freshness::Fresh {
            return;
        }
        self.books.observe(&state);
        if self.survey.is_none() {
            let objects = self.books.next(Instant::now().into_std());
            if !objects.is_empty() {
                self.survey = Some(self.look(objects, Arc::clone(&state)));
            }
        }
        let (views, feedback) = (&self.leader.views, &self.leader.feedback);
        if let Some(reports) = self.reports.all(Edition::of(views, feedback), || status::watermarks(views, feedback)) {
            self.marks.take(reports);
        }
        if self.asking.is_none()
            && self.asked.is_none()
            && let Some(question) = self.agreement.ask(&state, Instant::now().into_std())
        {
            self.asking = Some(self.ask(question, state.revision));
        }
        self.turn += 1;
        for part in [self.turn, self.turn + 1, self.turn + 2].map(|part| part % 3) {
            if self.not_before.get(part).is_some_and(|until| Instant::now() < *until) {
                continue;
            }
            let work = match part {
                0 => self.agree().map(Work::Agreement),
                1 => self.marks.plan(&self.fence).map(|(txn, written)| Work::Watermarks(txn, written)),
                _ => self.books.plan(&self.fence).map(|(txn, written)| Work::Conditions(txn, written)),
            };
            if let Some(work) = work {
                if !self.write(work).await
                    && let Some(until) = self.not_before.get_mut(part)
                {
                    *until = Instant::now() + AGAIN;
                }
                return;
            }
        }
    }

    /// What admission said, as a transaction.
    fn agree(&mut self) -> Option<Transaction> {
        let (verdict, head) = self.asked.take()?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        self.agreement.answer(&verdict, head, &self.fence, (Instant::now().into_std(), millis))
    }

    /// Asks admission; only a state that has read everything up to `head` can be judged.
    fn ask(&self, question: Question, revision: Revision) -> BoxFuture<'static, Asked> {
        let (store, key) = (Arc::clone(&self.leader.store), self.leader.keyspace.format(&StoreKey::Head));
        Box::pin(async move {
            let head = store.get(&key).await.ok()?.map_or(Revision(0), |kv| kv.mod_revision);
            if head > revision {
                return None;
            }
            let verdict = tokio::task::spawn_blocking(move || question.judge()).await.ok()?;
            Some((verdict, head))
        })
    }

    /// Whether it is written.
    async fn write(&mut self, work: Work) -> bool {
        let txn = match &work {
            Work::Agreement(txn) | Work::Watermarks(txn, _) | Work::Conditions(txn, _) => txn.clone(),
        };
        let outcome = self.leader.store.txn(txn).await;
        match (outcome, work) {
            (Ok(TxnOutcome::Committed(revision)), Work::Agreement(_)) => self.agreement.written(revision),
            (Ok(TxnOutcome::Committed(revision)), Work::Watermarks(_, written)) => {
                self.marks.written(written, revision);
            }
            (Ok(TxnOutcome::Committed(_)), Work::Conditions(_, written)) => {
                self.books.written(written, Instant::now().into_std());
            }
            (outcome, work) => {
                match outcome {
                    Err(error) => tracing::warn!(%error, "the leader could not write; trying again"),
                    Ok(_) => tracing::debug!("what the leader was to write has changed, or it leads no longer"),
                }
                if matches!(work, Work::Watermarks(..))
                    && let Ok(listing) = self.leader.store.list(self.marks.prefix()).await
                {
                    self.marks.reset(&listing);
                }
                return false;
            }
        }
        true
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
            let one = |(object, standing): (ObjectRef, &status::Standing)| {
                let key = keyspace.format(&StoreKey::Object(object.clone()));
                let gaps = fleet.gaps(state.configuration.get(&object).map_or(Revision(0), |s| s.mod_revision));
                let status = status::to_json((&object, &key), &state, verdicts, standing, &gaps);
                (object, status, standing.pending == 0 && gaps.none())
            };
            Surveyed { found: objects.into_iter().zip(&fleet.standings).map(one).collect(), judged }
        })
    }
}

/// Waits for a future that is there; for ever for one that is not.
async fn once<T>(running: &mut Option<BoxFuture<'static, T>>) -> T {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
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
