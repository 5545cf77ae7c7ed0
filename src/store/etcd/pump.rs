//! One watch: etcd's responses → whole revisions, with a heartbeat, distrustful.

use std::time::Duration;

use etcd_client::{WatchResponse, WatchStream};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::wire;
use crate::{
    model::Revision,
    store::{Batch, Change, StoreError, WatchEvent},
};

/// How often etcd is asked whether the watch is alive. It says so by itself only every 10 minutes. With [`MISSED`] a
/// watch that has died silently is found within 12 s.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// Heartbeats without any message, after which the watch is given up.
const MISSED: u32 = 2;

type Item = Result<WatchEvent, StoreError>;

/// A running watch.
pub(super) struct Pump {
    stream: WatchStream,
    out: mpsc::Sender<Item>,
    cluster: Option<u64>,
    regroup: Regroup,
}

/// Why a watch ends.
enum End {
    Unheard,
    Tell(Item),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        End::Tell(Err(error))
    }
}

impl Pump {
    pub(super) fn new(stream: WatchStream, out: mpsc::Sender<Item>, cluster: Option<u64>, from: Revision) -> Self {
        let regroup = Regroup { delivered: Revision(from.0.saturating_sub(1)), pending: None };
        Pump { stream, out, cluster, regroup }
    }

    pub(super) async fn run(mut self) {
        let Err(end) = self.pump().await;
        if let End::Tell(item) = end {
            // A reader that is gone needs no reason.
            let _ = self.out.send(item).await;
        }
    }

    async fn pump(&mut self) -> Result<std::convert::Infallible, End> {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.tick().await;
        let mut missed = 0;
        loop {
            tokio::select! {
                biased;
                () = self.out.closed() => return Err(End::Unheard),
                message = self.stream.message() => {
                    missed = 0;
                    let response = message.map_err(|error| wire::words(&error))?;
                    let gone = || StoreError::Unavailable("etcd ended the watch".to_owned());
                    self.response(response.ok_or_else(gone)?).await?;
                }
                _ = heartbeat.tick() => {
                    if missed == MISSED {
                        let silence = HEARTBEAT.as_secs() * u64::from(MISSED);
                        return Err(StoreError::Unavailable(format!("the watch is silent for {silence} s")).into());
                    }
                    missed += 1;
                    self.stream.request_progress().await.map_err(|error| wire::words(&error))?;
                }
            }
        }
    }

    async fn response(&mut self, response: WatchResponse) -> Result<(), End> {
        if let Some(header) = response.header() {
            let cluster = header.cluster_id();
            if self.cluster.is_some_and(|known| known != cluster) {
                return Err(StoreError::Changed(format!("the watch answers from the cluster {cluster:x}")).into());
            }
        }
        if response.compact_revision() > 0 {
            return Err(End::Tell(Ok(WatchEvent::Compacted(wire::revision(response.compact_revision())))));
        }
        if response.canceled() {
            let why = response.cancel_reason();
            return Err(StoreError::Unavailable(format!("etcd ended the watch: {why}")).into());
        }
        let fragment = response.0.fragment;
        let events = response.0.events;
        if events.is_empty() && !fragment {
            // An answer to a heartbeat. Its revision may run ahead of events that are still on their way (etcd before
            // 3.4.25 and 3.5.8), so it says only that what was delivered is good.
            let progress = WatchEvent::Progress(self.regroup.delivered);
            return self.out.send(Ok(progress)).await.map_err(|_| End::Unheard);
        }
        for event in events {
            let Some(kv) = event.kv else { continue };
            let revision = wire::revision(kv.mod_revision);
            // The raw number: the library's accessor panics on a type that it does not know.
            let change = match event.r#type {
                0 => wire::key_text(kv.key).map(|key| {
                    Change::Put(crate::store::KeyValue {
                        key,
                        value: kv.value.into(),
                        create_revision: wire::revision(kv.create_revision),
                        mod_revision: revision,
                    })
                }),
                1 => wire::key_text(kv.key).map(Change::Delete),
                other => return Err(StoreError::Unavailable(format!("a change of unknown type {other}")).into()),
            };
            if let Some(batch) = self.regroup.take(revision, change)? {
                self.send(batch).await?;
            }
        }
        if !fragment && let Some(batch) = self.regroup.whole() {
            self.send(batch).await?;
        }
        Ok(())
    }

    async fn send(&self, batch: Batch) -> Result<(), End> {
        self.out.send(Ok(WatchEvent::Batch(batch))).await.map_err(|_| End::Unheard)
    }
}

/// Puts a revision together from fragments: it is whole when a higher one begins, or when a response is no fragment.
#[derive(Debug)]
struct Regroup {
    delivered: Revision,
    pending: Option<Batch>,
}

impl Regroup {
    /// Takes a change in (`None`: one that is left out), and gives back the revision that it shows to be whole.
    fn take(&mut self, revision: Revision, change: Option<Change>) -> Result<Option<Batch>, StoreError> {
        if revision <= self.delivered {
            return Ok(None);
        }
        let mut whole = None;
        match &self.pending {
            Some(pending) if revision < pending.revision => {
                let back = format!("the watch went back from revision {} to {revision}", pending.revision);
                return Err(StoreError::Unavailable(back));
            }
            Some(pending) if revision > pending.revision => whole = self.whole(),
            _ => {}
        }
        if let Some(change) = change {
            self.pending.get_or_insert(Batch { revision, changes: Vec::new() }).changes.push(change);
        }
        Ok(whole)
    }

    /// What was pending, whole now.
    fn whole(&mut self) -> Option<Batch> {
        let batch = self.pending.take()?;
        self.delivered = batch.revision;
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Regroup, Revision};

    #[test]
    fn fragments_of_a_revision_are_delivered_as_one() {
        let mut regroup = Regroup { delivered: Revision(4), pending: None };
        let mut take = |revision, key: &str| regroup.take(Revision(revision), Some(Change::Delete(key.to_owned())));
        assert_eq!(take(4, "delivered already"), Ok(None));
        assert_eq!(take(5, "a"), Ok(None));
        assert_eq!(take(5, "b"), Ok(None));
        let whole = take(6, "c").unwrap().unwrap();
        assert_eq!((whole.revision, whole.changes.len()), (Revision(5), 2));
        assert!(take(5, "late").is_ok_and(|late| late.is_none()));
        let whole = regroup.whole().unwrap();
        assert_eq!((whole.revision, whole.changes.len()), (Revision(6), 1));
        assert_eq!(regroup.whole(), None);
    }

    #[test]
    fn a_watch_that_goes_back_is_not_believed() {
        let mut regroup = Regroup { delivered: Revision(4), pending: None };
        regroup.take(Revision(9), Some(Change::Delete("a".to_owned()))).unwrap();
        assert!(regroup.take(Revision(8), Some(Change::Delete("b".to_owned()))).is_err());
    }
}
