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
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
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
    /// The process stops.
    stop: CancellationToken,
    waiting: Option<Waiting>,
    /// A piece that waited at the stop was dropped: what follows goes too, up to the end.
    forgone: bool,
}

/// A large piece, until it is its turn.
struct Waiting {
    bytes: Bytes,
    turn: oneshot::Receiver<Permit<Arc<str>>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Outgoing {
    pub(super) fn new(
        body: tonic::body::Body,
        arrival: Arrival,
        turns: &Arc<Turns>,
        reaper: &Reaper,
        stop: &CancellationToken,
    ) -> Self {
        let (pace, turns) = (reaper.watch(arrival.clone()), Arc::clone(turns));
        Self { body, arrival, turns, pace, stop: stop.clone(), waiting: None, forgone: false }
    }

    fn queue(&self, bytes: Bytes) -> Waiting {
        let turn = self.turns.queue(self.arrival.site(), bytes.len(), Instant::now());
        Waiting { bytes, turn, stop: Box::pin(self.stop.clone().cancelled_owned()) }
    }

    /// The end of a response that lacks something: what it says itself, unless that is that all went well.
    fn cut_short(&mut self, mut trailers: HeaderMap) -> Frame<Parcel> {
        self.forgone = false;
        if trailers.get(Status::GRPC_STATUS).is_none_or(|code| code == "0") {
            // Our own words are a valid header.
            drop(Status::unavailable("shutting down").add_header(&mut trailers));
        }
        Frame::trailers(trailers)
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
            if let Some(mut waiting) = self.waiting.take() {
                match Pin::new(&mut waiting.turn).poll(context) {
                    // A gate that is gone keeps nobody.
                    Poll::Ready(permit) => return Poll::Ready(Some(Ok(self.parcel(waiting.bytes, permit.ok())))),
                    // Whoever waits still is sent to another replica, and whoever makes the body is told so at once.
                    Poll::Pending if waiting.stop.as_mut().poll(context).is_ready() => self.forgone = true,
                    Poll::Pending => {
                        self.waiting = Some(waiting);
                        return Poll::Pending;
                    }
                }
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None if !self.forgone => return Poll::Ready(None),
                None => return Poll::Ready(Some(Ok(self.cut_short(HeaderMap::new())))),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(_) if self.forgone => {}
                Ok(bytes) if bytes.len() < LARGE => return Poll::Ready(Some(Ok(self.parcel(bytes, None)))),
                Ok(bytes) => self.waiting = Some(self.queue(bytes)),
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    let trailers = trailers.map(|trailers| match self.forgone {
                        true => self.cut_short(trailers),
                        false => Frame::trailers(trailers),
                    });
                    return Poll::Ready(trailers.map(Ok));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && !self.forgone && self.body.is_end_stream()
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Code;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn body(frames: Vec<Frame<Bytes>>) -> tonic::body::Body {
        tonic::body::Body::new(StreamBody::new(futures::stream::iter(frames.into_iter().map(Ok::<_, Status>))))
    }

    fn trailers(status: &Status) -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        Frame::trailers(trailers)
    }

    #[test]
    fn what_waits_for_its_turn_at_the_stop_ends_as_it_says_itself_but_never_well() {
        let data = |bytes: usize| Frame::data(Bytes::from(vec![0; bytes]));
        for (last, code) in [
            (vec![trailers(&Status::ok(""))], Code::Unavailable),
            (vec![trailers(&Status::aborted("replaced"))], Code::Aborted),
            (vec![], Code::Unavailable),
        ] {
            let (turns, reaper, stop) =
                (Turns::new(1, SECOND, 60 * SECOND), Reaper::default(), CancellationToken::new());
            let _first = turns.queue("".into(), LARGE, Instant::now());
            let frames = [data(1), data(LARGE), data(1), data(LARGE)].into_iter().chain(last).collect();
            let mut outgoing = Outgoing::new(body(frames), Arrival::default(), &turns, &reaper, &stop);
            let mut next = || outgoing.frame().now_or_never();
            let small = next().flatten().unwrap().unwrap();
            assert_eq!(small.data_ref().map(Buf::remaining), Some(1));
            assert!(next().is_none(), "the first holds the gate");
            stop.cancel();
            let end = next().flatten().unwrap().unwrap();
            let end = end.trailers_ref().and_then(Status::from_header_map).map(|status| status.code());
            assert_eq!(end, Some(code));
            assert!(next().is_some_and(|more| more.is_none()));
        }
    }
}
