//! The registry of open views, and the arrows against the flow: which audiences are wanted, and who must know whether
//! everything has been read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{Reader, Seq, View, confirm::Confirmations};
use crate::{
    model::Audience,
    xds::{ResourceType, Subscription},
};

/// A view that nobody has read for this long is closed.
const IDLE: Duration = Duration::from_secs(600);

/// All open views of this process.
#[derive(Debug, Default)]
pub struct Views {
    open: Mutex<BTreeMap<Audience, Arc<View>>>,
    wanted: Mutex<BTreeSet<Audience>>,
    wake: Notify,
    seq: AtomicU64,
    confirmations: Confirmations,
}

impl Views {
    /// The audience's view, opened (pending, until the pipeline publishes into it) if it is not open yet.
    pub fn open(&self, audience: &Audience) -> Reader {
        let mut open = self.views();
        if let Some(view) = open.get(audience) {
            return view.reader();
        }
        let view = Arc::new(View::new(audience.clone()));
        let reader = view.reader();
        open.insert(audience.clone(), view);
        drop(open);
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(audience.clone());
        self.wake.notify_one();
        reader
    }

    /// Waits until views were opened and returns their audiences; for one caller, the pipeline. Safe to cancel.
    pub async fn interest(&self) -> Vec<Audience> {
        loop {
            let wanted = std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
            if !wanted.is_empty() {
                return wanted.into_iter().collect();
            }
            self.wake.notified().await;
        }
    }

    /// Whether every open view shows all that was written to the store before this call; asks at once. False also when
    /// that cannot be known, since the store is away.
    pub fn confirm(&self) -> impl Future<Output = bool> + Send + 'static {
        self.confirmations.ask()
    }

    /// Waits until somebody asks to [confirm](Self::confirm), and returns the number of the probe that begins now; for
    /// one caller. Safe to cancel.
    pub async fn probe(&self) -> u64 {
        self.confirmations.next().await
    }

    /// What a probe found.
    pub fn confirmed(&self, probe: u64, confirmed: bool) {
        self.confirmations.answer(probe, confirmed);
    }

    /// The view of an audience, if it is open.
    pub fn get(&self, audience: &Audience) -> Option<Arc<View>> {
        self.views().get(audience).cloned()
    }

    /// Up to where whoever has all that it asks for up to each of `seqs` has it: see [`super::Content::extent`].
    pub fn extent<const N: usize>(
        &self,
        audience: &Audience,
        kind: ResourceType,
        subscription: &Subscription,
        seqs: [Seq; N],
    ) -> [Seq; N] {
        self.get(audience).map_or(seqs, |view| view.read().extent(kind, subscription, seqs))
    }

    /// Another one than before whenever something was published that is there to be read by now, or a view was opened or
    /// closed.
    pub fn edition(&self) -> (usize, u64) {
        let all = self.all();
        (all.len(), all.iter().map(|view| view.read().seq().0).fold(0, u64::wrapping_add))
    }

    /// All open views, sorted by audience.
    pub fn all(&self) -> Vec<Arc<View>> {
        self.views().values().cloned().collect()
    }

    /// The number of the next publish.
    pub fn next_seq(&self) -> Seq {
        Seq(self.seq.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Closes the views that nobody has read for ten minutes and returns their audiences; call it now and then.
    pub fn idle(&self, now: Instant) -> Vec<Audience> {
        let mut open = self.views();
        let idle = |v: &View| v.idle_since(now).is_some_and(|since| now.saturating_duration_since(since) >= IDLE);
        let closed: Vec<_> = open.iter().filter(|(_, v)| idle(v)).map(|(a, _)| a.clone()).collect();
        for audience in &closed {
            open.remove(audience);
        }
        closed
    }

    fn views(&self) -> MutexGuard<'_, BTreeMap<Audience, Arc<View>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
