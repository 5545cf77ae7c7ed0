//! All clients, their events, and what is counted over all of them.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    sync::Arc,
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use rustix::event::epoll::{Event, EventFlags};
use rustls::ClientConfig;
use serde::Serialize;

use super::{
    Mode, Settings,
    asks::Asks,
    client::{Client, Habits, Progress},
    line::mutual_tls,
    scout::{Held, Scout},
    sockets::{INPUT, NEW, SCOUT, Sockets},
    variant::Variant,
};
use crate::{clock, resources::Resource};

const MILLISECOND: u64 = 1_000_000;
/// Events that are taken from the kernel at a time.
const EVENTS: usize = 1_024;
/// Connections that are begun before the next look at events.
const AT_A_TIME: usize = 16;

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    pub responses: u64,
    pub resources: u64,
    pub bytes: u64,
    /// Connections that were lost and opened again.
    pub lost: u64,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Everybody has all resources.
    Loaded,
    /// Everybody (of those who ask for a resource) has a change from after this time.
    Stamp(u64),
}

pub struct Pool {
    pub settings: Settings,
    tls: Option<Arc<ClientConfig>>,
    sockets: Sockets,
    events: Vec<Event>,
    events_of_new: Vec<Event>,
    clients: Vec<Option<Client>>,
    /// How often each was lost: it goes to the next server then.
    moves: Vec<usize>,
    scout: Option<Client>,
    held: Held,
    asks: Asks,
    warm: bool,
    /// Who is to be opened, and not before when.
    to_open: VecDeque<(u64, usize)>,
    /// Begun, and not yet taken by the server.
    opening: usize,
    /// Clients that have not said all of their first words.
    new: usize,
    delayed: VecDeque<(u64, usize, Rc<[u8]>)>,
    scratch: Vec<u8>,
    pub totals: Totals,
    pub goal: Option<Goal>,
    /// Who of the clients reached it, and the time when the last one did.
    pub reached: usize,
    pub last: u64,
    /// Ages in microseconds at receipt, while it is filled.
    pub ages: Option<Histogram<u64>>,
    pub faults: Vec<String>,
    /// Nanoseconds that it took at most from the begin of a connection to its first byte: where the generator is late
    /// itself, what a server makes of that says nothing about the server.
    pub latest_hello: u64,
    rounds: u64,
}

impl Pool {
    /// Without clients yet, and listening to standard input.
    ///
    /// # Errors
    /// Of epoll, and of files for TLS.
    pub fn new(settings: Settings, input: BorrowedFd<'_>) -> Result<Self> {
        let sockets = Sockets::new(input)?;
        let held = Held::default();
        let asks = Asks::new(&settings, &held, false);
        let tls = settings.tls.as_deref().map(mutual_tls).transpose()?;
        Ok(Self {
            settings,
            tls,
            sockets,
            events: Vec::with_capacity(EVENTS),
            events_of_new: Vec::with_capacity(EVENTS),
            clients: Vec::new(),
            moves: Vec::new(),
            scout: None,
            held,
            asks,
            warm: false,
            to_open: VecDeque::new(),
            opening: 0,
            new: 0,
            delayed: VecDeque::new(),
            scratch: vec![0; 1 << 20],
            totals: Totals::default(),
            goal: None,
            reached: 0,
            last: 0,
            ages: None,
            faults: Vec::new(),
            latest_hello: 0,
            rounds: 0,
        })
    }

    /// Opens the one client that remembers what it is sent.
    ///
    /// # Errors
    /// Of the sockets; in state of the world.
    pub fn send_scout(&mut self) -> Result<()> {
        ensure!(self.settings.variant == Variant::Delta, "the scout speaks delta");
        let mut scout = self.connect(9_999_999)?;
        scout.scout = Some(Box::default());
        // It asks for everything, whatever the others ask for.
        self.asks = Asks::new(&Settings { mode: Mode::Eds, ..self.settings.clone() }, &Held::default(), false);
        self.warm = false;
        self.sockets.add(scout.line.as_fd(), SCOUT)?;
        self.new += 1;
        self.scout = Some(scout);
        Ok(())
    }

    /// What the scout has learnt, once that is all; it is gone then.
    pub fn scouted(&mut self) -> Option<&Held> {
        let wanted = self.settings.resources as u32;
        let done = self.scout.as_ref().is_some_and(|s| s.counts.iter().all(|count| *count >= wanted));
        if done && let Some(scout) = self.scout.take().and_then(|s| s.scout) {
            self.held = Scout::held(&scout);
            return Some(&self.held);
        }
        None
    }

    /// All that the scout has learnt.
    pub fn held_all(&self) -> Vec<Resource> {
        [self.held.clusters.as_slice(), &self.held.endpoints].concat()
    }

