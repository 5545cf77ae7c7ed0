//! What the intake and a handler know together of one connection.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::gate::Permit;

/// Bytes of requests that the streams of one connection hold together: of those that have not come whole, and of those
/// that are kept for a proxy that is answered nothing. Two of the largest, since a reconnect names everything that a
/// proxy has, and few streams do so at a time.
const HELD: usize = 32 << 20;
/// Names that the streams of one connection ask for together: two types of a proxy to the full, or a thousand streams of
/// a gRPC client with two hundred each.
const NAMES: usize = 200_000;

/// One connection, to the handlers of its requests, which find it in their extensions: they say who it is.
#[derive(Clone, Debug, Default)]
pub struct Arrival(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Its place among those that are just being opened.
    opening: Mutex<Option<Permit<IpAddr>>>,
    site: OnceLock<Arc<str>>,
    /// Bytes of requests, of [`HELD`].
    held: AtomicUsize,
    /// Of [`NAMES`].
    names: AtomicUsize,
    /// The last piece of a request. HTTP/2 reads into a buffer that grows to twice the largest frame, for good, if nobody
    /// else has a part of it when that frame comes; since somebody has, the next begins with 8 KiB again.
    last: Mutex<Bytes>,
    evicted: Notify,
}

impl Arrival {
    /// It may begin.
    pub(super) fn begin(&self, opening: Permit<IpAddr>) {
        self.opening(Some(opening));
    }

    /// What it began with is read: the next may be opened.
    pub fn opened(&self) {
        self.opening(None);
    }

    /// It is of this site, which is proven, or believed where nothing is proven: large responses take turns with those to
    /// other sites. Before, it is of none: a mere claim takes no site's turns.
    pub fn of(&self, site: &Arc<str>) {
        self.0.site.get_or_init(|| Arc::clone(site));
    }

    /// What one of its streams holds of requests, in bytes; nothing yet.
    pub(in crate::serve) fn hold(&self) -> Held {
        Held { arrival: self.clone(), counter: |inner| &inner.held, most: HELD, amount: 0 }
    }

    /// How many names one of its streams asks for; none yet.
    pub(in crate::serve) fn asks(&self) -> Held {
        Held { arrival: self.clone(), counter: |inner| &inner.names, most: NAMES, amount: 0 }
    }

    fn opening(&self, permit: Option<Permit<IpAddr>>) {
        let mut place = self.0.opening.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped behind the lock: that lets somebody else through.
        let before = std::mem::replace(&mut *place, permit);
        drop(place);
        drop(before);
    }

    /// The site that it is of; empty while that is not known.
    pub(in crate::serve) fn site(&self) -> Arc<str> {
        self.0.site.get().map_or_else(|| "".into(), Arc::clone)
    }

    /// Closes it.
    pub(super) fn evict(&self) {
        self.0.evicted.notify_one();
    }

    /// Waits until it has to be closed.
    pub(super) async fn evicted(&self) {
        self.0.evicted.notified().await;
    }
}

/// What one stream holds of something that all streams of its connection share, until it is dropped.
#[derive(Debug)]
pub(in crate::serve) struct Held {
    arrival: Arrival,
    counter: fn(&Inner) -> &AtomicUsize,
    most: usize,
    amount: usize,
}

impl Held {
    /// Holds so much more, if all streams of the connection leave room for it.
    pub(in crate::serve) fn take(&mut self, more: usize) -> bool {
        let room = |held: usize| held.checked_add(more).filter(|held| *held <= self.most);
        let taken = (self.counter)(&self.arrival.0).fetch_update(Relaxed, Relaxed, room).is_ok();
        self.amount += if taken { more } else { 0 };
        taken
    }

    /// Holds so much less.
    pub(in crate::serve) fn give_back(&mut self, less: usize) {
        let less = less.min(self.amount);
        self.amount -= less;
        (self.counter)(&self.arrival.0).fetch_sub(less, Relaxed);
    }

    /// Holds so much in all, if the others leave room for it.
    pub(in crate::serve) fn set(&mut self, amount: usize) -> bool {
        if amount == self.amount {
            return true;
        }
        self.give_back(self.amount.saturating_sub(amount));
        self.take(amount.saturating_sub(self.amount))
    }

    /// Keeps a piece of a request, as it came, in place of the one before: of all streams of the connection that one.
    pub(in crate::serve) fn keep(&self, piece: Bytes) {
        *self.arrival.0.last.lock().unwrap_or_else(PoisonError::into_inner) = piece;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_of_a_connection_hold_so_much_together_and_what_one_held_comes_back() {
        let (one, other) = (Arrival::default(), Arrival::default());
        let (mut first, mut second) = (one.hold(), one.hold());
        assert!(first.take(HELD - 10) && second.take(10));
        assert!(!second.take(1) && !first.take(usize::MAX));
        assert!(other.hold().take(HELD), "another connection has room of its own");
        first.give_back(4);
        assert!(second.take(4) && !second.take(1));
        drop(first);
        assert!(second.take(HELD - 14) && !second.take(1));
        drop(second);
        assert_eq!(one.0.held.load(Relaxed), 0);
    }

    #[test]
    fn the_streams_of_a_connection_ask_for_so_many_names_together_whatever_they_hold_of_requests() {
        let arrival = Arrival::default();
        let (mut first, mut second) = (arrival.asks(), arrival.asks());
        assert!(first.set(NAMES - 10) && second.set(10) && !second.set(11));
        assert!(first.set(NAMES - 20) && second.set(20) && !second.set(21));
        assert!(arrival.hold().take(HELD));
        drop((first, second));
        assert_eq!(arrival.0.names.load(Relaxed), 0);
    }

    #[test]
    fn of_all_streams_of_a_connection_the_last_piece_is_kept_and_no_other() {
        let arrival = Arrival::default();
        let buffers = [0; 3].map(|_| Bytes::from(vec![0; 100]));
        buffers.iter().for_each(|buffer| arrival.hold().keep(buffer.slice(..1)));
        assert_eq!(buffers.each_ref().map(Bytes::is_unique), [true, true, false]);
    }
}
