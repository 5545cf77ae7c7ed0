//! What each audience sees: immutable resources, the log of what changed, and the interest that opens views.

mod confirm;
mod content;
mod groups;
#[cfg(test)]
mod model_tests;
mod seat;
#[cfg(test)]
mod tests;
mod views;
#[cfg(test)]
mod wake_tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use tokio::sync::watch;

use self::seat::Seats;
pub use self::{
    content::{Content, Entry, Tombstone},
    groups::Group,
    seat::{Seat, Wake},
    views::Views,
};
pub use crate::xds::Seq;
use crate::{
    model::{Audience, Revision},
    xds::{Resource, ResourceType},
};

/// What one publish changes in one view.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// New or changed resources; those of an equal version change nothing.
    pub upserts: Vec<Arc<Resource>>,
    /// Names that are gone.
    pub removals: Vec<(ResourceType, Arc<str>)>,
}

/// Which state of the store a publish carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Everything up to this revision is in it.
    pub revision: Revision,
    /// The newest revision among those that wrote configuration: equal on replicas with equal content, and not moved by
    /// what the fleet writes about itself (watermarks, marks, live endpoints).
    pub configuration: Revision,
}

impl From<Revision> for Origin {
    /// A revision that wrote configuration.
    fn from(revision: Revision) -> Self {
        Self { revision, configuration: revision }
    }
}

/// What one audience sees.
#[derive(Debug)]
pub struct View {
    audience: Audience,
    content: RwLock<Content>,
    published: watch::Sender<Seq>,
    /// Streams that every publish concerns.
    restless: Seats,
    /// How far each live stream has taken over tombstones.
    readers: Mutex<Vec<Weak<AtomicU64>>>,
    /// The slowest of them when all were last asked.
    slowest: Mutex<Weak<AtomicU64>>,
    idle_since: Mutex<Option<Instant>>,
}

impl View {
    fn new(audience: Audience) -> Self {
        Self {
            audience,
            content: RwLock::new(Content::default()),
            published: watch::Sender::new(Seq(0)),
            restless: Seats::default(),
            slowest: Mutex::default(),
            readers: Mutex::new(Vec::new()),
            idle_since: Mutex::new(None),
        }
    }

    /// Whose view it is.
    pub fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Puts one publish into effect, all of it or nothing; the first makes the view ready, even if it is empty.
    /// Secrets of an audience that is not proven are dropped.
    pub fn publish(&self, seq: Seq, origin: impl Into<Origin>, mut changes: Publish) {
        if !self.audience.proven {
            changes.upserts.retain(|r| r.kind != ResourceType::Secret);
        }
        let touched = {
            let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(passed) = content.oldest().and_then(|oldest| self.passed(oldest)) {
                content.prune(passed);
            }
            content.apply(seq, seconds(SystemTime::now()), origin.into(), changes)
        };
        if touched.any || touched.waits {
            self.restless.wake();
        }
        if touched.any {
            self.published.send_replace(seq);
        }
        touched.groups.iter().for_each(|group| group.seats.wake());
    }

    /// The content, locked against a publish for as long as the guard lives: never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to this revision of the store is in it; 0 while pending.
    pub fn revision(&self) -> Revision {
        self.read().revision()
    }

    /// Tells of each publish that changed something; for the few that follow everything and are no stream.
    pub fn subscribe(&self) -> watch::Receiver<Seq> {
        self.published.subscribe()
    }

    fn readers(&self) -> MutexGuard<'_, Vec<Weak<AtomicU64>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seq that every live stream has passed, if that is `oldest` at least. While the one that was found to be the
    /// slowest has not, the others are not asked.
    fn passed(&self, oldest: Seq) -> Option<Seq> {
        let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        if slowest.upgrade().is_some_and(|passed| passed.load(Ordering::Relaxed) < oldest.0) {
            return None;
        }
        let mut readers = self.readers();
        let mut least = u64::MAX;
        readers.retain(|r| {
            let Some(passed) = r.upgrade() else { return false };
            let passed = passed.load(Ordering::Relaxed);
            if passed < least {
                (least, *slowest) = (passed, Weak::clone(r));
            }
            true
        });
        (least >= oldest.0).then_some(Seq(least))
    }

    fn reader(self: &Arc<Self>) -> Reader {
        let passed = Arc::new(AtomicU64::new(self.read().seq().0));
        self.readers().push(Arc::downgrade(&passed));
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Reader { view: Arc::clone(self), passed }
    }

    /// How long nobody has read it; starts the clock at the first call without readers.
    fn idle_since(&self, now: Instant) -> Option<Instant> {
        let mut since = self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        if self.readers().iter().any(|r| r.strong_count() > 0) {
            return None;
        }
        Some(*since.get_or_insert(now))
    }
}

/// Since 1970; small, since every entry of every view has one.
fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// One stream's hold on a view; while it lives the view stays open and keeps the tombstones that it has not passed.
#[derive(Debug)]
pub struct Reader {
    view: Arc<View>,
    passed: Arc<AtomicU64>,
}

impl Reader {
    /// The view.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// A place where a stream is woken by what is published.
    pub fn seat(&self) -> Seat {
        Seat::new(&self.view)
    }

    /// The stream has taken over every tombstone up to `seq`.
    pub fn pass(&self, seq: Seq) {
        self.passed.store(seq.0, Ordering::Relaxed);
    }
}
