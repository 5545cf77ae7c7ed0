//! A prefix of the store as one stream that survives compaction, disconnection, restarts and a store that went back.
//!
//! A consumer applies what comes, in order: [`Feed::Reset`] is the whole truth at a revision (what is not in it is
//! gone), [`Feed::Batch`] follows on it without a gap.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Accepted, Batch, Listing, Store, StoreError, WatchEvent, Watcher, control::Order, good::Good, guard::Gate,
    held::Held,
};
use crate::model::Revision;

#[cfg(test)]
mod exchanged;
#[cfg(test)]
mod tests;

/// What [`follow`] delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// All keys at a revision: at first, after an outage or lost history, and now and then as a check.
    Reset(Listing),
    /// The next revision that touches the prefix.
    Batch(Batch),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
    /// The store cannot be reached; what was delivered is all that is known. Said once per outage, which ends with the
    /// next other message.
    Down {
        /// For people.
        reason: String,
    },
    /// The store has not answered since the start: all keys as of the last-known-good copy. Stale until the next other
    /// message; what follows on it is a `Reset` or a `Frozen`.
    Copy {
        /// The keys.
        listing: Listing,
        /// For people.
        reason: String,
    },
    /// The store is another one or an older state of it: nothing is delivered until the one that was followed is back,
    /// or an operator accepts the new one. Said once; ends with the next `Reset`.
    Frozen {
        /// For people.
        reason: String,
    },
}

/// The waits of [`follow`].
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The first wait after a failure; it doubles.
    first: Duration,
    /// The longest wait after a failure, and the wait while frozen.
    longest: Duration,
    /// Between two checks of the whole prefix.
    check: Duration,
    /// How long the store is waited for at the start before the copy is served.
    start: Duration,
}

const PACE: Pace = Pace {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(5),
    check: Duration::from_secs(300),
    start: Duration::from_secs(10),
};

/// What an operator can do about a store that is not the one that was followed.
const TO_DO: &str = "nothing is taken from it and nothing is written to it: bring the other one back, or run `tidegate \
                     store accept` to go on with this one";

/// Lists `prefix`, then watches it, until `cancel` or until nobody listens. Never gives up; the waits between attempts
/// are jittered, so that replicas do not come back at once.
pub async fn follow(store: Arc<dyn Store>, prefix: String, cancel: CancellationToken, out: mpsc::Sender<Feed>) {
    Follower::new(store, prefix, out).run(cancel).await;
}

/// What to deliver while the store has not answered since the start.
#[derive(Clone, Debug)]
pub(super) enum Fallback {
    /// Nothing is needed: the store has answered, or there is no copy by design.
    Unneeded,
    /// This copy, when it is time.
    Ready(Good),
    /// There is none: why.
    Missing(String),
    /// It has been delivered: its words.
    Served(String),
}

/// What binds a follower to the rest of the store.
pub(super) struct Ties {
    /// What it holds, for the copy.
    pub(super) held: watch::Sender<Held>,
    /// Whether writes may pass.
    pub(super) gate: watch::Sender<Gate>,
    /// What an operator orders.
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) fallback: Fallback,
}

impl Ties {
    /// Of a follower that is on its own: nobody orders, nothing is kept.
    pub(super) fn new(gate: Gate) -> Self {
        let (_, orders) = mpsc::channel(1);
        Self {
            held: watch::Sender::new(Held::default()),
            gate: watch::Sender::new(gate),
            orders,
            fallback: Fallback::Unneeded,
        }
    }
}

/// What the consumer has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Frozen,
}

/// Why a round ended.
enum End {
    /// The history is gone, or it is time for a check: list.
    List,
    /// The store failed.
    Failed(StoreError),
    /// The consumer is gone.
    Unheard,
}

