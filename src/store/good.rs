//! The last-known-good copy: the watched keys of the store at a revision, on this replica's own disk, so that it can
//! serve after a start without the store.
//!
//! It is a copy of keys, not of what was compiled from them: a start without the store takes the same way as one with
//! it. It holds private keys, as the store does.

mod file;
mod shelf;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use self::shelf::Shelf;
use super::{
    CopyMade, CopyStatus, Listing,
    held::{Held, Snapshot},
};

/// Between two copies, and between two attempts.
const PAUSE: Duration = Duration::from_secs(10);

/// A copy to serve from.
#[derive(Clone, Debug)]
pub(super) struct Good {
    /// The keys.
    pub(super) listing: Listing,
    /// When it was written, for people.
    pub(super) written: SystemTime,
}

/// Writes what a follower holds, when it has changed.
pub(super) struct Keeper {
    shelf: Shelf,
    prefix: String,
    pause: Duration,
    status: watch::Sender<CopyStatus>,
    /// The era of what is on disk.
    era: u64,
}

impl Keeper {
    /// Reads the newest copy that can be trusted, else says why there is none. Blocks: the file may be large.
    pub(super) fn open(dir: PathBuf, prefix: &str) -> (Self, Result<Good, String>) {
        let none = format!("{}: no copy has been written yet", dir.display());
        let mut shelf = Shelf::new(dir);
        let (copy, refused) = shelf.load(prefix);
        for why in &refused {
            tracing::warn!(%why, "a last-known-good copy is not used");
        }
        let why = if refused.is_empty() { none } else { refused.join("; ") };
        let newest = copy.as_ref().map(|copy| CopyMade { revision: copy.listing.revision, written: copy.written });
        let status = watch::Sender::new(CopyStatus { newest, refused, ..CopyStatus::default() });
        let good = copy.map(|copy| Good { listing: copy.listing, written: copy.written });
        (Self { shelf, prefix: prefix.to_owned(), pause: PAUSE, status, era: 0 }, good.ok_or(why))
    }

    pub(super) fn status(&self) -> watch::Receiver<CopyStatus> {
        self.status.subscribe()
    }

    /// Writes a copy when something has changed, not more often than every 10 s, and a last one at the end. What cannot
    /// be written is tried again.
    pub(super) async fn run(mut self, mut held: watch::Receiver<Held>, cancel: CancellationToken) {
        let mut unsaved = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = held.changed(), if !unsaved => if changed.is_err() { break },
                () = std::future::ready(()), if unsaved => {}
            }
            let snapshot = held.borrow_and_update().snapshot();
            let Some(keeper) = self.write(snapshot).await else { return };
            self = keeper;
            unsaved = self.status.borrow().trouble.is_some();
            tokio::select! {
                () = cancel.cancelled() => break,
                () = sleep(self.pause) => {}
            }
        }
        if unsaved || held.has_changed().unwrap_or(true) {
            let snapshot = held.borrow_and_update().snapshot();
            // The process ends here anyway.
            drop(self.write(snapshot).await);
        }
    }

    /// On a thread that may block; `None` when that thread broke.
    async fn write(mut self, snapshot: Option<Snapshot>) -> Option<Self> {
        let Some(snapshot) = snapshot else { return Some(self) };
        let written = spawn_blocking(move || {
            self.write_now(&snapshot);
            self
        });
        let broken = |error| tracing::error!(%error, "last-known-good copies are not written any more");
        written.await.map_err(broken).ok()
    }

    fn write_now(&mut self, snapshot: &Snapshot) {
        let written = SystemTime::now();
        let entries = snapshot.entries.iter().map(|kv| Arc::unwrap_or_clone(Arc::clone(kv))).collect();
        let listing = Listing { store: snapshot.store, revision: snapshot.revision, entries };
        let copy = file::Copy { generation: 0, written, prefix: self.prefix.clone(), listing };
        match self.shelf.write(copy, snapshot.era != self.era) {
            Ok(()) => {
                self.era = snapshot.era;
                let newest = Some(CopyMade { revision: snapshot.revision, written });
                self.status.send_modify(|status| {
                    status.newest = newest;
                    status.trouble = None;
                });
            }
            Err(why) => {
                self.status.send_modify(|status| {
                    // Said once, not every 10 s.
                    if status.trouble.as_ref() != Some(&why) {
                        tracing::warn!(%why, "the last-known-good copy is not written; trying again");
                    }
                    status.failures += 1;
                    status.trouble = Some(why);
                });
            }
        }
    }
}
