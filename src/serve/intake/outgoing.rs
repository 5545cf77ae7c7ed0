//! Responses on their way: large ones take turns, and whoever takes none is found out.
//!
//! hyper and h2 hold what a client has not taken yet, and poll a body no more while they do. So neither the end of a
//! write nor a stall can be seen from inside a response; both are seen here from the bytes themselves, which say when
//! they move and when they are gone.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http_body::Frame;
use tokio::sync::oneshot;
use tonic::Status;

use super::{
    arrival::Arrival,
    gate::{Gate, Permit},
};

/// A response from here on takes turns. Smaller ones go at once: changes, and what a proxy lacks that comes back with
/// nearly everything.
const LARGE: usize = 64 << 10;

/// Turns are by site.
pub(super) type Turns = Gate<Arc<str>>;

/// One response's body.
pub(super) struct Outgoing {
    body: tonic::body::Body,
    arrival: Arrival,
    turns: Arc<Turns>,
    pace: Arc<Pace>,
    /// A large piece, until it is its turn.
    waiting: Option<(Bytes, oneshot::Receiver<Permit<Arc<str>>>)>,
}

impl Outgoing {
    pub(super) fn new(body: tonic::body::Body, arrival: Arrival, turns: &Arc<Turns>, reaper: &Reaper) -> Self {
        let pace = reaper.watch(arrival.clone());
        Self { body, arrival, turns: Arc::clone(turns), pace, waiting: None }
    }

    fn parcel(&self, bytes: Bytes, permit: Option<Permit<Arc<str>>>) -> Frame<Parcel> {
        self.pace.unsent.fetch_add(1, Relaxed);
        self.pace.moved.fetch_add(1, Relaxed);
        Frame::data(Parcel { bytes, pace: Arc::clone(&self.pace), _permit: permit })
    }
}

impl http_body::Body for Outgoing {
    type Data = Parcel;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Parcel>, Status>>> {
        loop {
            if let Some((_, turn)) = &mut self.waiting {
                // A gate that is gone keeps nobody.
                let permit = ready!(Pin::new(turn).poll(context)).ok();
                let bytes = self.waiting.take().map(|(bytes, _)| bytes).unwrap_or_default();
                return Poll::Ready(Some(Ok(self.parcel(bytes, permit))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(bytes) if bytes.len() < LARGE => return Poll::Ready(Some(Ok(self.parcel(bytes, None)))),
                Ok(bytes) => {
                    let turn = self.turns.queue(self.arrival.site(), bytes.len(), Instant::now());
                    self.waiting = Some((bytes, turn));
                }
                Err(frame) => {
                    return Poll::Ready(frame.into_trailers().ok().map(|trailers| Ok(Frame::trailers(trailers))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }
}

/// Bytes that a client has to take. They are dropped when the socket has them.
#[derive(Debug)]
pub(super) struct Parcel {
    bytes: Bytes,
    pace: Arc<Pace>,
    _permit: Option<Permit<Arc<str>>>,
}

impl Buf for Parcel {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.pace.moved.fetch_add(1, Relaxed);
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.pace.unsent.fetch_sub(1, Relaxed);
    }
}

/// How a client takes one response.
#[derive(Debug)]
struct Pace {
    arrival: Arrival,
    /// Parcels that it has not taken whole.
    unsent: AtomicU32,
    /// Changes whenever a part of one is taken.
    moved: AtomicU32,
}

/// Closes connections whose client takes nothing of a response although there is something for it. A client that has
/// nothing to take may be silent for ever: keep-alive looks after it.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    watched: Mutex<Vec<Watched>>,
}

#[derive(Debug)]
struct Watched {
    pace: Weak<Pace>,
    /// What had moved when it was last seen to move, and when that was.
    seen: (u32, Instant),
}

impl Reaper {
    fn watch(&self, arrival: Arrival) -> Arc<Pace> {
        let pace = Arc::new(Pace { arrival, unsent: AtomicU32::new(0), moved: AtomicU32::new(0) });
        let watched = Watched { pace: Arc::downgrade(&pace), seen: (0, Instant::now()) };
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
        pace
    }

    /// Looks at all responses; closes those that stand still for `stall`. Says how many.
    pub(super) fn sweep(&self, now: Instant, stall: Duration) -> usize {
        let mut closed = 0;
        let mut all = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain_mut(|watched| {
            let Some(pace) = watched.pace.upgrade() else { return false };
            let moved = pace.moved.load(Relaxed);
            if pace.unsent.load(Relaxed) == 0 || moved != watched.seen.0 {
                watched.seen = (moved, now);
                return true;
            }
            let stands = watched.seen.1 + stall <= now;
            if stands {
                pace.arrival.evict();
                closed += 1;
            }
            !stands
        });
        // A storm's room is not kept for ever.
        if all.capacity() > 4 * all.len() + 1_024 {
            all.shrink_to_fit();
        }
        closed
    }
}
