//! A gate that lets only so much through at a time, and by turns: no site (or address) waits for another's queue.
//!
//! What has been let through counts until its [`Permit`] is dropped, but not for longer than the gate's patience: who is
//! slow is held up by its own link, and holds up nobody. So the queue moves whatever its clients do, and nobody waits
//! without end. The gate has no clock of its own: it is told the time, by [`Gate::tick`] now and then.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// Whose turn it is.
pub(super) trait Key: Clone + Debug + Eq + Hash {}
impl<K: Clone + Debug + Eq + Hash> Key for K {}

/// The gate.
#[derive(Debug)]
pub(super) struct Gate<K: Key> {
    /// What may be under way; the last one let through may go beyond it, however large it is.
    limit: usize,
    /// For how long a permit counts.
    patience: Duration,
    /// Who has waited for this long is let through whatever is under way.
    longest: Duration,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K: Key> {
    /// The latest time that it was told.
    now: Instant,
    under_way: usize,
    next: u64,
    /// In the order in which they were given.
    permits: BTreeMap<u64, (Instant, usize)>,
    /// Whose turn comes next; each is once in it, and has somebody waiting.
    turns: VecDeque<K>,
    waiting: HashMap<K, VecDeque<Waiter<K>>>,
}

#[derive(Debug)]
struct Waiter<K: Key> {
    since: Instant,
    weight: usize,
    grant: oneshot::Sender<Permit<K>>,
}

/// The right to be under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit<K: Key> {
    gate: Arc<Gate<K>>,
    id: u64,
}

impl<K: Key> Gate<K> {
    pub(super) fn new(limit: usize, patience: Duration, longest: Duration) -> Arc<Self> {
        let (permits, turns, waiting) = (BTreeMap::new(), VecDeque::new(), HashMap::new());
        let state = State { now: Instant::now(), under_way: 0, next: 0, permits, turns, waiting };
        Arc::new(Self { limit, patience, longest, state: Mutex::new(state) })
    }

    /// Queues up for `weight`; the answer comes when it is `key`'s turn. Who drops the receiver has left the queue.
    pub(super) fn queue(self: &Arc<Self>, key: K, weight: usize, now: Instant) -> oneshot::Receiver<Permit<K>> {
        let (grant, granted) = oneshot::channel();
        let mut state = self.state();
        state.now = state.now.max(now);
        let waiting = state.waiting.entry(key.clone()).or_default();
        let first = waiting.is_empty();
        waiting.push_back(Waiter { since: now, weight, grant });
        if first {
            state.turns.push_back(key);
        }
        self.let_through(state, false);
        granted
    }

