//! Where a stream waits for publishes: with the groups of all that it asks for, or, while it is not settled, for any.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

use super::{Content, Group, View};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Wakes one task, once for however many reasons came together.
#[derive(Debug, Default)]
pub struct Wake {
    due: AtomicBool,
    task: AtomicWaker,
}

impl Wake {
    /// Something has happened.
    pub fn wake(&self) {
        if !self.due.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }

    /// Ready once for all that happened since the last time.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.task.register(context.waker());
        if self.due.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl std::task::Wake for Wake {
    fn wake(self: Arc<Self>) {
        Self::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Self::wake(self);
    }
}

/// The streams that wait for one thing.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<HashMap<u64, Arc<Wake>>>);

impl Seats {
    pub(super) fn wake(&self) {
        self.taken().values().for_each(|wake| wake.wake());
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Wake>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's place among those that are woken. It is woken by every publish until it says what it follows.
#[derive(Debug)]
pub struct Seat {
    view: Arc<View>,
    id: u64,
    wake: Arc<Wake>,
    /// None: every publish.
    follows: Option<Vec<Arc<Group>>>,
}

impl Seat {
    pub(super) fn new(view: &Arc<View>) -> Self {
        let seat = Self {
            view: Arc::clone(view),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            wake: Arc::default(),
            follows: None,
        };
        seat.sit(&seat.view.restless);
        seat
    }

    /// From now on it is woken by what concerns these groups, or by every publish. It has seen all of `_content`, whose
    /// lock keeps the next publish away meanwhile.
    pub fn follow<'a>(&mut self, groups: Option<impl Iterator<Item = &'a Arc<Group>> + Clone>, _content: &Content) {
        let same = match (&self.follows, &groups) {
            (None, None) => true,
            (Some(old), Some(new)) => {
                let mut old = old.iter();
                new.clone().all(|new| old.next().is_some_and(|old| Arc::ptr_eq(old, new))) && old.next().is_none()
            }
            _ => false,
        };
        if same {
            return;
        }
        self.leave();
        self.follows = groups.map(|groups| groups.cloned().collect());
        match &self.follows {
            None => self.sit(&self.view.restless),
            Some(groups) => groups.iter().for_each(|group| self.sit(&group.seats)),
        }
    }

    /// Ready when something was published that it follows.
    pub fn poll_woken(&self, context: &Context<'_>) -> Poll<()> {
        self.wake.poll(context)
    }

    fn sit(&self, seats: &Seats) {
        seats.taken().insert(self.id, Arc::clone(&self.wake));
    }

    fn leave(&self) {
        let stand_up = |seats: &Seats| {
            seats.taken().remove(&self.id);
        };
        match &self.follows {
            None => stand_up(&self.view.restless),
            Some(groups) => groups.iter().for_each(|group| stand_up(&group.seats)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}