/// See [`follow`].
pub(super) struct Follower {
    store: Arc<dyn Store>,
    prefix: String,
    out: mpsc::Sender<Feed>,
    pace: Pace,
    ties: Ties,
    /// Everything up to here has been delivered.
    applied: Revision,
    state: State,
    /// Failed attempts in a row.
    failures: u32,
    /// When the last watch began, until it fails.
    began: Option<Instant>,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn Store>, prefix: String, out: mpsc::Sender<Feed>) -> Self {
        let ties = Ties::new(None);
        Follower {
            store,
            prefix,
            out,
            pace: PACE,
            ties,
            applied: Revision(0),
            state: State::Up,
            failures: 0,
            began: None,
        }
    }

    /// Bound to the rest of the store. A copy is what the store is held against from the first listing on.
    pub(super) fn tied(mut self, ties: Ties) -> Self {
        self.ties = ties;
        if let Fallback::Ready(good) = &self.ties.fallback {
            self.applied = good.listing.revision;
            self.ties.held.send_replace(Held::of(&good.listing));
        }
        self
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.rounds() => {}
        }
    }

    async fn rounds(&mut self) {
        let start = Instant::now() + self.pace.start;
        loop {
            // Also after an outage a listing comes first: only it shows that this is still the same store.
            let end = match self.round(start).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            match end {
                End::List => {}
                End::Unheard => return,
                End::Failed(error) => {
                    if self.failed(error, start).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn round(&mut self, start: Instant) -> Result<std::convert::Infallible, End> {
        self.list(start).await?;
        let from = Revision(self.applied.0 + 1);
        let mut watcher = self.store.watch(&self.prefix, from).await.map_err(End::Failed)?;
        self.began = Some(Instant::now());
        let check = sleep_until(Instant::now() + jittered(self.pace.check));
        tokio::pin!(check);
        loop {
            tokio::select! {
                event = watcher.recv() => self.event(event).await?,
                () = &mut check => {
                    self.drain(&mut watcher).await?;
                    return Err(End::List);
                }
                Some(order) = self.ties.orders.recv() => {
                    let same = "the store that answers is the one that is followed; there is nothing to accept";
                    // Whoever asked may have gone.
                    let _ = order.send(Err(StoreError::Refused(same.to_owned())));
                }
                () = self.out.closed() => return Err(End::Unheard),
            }
        }
    }

    async fn list(&mut self, start: Instant) -> Result<(), End> {
        let list = self.store.list(&self.prefix);
        let listed = match self.ties.fallback {
            Fallback::Ready(_) => timeout_at(start, list).await.unwrap_or_else(|_| {
                let waited = self.pace.start.as_secs();
                Err(StoreError::Unavailable(format!("it did not answer within {waited} s of the start")))
            }),
            _ => list.await,
        };
        let listing = listed.map_err(End::Failed)?;
        self.ties.held.borrow().check(&listing).map_err(End::Failed)?;
        if listing.revision < self.applied {
            let older = format!("it is at revision {}, it was at {}", listing.revision, self.applied);
            return Err(End::Failed(StoreError::Changed(older)));
        }
        self.take(listing).await
    }

    /// A listing that can be trusted.
    async fn take(&mut self, listing: Listing) -> Result<(), End> {
        let revision = listing.revision;
        // Said only when something differs, so that a mere check makes no new copy.
        self.ties.held.send_if_modified(|held| held.reset(&listing));
        self.deliver(Feed::Reset(listing)).await?;
        self.applied = revision;
        Ok(())
    }

    /// Takes what has arrived already, so that a check does not overtake it needlessly.
    async fn drain(&mut self, watcher: &mut Watcher) -> Result<(), End> {
        while let Ok(event) = watcher.try_recv() {
            self.event(Some(event)).await?;
        }
        Ok(())
    }

    async fn event(&mut self, event: Option<Result<WatchEvent, StoreError>>) -> Result<(), End> {
        match event {
            Some(Ok(WatchEvent::Batch(batch))) => {
                let revision = batch.revision;
                // At least once is what a watch promises; a batch twice is dropped here.
                if revision > self.applied {
                    self.ties.held.send_modify(|held| held.apply(&batch));
                    self.deliver(Feed::Batch(batch)).await?;
                    self.applied = revision;
                }
                Ok(())
            }
            Some(Ok(WatchEvent::Progress(revision))) => {
                if revision > self.applied {
                    self.deliver(Feed::Progress(revision)).await?;
                    self.applied = revision;
                }
                Ok(())
            }
            Some(Ok(WatchEvent::Compacted(_))) => Err(End::List),
            Some(Err(error)) => Err(End::Failed(error)),
            None => Err(End::Failed(StoreError::Unavailable("the watch ended".to_owned()))),
        }
    }

    async fn deliver(&mut self, feed: Feed) -> Result<(), End> {
        self.state = State::Up;
        self.ties.fallback = Fallback::Unneeded;
        self.ties.gate.send_if_modified(|gate| gate.take().is_some());
        self.send(feed).await
    }

    async fn send(&self, feed: Feed) -> Result<(), End> {
        self.out.send(feed).await.map_err(|_| End::Unheard)
    }

    /// Tells of a failure, once, and waits.
    async fn failed(&mut self, error: StoreError, start: Instant) -> Result<(), End> {
        // A watch that fails as soon as it begins is no recovery.
        if self.began.take().is_some_and(|began| began.elapsed() > self.pace.longest) {
            self.failures = 0;
        }
        let wait = self.tell(error, start).await?;
        self.failures += 1;
        let mut until = Instant::now() + jittered(wait);
        if let Fallback::Ready(_) = self.ties.fallback {
            until = until.min(start);
        }
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                Some(order) = self.ties.orders.recv() => {
                    // One who does not wait any more has been told that it is not known what came of it, and looks
                    // again: nothing is taken behind his back, and whoever comes after him is heard in this wait.
                    if !order.is_closed() {
                        return self.obey(order).await;
                    }
                }
                () = self.out.closed() => return Err(End::Unheard),
            }
        }
    }

    /// What has failed, to the consumer and to writers; and how long to wait.
    async fn tell(&mut self, error: StoreError, start: Instant) -> Result<Duration, End> {
        let exchanged = matches!(error, StoreError::Changed(_));
        if exchanged || Instant::now() >= start {
            self.serve_copy(&error).await?;
        }
        if let StoreError::Changed(what) = error {
            if self.state != State::Frozen {
                let error = StoreError::Changed(format!("{what}; {TO_DO}"));
                let reason = match &self.ties.fallback {
                    Fallback::Served(words) => format!("{error}; {words}"),
                    _ => error.to_string(),
                };
                tracing::error!(%reason, "frozen: the store is not the one that was followed");
                self.ties.gate.send_replace(Some(error));
                self.state = State::Frozen;
                self.send(Feed::Frozen { reason }).await?;
            }
            return Ok(self.pace.longest);
        }
        if self.state == State::Up {
            let reason = match &self.ties.fallback {
                Fallback::Missing(why) => format!("{error}; there is no last-known-good copy to serve: {why}"),
                _ => error.to_string(),
            };
            tracing::warn!(%reason, "the store is down");
            self.ties.gate.send_replace(Some(error));
            self.state = State::Down;
            self.send(Feed::Down { reason }).await?;
        }
        Ok(self.pace.longest.min(self.pace.first.saturating_mul(1 << self.failures.min(16))))
    }

    /// Delivers the copy, if there is one that was not delivered yet.
    async fn serve_copy(&mut self, error: &StoreError) -> Result<(), End> {
        let Fallback::Ready(Good { listing, written }) = &self.ties.fallback else { return Ok(()) };
        let (listing, written) = (listing.clone(), prost_types::Timestamp::from(*written));
        let words = format!("serving the last-known-good copy of {written}, revision {}", listing.revision);
        let reason = format!("{error}; {words}");
        tracing::warn!(%reason, "the store is down at the start");
        self.ties.gate.send_replace(Some(error.clone()));
        self.ties.fallback = Fallback::Served(words);
        self.state = State::Down;
        self.send(Feed::Copy { listing, reason }).await
    }

    /// An operator says that the store which answers now is the right one.
    async fn obey(&mut self, order: Order) -> Result<(), End> {
        let answer = if self.state == State::Frozen {
            self.store.adopt();
            self.store.list(&self.prefix).await
        } else {
            let away = "it does not answer, and nothing is frozen; there is nothing to accept";
            Err(StoreError::Unavailable(away.to_owned()))
        };
        // Whoever asked may go at any time; what has been taken by then stays taken.
        let _ = match answer {
            Err(error) => order.send(Err(error)),
            Ok(_) if order.is_closed() => return Ok(()),
            Ok(listing) => {
                let accepted = Accepted { store: listing.store, revision: listing.revision };
                tracing::warn!(store = %accepted.store, revision = %accepted.revision, "another store is accepted");
                self.ties.held.send_modify(Held::adopt);
                self.take(listing).await?;
                order.send(Ok(accepted))
            }
        };
        Ok(())
    }
}

/// Between half and the whole of it.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