    /// How far the scout has come.
    pub fn scouting(&self) -> Option<[u32; 2]> {
        self.scout.as_ref().map(|s| s.counts)
    }

    /// Opens all clients, at most `opening` at a time.
    pub fn open(&mut self, warm: bool) {
        self.drop_all();
        self.asks = Asks::new(&self.settings, &self.held, warm);
        self.warm = warm;
        self.clients = std::iter::repeat_with(|| None).take(self.settings.clients).collect();
        self.moves = vec![0; self.settings.clients];
        self.latest_hello = 0;
        let now = clock::now();
        self.to_open = (0..self.settings.clients).map(|id| (now, id)).collect();
        self.open_more();
    }

    /// From now on whoever is lost comes back with what the scout saw.
    pub fn come_back_warm(&mut self) {
        self.asks = Asks::new(&self.settings, &self.held, true);
        self.warm = true;
    }

    fn connect(&self, id: usize) -> io::Result<Client> {
        let servers = &self.settings.servers;
        let moved = self.moves.get(id).copied().unwrap_or(0);
        let server = servers.get((id + moved) % servers.len().max(1)).copied();
        let server = server.ok_or_else(|| io::Error::other("no server is named"))?;
        Client::open(server, self.tls.as_ref(), id, self.settings.window)
    }

    /// A few at a time, so that they speak before the next connect.
    fn open_more(&mut self) {
        let now = clock::now();
        for _ in 0..AT_A_TIME {
            if self.opening >= self.settings.opening {
                return;
            }
            let Some((_, id)) = pop_if(&mut self.to_open, |(due, _)| *due <= now) else { return };
            let opened = self.connect(id).and_then(|client| {
                self.sockets.add(client.line.as_fd(), id as u64)?;
                Ok(client)
            });
            match opened {
                Ok(client) => {
                    self.opening += 1;
                    self.new += 1;
                    if let Some(place) = self.clients.get_mut(id) {
                        *place = Some(client);
                    }
                }
                Err(error) => self.fault(id, &error),
            }
        }
    }

    /// Closes all connections at once.
    pub fn drop_all(&mut self) {
        self.clients.clear();
        self.delayed.clear();
        self.to_open.clear();
        self.opening = 0;
        self.new = usize::from(self.scout.as_ref().is_some_and(|scout| scout.new));
    }

    /// The last so many clients stop reading.
    pub fn stall(&mut self, count: usize) {
        let from = self.clients.len().saturating_sub(count);
        self.clients.iter_mut().flatten().for_each(|client| client.stalled = client.id >= from);
    }

    /// Waits for what `goal` says, from now on.
    pub fn aim(&mut self, goal: Goal) {
        self.goal = Some(goal);
        (self.reached, self.last) = (0, 0);
        self.rounds += 1;
    }

    /// How many clients can reach the goal: of all, or of those who ask for `name`; those who stall cannot.
    pub fn expected(&self, name: Option<&str>) -> usize {
        let share = match (self.settings.mode, name) {
            (Mode::Share(share), Some(name)) => {
                let at = self.held.endpoints.iter().position(|r| r.name == name).unwrap_or(0);
                Some((at / share.max(1), self.held.endpoints.len().div_ceil(share.max(1))))
            }
            _ => None,
        };
        let stalled = self.clients.iter().flatten().filter(|c| c.stalled).count();
        match share {
            None => self.settings.clients - stalled,
            Some((share, shares)) => (0..self.settings.clients).filter(|id| id % shares == share).count(),
        }
    }

    /// Serves events until `until` at the latest; true: there is something on standard input.
    ///
    /// # Errors
    /// Of epoll.
    pub fn turn(&mut self, until: u64) -> Result<bool> {
        let due = self.delayed.front().map_or(until, |(due, ..)| until.min(*due));
        let due =
            self.to_open.front().filter(|_| self.opening < self.settings.opening).map_or(due, |(at, _)| due.min(*at));
        let mut events = std::mem::take(&mut self.events);
        self.sockets.wait(due.saturating_sub(clock::now()), &mut events)?;
        let mut input = false;
        for event in &events {
            self.serve_new()?;
            let (data, flags) = (event.data, event.flags);
            match data.u64() {
                INPUT => input = true,
                NEW => {}
                token => self.event(token, flags),
            }
        }
        self.events = events;
        self.acknowledge();
        self.open_more();
        Ok(input)
    }

    /// Those that are being opened go before what others are sent.
    fn serve_new(&mut self) -> Result<()> {
        if self.new == 0 {
            return Ok(());
        }
        let mut events = std::mem::take(&mut self.events_of_new);
        self.sockets.of_new(&mut events)?;
        for event in &events {
            let (data, flags) = (event.data, event.flags);
            self.event(data.u64(), flags);
        }
        self.events_of_new = events;
        self.open_more();
        Ok(())
    }