    /// Forgets permits that are older than its patience, and lets through who has waited for too long.
    pub(super) fn tick(self: &Arc<Self>, now: Instant) {
        let mut state = self.state();
        state.now = state.now.max(now);
        while let Some(permit) = state.permits.first_entry().filter(|p| p.get().0 + self.patience <= now) {
            let (_, weight) = permit.remove();
            state.under_way -= weight;
        }
        // Only here are all turns looked at: every arrival and every end would be too often.
        self.let_through(state, true);
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_through(self: &Arc<Self>, mut state: MutexGuard<'_, State<K>>, also_overdue: bool) {
        let mut granted = Vec::new();
        let next = |state: &mut State<K>| match state.pop(self.limit) {
            None if also_overdue => state.pop_overdue(self.longest),
            next => next,
        };
        while let Some(waiter) = next(&mut state) {
            let (id, now) = (state.next, state.now);
            state.next += 1;
            state.under_way += waiter.weight;
            state.permits.insert(id, (now, waiter.weight));
            granted.push((waiter.grant, Permit { gate: Arc::clone(self), id }));
        }
        drop(state);
        for (grant, permit) in granted {
            // Whoever left at this very moment has its permit dropped, which locks the gate: not before here.
            drop(grant.send(permit));
        }
    }
}

impl<K: Key> State<K> {
    /// The next in turn, if there is room.
    fn pop(&mut self, limit: usize) -> Option<Waiter<K>> {
        while self.under_way < limit {
            let key = self.turns.pop_front()?;
            let Some(waiting) = self.waiting.get_mut(&key) else { continue };
            let next = std::iter::from_fn(|| waiting.pop_front()).find(|waiter| !waiter.grant.is_closed());
            if waiting.is_empty() {
                self.waiting.remove(&key);
            } else {
                self.turns.push_back(key);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// One that has waited for too long.
    fn pop_overdue(&mut self, longest: Duration) -> Option<Waiter<K>> {
        let due = |key: &K| {
            let first = self.waiting.get(key).and_then(VecDeque::front);
            first.is_some_and(|waiter| waiter.since + longest <= self.now)
        };
        let at = self.turns.iter().position(due)?;
        self.turns.rotate_left(at);
        self.pop(usize::MAX)
    }
}

impl<K: Key> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        // It may have been forgotten already.
        if let Some((_, weight)) = state.permits.remove(&self.id) {
            state.under_way -= weight;
            self.gate.let_through(state, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    type Ticket = oneshot::Receiver<Permit<&'static str>>;

    fn gate(limit: usize) -> (Arc<Gate<&'static str>>, Instant) {
        (Gate::new(limit, SECOND, 60 * SECOND), Instant::now())
    }

    /// Which of the tickets have been called, and their permits.
    fn called(tickets: &mut [Ticket]) -> (Vec<usize>, Vec<Permit<&'static str>>) {
        let called = tickets.iter_mut().enumerate().filter_map(|(at, ticket)| Some((at, ticket.try_recv().ok()?)));
        called.unzip()
    }

    #[test]
    fn only_so_much_is_under_way_and_what_ends_makes_room() {
        let (gate, now) = gate(10);
        let mut tickets: Vec<_> = (0..5).map(|_| gate.queue("a", 6, now)).collect();
        let (first, permits) = called(&mut tickets);
        assert_eq!(first, [0, 1], "6 leave room for one more, 12 for none");
        drop(permits);
        assert_eq!(called(&mut tickets).0, [2, 3]);
        assert_eq!(called(&mut tickets).0, [4], "permits that are dropped unused make room too");
        assert_eq!(gate.state().under_way, 0);
    }

    #[test]
    fn one_that_is_larger_than_all_the_room_still_goes() {
        let (gate, now) = gate(10);
        let mut tickets = [gate.queue("a", 1_000, now), gate.queue("a", 1, now)];
        let (first, permits) = called(&mut tickets);
        assert_eq!(first, [0]);
        drop(permits);
        assert_eq!(called(&mut tickets).0, [1]);
    }

    #[test]
    fn sites_take_turns_however_many_of_one_came_first() {
        let (gate, now) = gate(1);
        let mut tickets: Vec<_> = ["a", "a", "a", "a", "b", "b", "c"].map(|site| gate.queue(site, 1, now)).into();
        let mut order = Vec::new();
        for _ in 0..7 {
            let (next, permits) = called(&mut tickets);
            order.extend(next);
            drop(permits);
        }
        assert_eq!(order, [0, 1, 4, 6, 2, 5, 3]);
        assert!(gate.state().waiting.is_empty() && gate.state().turns.is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn who_has_left_is_passed_over() {
        let (gate, now) = gate(1);
        let mut tickets: Vec<_> = (0..4).map(|_| gate.queue("a", 1, now)).collect();
        let (_, permits) = called(&mut tickets);
        tickets.drain(1..3);
        drop(permits);
        assert_eq!(called(&mut tickets).0, [1]);
        assert_eq!(gate.state().under_way, 0);
    }

    #[test]
    fn a_permit_counts_for_a_while_only() {
        let (gate, now) = gate(1);
        let mut tickets: Vec<_> = (0..3).map(|_| gate.queue("a", 1, now)).collect();
        let (_, slow) = called(&mut tickets);
        gate.tick(now + SECOND / 2);
        assert!(called(&mut tickets).0.is_empty());
        gate.tick(now + SECOND);
        let (second, _second) = called(&mut tickets);
        assert_eq!(second, [1]);
        drop(slow);
        assert!(called(&mut tickets).0.is_empty(), "a permit that was forgotten gives nothing back");
    }

    #[test]
    fn nobody_waits_longer_than_the_longest_wait() {
        let gate = Gate::new(1, 100 * SECOND, 60 * SECOND);
        let now = Instant::now();
        let mut tickets = [gate.queue("a", 1, now), gate.queue("b", 1, now), gate.queue("c", 1, now + SECOND)];
        let (_, _held) = called(&mut tickets);
        gate.tick(now + 60 * SECOND);
        assert_eq!(called(&mut tickets).0, [1]);
        gate.tick(now + 61 * SECOND);
        assert_eq!(called(&mut tickets).0, [2]);
    }
}
