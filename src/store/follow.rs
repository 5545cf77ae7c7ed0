//! A prefix of the store as one stream that survives compaction, disconnection, restarts and a store that went back.
//!
//! A consumer applies what comes, in order: [`Feed::Reset`] is the whole truth at a revision (what is not in it is
//! gone), [`Feed::Batch`] follows on it without a gap.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Batch, Listing, Store, StoreError, WatchEvent, Watcher};
use crate::model::Revision;

#[cfg(test)]
mod tests;

/// What [`follow`] delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// All keys at a revision: at first, after history was lost, and now and then as a check.
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
    /// The store is another one or an older state of it: nothing is delivered until the one that was followed is back.
    /// Said once; ends with the next `Reset`.
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
}

const PACE: Pace =
    Pace { first: Duration::from_millis(100), longest: Duration::from_secs(10), check: Duration::from_secs(300) };

/// Lists `prefix`, then watches it, until `cancel` or until nobody listens. Never gives up; the waits between attempts
/// are jittered, so that replicas do not come back at once.
pub async fn follow(store: Arc<dyn Store>, prefix: String, cancel: CancellationToken, out: mpsc::Sender<Feed>) {
    Follower::new(store, prefix, out, PACE).run(cancel).await;
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

struct Follower {
    store: Arc<dyn Store>,
    prefix: String,
    out: mpsc::Sender<Feed>,
    pace: Pace,
    /// Everything up to here has been delivered; `None` before the first listing.
    applied: Option<Revision>,
    state: State,
    /// Failed attempts in a row.
    failures: u32,
    /// When the last watch began.
    began: Instant,
}

impl Follower {
    fn new(store: Arc<dyn Store>, prefix: String, out: mpsc::Sender<Feed>, pace: Pace) -> Self {
        let began = Instant::now();
        Follower { store, prefix, out, pace, applied: None, state: State::Up, failures: 0, began }
    }

    async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.rounds() => {}
        }
    }

    async fn rounds(&mut self) {
        let mut must_list = true;
        loop {
            let end = match self.round(must_list).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            match end {
                End::List => must_list = true,
                End::Unheard => return,
                End::Failed(error) => {
                    if self.failed(error).await.is_err() {
                        return;
                    }
                    // After an outage the watch resumes where it was; only what was frozen, or never listed, starts
                    // from a listing.
                    must_list = self.state == State::Frozen || self.applied.is_none();
                }
            }
        }
    }

    async fn round(&mut self, must_list: bool) -> Result<std::convert::Infallible, End> {
        if must_list {
            self.list().await?;
        }
        let applied = self.applied.unwrap_or_default();
        let mut watcher = self.store.watch(&self.prefix, Revision(applied.0 + 1)).await.map_err(End::Failed)?;
        self.began = Instant::now();
        if self.state == State::Down {
            self.deliver(Feed::Progress(applied)).await?;
        }
        let check = sleep_until(Instant::now() + jittered(self.pace.check));
        tokio::pin!(check);
        loop {
            tokio::select! {
                event = watcher.recv() => self.event(event).await?,
                () = &mut check => {
                    self.drain(&mut watcher).await?;
                    return Err(End::List);
                }
                () = self.out.closed() => return Err(End::Unheard),
            }
        }
    }

    async fn list(&mut self) -> Result<(), End> {
        let listing = self.store.list(&self.prefix).await.map_err(End::Failed)?;
        if let Some(applied) = self.applied.filter(|applied| listing.revision < *applied) {
            let older = format!("it is at revision {}, it was at {applied}", listing.revision);
            return Err(End::Failed(StoreError::Changed(older)));
        }
        let revision = listing.revision;
        self.deliver(Feed::Reset(listing)).await?;
        self.applied = Some(revision);
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
        let applied = self.applied.unwrap_or_default();
        match event {
            Some(Ok(WatchEvent::Batch(batch))) => {
                let revision = batch.revision;
                // At least once is what a watch promises; a batch twice is dropped here.
                if revision > applied {
                    self.deliver(Feed::Batch(batch)).await?;
                    self.applied = Some(revision);
                }
                Ok(())
            }
            Some(Ok(WatchEvent::Progress(revision))) => {
                if revision > applied || self.state != State::Up {
                    let revision = revision.max(applied);
                    self.deliver(Feed::Progress(revision)).await?;
                    self.applied = Some(revision);
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
        self.out.send(feed).await.map_err(|_| End::Unheard)
    }

    /// Tells of a failure, once, and waits.
    async fn failed(&mut self, error: StoreError) -> Result<(), End> {
        // A watch that fails as soon as it begins is no recovery.
        if self.began.elapsed() > self.pace.longest {
            self.failures = 0;
        }
        let reason = error.to_string();
        let wait = if let StoreError::Changed(_) = error {
            if self.state != State::Frozen {
                tracing::error!(%reason, "the store is not the one that was followed; nothing is taken from it");
                self.out.send(Feed::Frozen { reason }).await.map_err(|_| End::Unheard)?;
            }
            self.state = State::Frozen;
            self.pace.longest
        } else {
            if self.state == State::Up {
                tracing::warn!(%reason, "the store is down");
                self.out.send(Feed::Down { reason }).await.map_err(|_| End::Unheard)?;
                self.state = State::Down;
            }
            self.pace.longest.min(self.pace.first.saturating_mul(1 << self.failures.min(16)))
        };
        self.failures += 1;
        tokio::select! {
            () = sleep(jittered(wait)) => Ok(()),
            () = self.out.closed() => Err(End::Unheard),
        }
    }
}

/// Between half and the whole of it.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