    fn acknowledge(&mut self) {
        let now = clock::now();
        while let Some((_, id, ack)) = pop_if(&mut self.delayed, |(due, ..)| *due <= now) {
            let client = self.clients.get_mut(id).and_then(Option::as_mut);
            if let Some(Err(error)) = client.map(|client| client.acknowledge(ack)) {
                self.fault(id, &error);
            }
        }
    }

    fn event(&mut self, token: u64, flags: EventFlags) {
        let id = usize::try_from(token).unwrap_or(usize::MAX);
        let client = if token == SCOUT { &mut self.scout } else { self.clients.get_mut(id).unwrap_or(&mut self.scout) };
        let Some(client) = client else { return };
        let scouting = client.scout.is_some();
        let habits = Habits {
            asks: &self.asks,
            variant: self.settings.variant,
            eds: scouting || self.settings.mode == Mode::Eds,
            delayed: self.settings.ack_delay_ms > 0 && !scouting,
        };
        let (was_connected, was_greeted, was_writing) = (client.connected, client.greeted, client.writing);
        let now = clock::now();
        let mut done = Ok(Progress::default());
        if flags.intersects(EventFlags::OUT | EventFlags::ERR) && client.writing {
            done = client.writable(&habits, self.warm).map(|()| Progress::default());
        }
        if done.is_ok() && flags.intersects(EventFlags::IN | EventFlags::HUP) {
            done = client.readable(&mut self.scratch, &habits, now);
        }
        if client.connected && !was_connected {
            self.latest_hello = self.latest_hello.max(clock::now().saturating_sub(client.began));
        }
        let waited = if client.new && client.settled() {
            client.new = false;
            self.new = self.new.saturating_sub(1);
            self.sockets.settle(client.line.as_fd(), token)
        } else if client.connected != was_connected || client.writing != was_writing {
            self.sockets.want(client.line.as_fd(), token, client.new, client.writing)
        } else {
            Ok(())
        };
        done = done.and_then(|progress| waited.map(|()| progress));
        // Not when it is connected: the kernel does that, and forgets who does not fit into the server's accept queue.
        let greeted = client.greeted && !was_greeted && !scouting;
        match done {
            Ok(progress) if !scouting => self.count(id, progress, now),
            Ok(_) => {}
            Err(error) if scouting => {
                self.faults.push(format!("scout: {error}"));
                self.scout = None;
                // There is nobody beside it.
                self.new = 0;
            }
            Err(error) => self.fault(id, &error),
        }
        if greeted {
            self.opening = self.opening.saturating_sub(1);
        }
    }

    fn count(&mut self, id: usize, progress: Progress, now: u64) {
        self.totals.responses += progress.responses;
        self.totals.resources += progress.resources;
        self.totals.bytes += progress.bytes;
        let due = now + self.settings.ack_delay_ms * MILLISECOND;
        self.delayed.extend(progress.delayed.into_iter().map(|ack| (due, id, ack)));
        let Some(client) = self.clients.get_mut(id).and_then(Option::as_mut) else { return };
        if let (Some(ages), Some(stamp), false) = (&mut self.ages, progress.stamp, client.stalled) {
            // It grows with what it is given, so that this cannot fail.
            let _ = ages.record((now - stamp) / 1_000);
        }
        let wanted = self.settings.resources as u32;
        let reached = match self.goal {
            None => false,
            Some(Goal::Stamp(from)) => progress.stamp.is_some_and(|stamp| stamp >= from),
            Some(Goal::Loaded) => match self.settings.mode {
                Mode::Cds => client.counts[0] >= wanted,
                Mode::Eds => client.counts[0] >= wanted && client.counts[1] >= wanted,
                Mode::Share(share) => client.counts[1] >= wanted.min(share as u32),
            },
        };
        if reached && client.round != self.rounds {
            client.round = self.rounds;
            self.reached += 1;
            // Behind the write of its ACK.
            self.last = clock::now();
        }
    }

    /// A connection is lost; its client comes back after 0.5 to 1 s, as an Envoy does, and to the next server.
    fn fault(&mut self, id: usize, error: &io::Error) {
        self.totals.lost += 1;
        if let Some(moves) = self.moves.get_mut(id) {
            *moves += 1;
        }
        let pause = 500 * MILLISECOND + (id as u64 * 7_919 % 500) * MILLISECOND;
        self.to_open.push_back((clock::now() + pause, id));
        if self.faults.len() < 20 {
            self.faults.push(format!("client {id}: {error}"));
        }
        if let Some(client) = self.clients.get_mut(id).and_then(Option::take) {
            self.opening -= usize::from(!client.greeted && self.opening > 0);
            self.new -= usize::from(client.new && self.new > 0);
        }
    }
}

fn pop_if<T>(queue: &mut VecDeque<T>, ready: impl FnOnce(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(ready) { queue.pop_front() } else { None }
}
