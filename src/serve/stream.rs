//! The task of one ADS stream: who is it, then request, publish and deadline in, frames out while there is room.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tonic::Status;

use super::{
    intake::{Arrival, Held},
    machine::Machine,
    requests::Requests,
    service::{Admitted, Fleet, Inner, Method, Slot},
    session::{Client, Moment, Session, Violation},
    signals::{Signal, Signals},
    sotw,
    wire::{Ask, Features, Variant},
};
use crate::{
    feedback::{self, Connected, ProxyId},
    identity::{self, NodeClaim, Peer},
    model::{Audience, Role, Sites},
    snapshot::{Reader, Seat, Views},
    xds::ResourceType,
};

/// Bytes of a site's or a node's name, about.
const CLAIM_MAX: usize = 256;
/// Bytes of a refusal's words in the log.
const REFUSAL_MAX: usize = 1024;
/// Between two refusals of one stream in the log: a storm of them is not to become one of lines.
const TOLD: Duration = Duration::from_secs(1);
/// A stream says who it is within this.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Requests that are kept for a proxy that is answered nothing.
const KEPT: usize = 64;
/// Whether the replica has read everything is known within this, or counts as not known.
const CONFIRM: Duration = Duration::from_secs(60);
/// Between two such questions of one stream.
const AGAIN: Duration = Duration::from_secs(1);
/// A stream is polled this often though nothing concerns it, and up to twice as long: tombstones that it has no use for
/// are pruned when it has passed them.
const IDLE: Duration = Duration::from_secs(30);
/// Streams of a replica that was stale begin anew within this, once it is fresh: not all at once.
const RENEWED: Duration = Duration::from_secs(10);

/// Runs the stream to its end; `Ok` when the proxy ended it.
pub(super) async fn run(
    inner: Arc<Inner>,
    (peer, arrival): (Peer, Arrival),
    service: &'static Method,
    mut requests: Requests,
    slot: Slot,
) -> Result<(), Status> {
    // Asked before it is known that it matters: the answer is there when the first request is, and what that reports is
    // not kept for as long as a storm's questions take.
    let confirming = confirmed(&inner.shared.views);
    let first = timeout(FIRST_REQUEST, requests.message());
    let first = first.await.map_err(|_| Status::deadline_exceeded("no request"))??;
    let Some(mut first) = first else { return Ok(()) };
    // The node is only guaranteed in the first request; a later, different one is ignored.
    let node = first.take_node().unwrap_or_default();
    let (claim, drain) = (NodeClaim { delta: service.variant == Variant::Delta, ..node.claim()? }, node.drain_time());
    let features = node.features();
    // Its metadata would keep the bytes of the whole request for as long as the stream lives.
    drop(node);
    let who = Who { inner, peer, claim };
    let name = |claim| cut(claim, CLAIM_MAX).into();
    let id = ProxyId { site: name(&who.claim.site), node: name(&who.claim.id) };
    let mut fleet = who.inner.shared.fleet.clone();
    let resolved = who.resolve(&mut fleet.sites);
    let mut kept = vec![first];
    let proxy = who.inner.shared.feedback.connect(id.clone(), SystemTime::now(), resolved.clone());
    // A gRPC client has a stream for each of its targets; a proxy, perhaps, one for each type. All speak for it.
    let one_of_many = service.only.is_some() || who.claim.grpc;
    proxy.set_partial(one_of_many);
    let audience = match resolved {
        Ok(audience) => audience,
        Err(reason) => {
            tracing::warn!(node = %id.node, site = %id.site, %reason, "a proxy is answered nothing");
            arrival.opened();
            match who.wait(&mut fleet.sites, &mut requests, (&mut kept, arrival.hold()), &proxy).await? {
                Some(audience) => audience,
                None => return Ok(()),
            }
        }
    };
    tracing::debug!(node = %id.node, site = %id.site, "a stream begins");
    arrival.of(&audience.site);
    // Only now: nobody may push out the streams of a proxy that it merely claims to be.
    let admitted = who.inner.admit(&id, !one_of_many);
    let reader = who.inner.shared.views.open(&audience);
    let drain = drain.unwrap_or_else(|| fleet.sites.borrow().drain_time);
    let session = machine(&who, service.variant, &audience, client(&audience, drain, features), &id);
    let signals = Signals::new(who.inner.shared.cancel.clone(), admitted.token.clone());
    let idle = idle();
    let stream = Stream {
        who,
        only: service.only,
        audience,
        fleet,
        seat: reader.seat(),
        reader,
        session,
        proxy,
        _admitted: admitted,
        slot,
        signals,
        idle,
        sleep: Box::pin(sleep_until(idle)),
        features,
        active: true,
        complete: false,
        alarmed: false,
        names: arrival.asks(),
        confirming: Some(confirming),
        opening: Some(Opening(arrival)),
        ends: None,
        told: None,
    };
    stream.run(requests, kept).await
}

/// What a session has to know of the client of its stream.
fn client(audience: &Audience, drain: Duration, features: Features) -> Client {
    let drain = match audience.role {
        // It has no listener whose connections could drain.
        Role::Grpc => Duration::ZERO,
        Role::Edge | Role::Core => drain,
    };
    let (expires, unwraps) = (features.expires, features.wrapped);
    Client { role: audience.role, proven: audience.proven, drain, expires, unwraps }
}

fn machine(who: &Who, variant: Variant, audience: &Audience, client: Client, id: &ProxyId) -> Machine {
    let doubt = who.inner.doubts.of(id, client.role, client.proven);
    match variant {
        Variant::Delta => {
            let session = Session::new(who.inner.fanouts(audience), client, now());
            Machine::Delta(Box::new(session.doubting(doubt)))
        }
        Variant::World => Machine::World(Box::new(sotw::Session::new(client, now()).doubting(doubt))),
    }
}

/// Whether this replica has read everything that was written before now.
fn confirmed(views: &Views) -> Boxed<bool> {
    let asked = views.confirm();
    Box::pin(async move { timeout(CONFIRM, asked).await.unwrap_or(false) })
}

/// Words of somebody else as far as they are kept: a claim that is longer is refused, but named.
fn cut(words: &str, max: usize) -> &str {
    let end = words.char_indices().map(|(at, _)| at).find(|at| *at >= max).unwrap_or(words.len());
    words.get(..end).unwrap_or_default()
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// When to poll though nothing happens.
fn idle() -> Instant {
    Instant::now() + IDLE.mul_f64(1.0 + fastrand::f64())
}

fn stopping() -> Status {
    Status::unavailable("shutting down")
}

fn closed(violation: Violation) -> Status {
    Status::invalid_argument(violation.to_string())
}

struct Who {
    inner: Arc<Inner>,
    peer: Peer,
    claim: NodeClaim,
}

impl Who {
    fn resolve(&self, sites: &mut watch::Receiver<Arc<Sites>>) -> Result<Audience, String> {
        let shared = &self.inner.shared;
        let sites = Arc::clone(&sites.borrow_and_update());
        identity::resolve(&self.peer, &self.claim, &sites, shared.allow_unproven).map_err(|refusal| refusal.to_string())
    }

    /// A refused proxy is answered nothing, and asked again for whenever the sites change.
    async fn wait(
        &self,
        sites: &mut watch::Receiver<Arc<Sites>>,
        requests: &mut Requests,
        (kept, mut held): (&mut Vec<Ask>, Held),
        proxy: &Connected,
    ) -> Result<Option<Audience>, Status> {
        let mut room = held.take(kept.iter().map(Ask::size).sum());
        while room {
            tokio::select! {
                () = self.inner.shared.cancel.cancelled() => return Err(stopping()),
                request = requests.message() => match request? {
                    None => return Ok(None),
                    Some(request) => {
                        room = kept.len() < KEPT && held.take(request.size());
                        kept.push(request);
                    }
                },
                changed = sites.changed() => {
                    changed.map_err(|_| stopping())?;
                    let resolved = self.resolve(sites);
                    proxy.set_audience(resolved.clone());
                    if let Ok(audience) = resolved {
                        return Ok(Some(audience));
                    }
                }
            }
        }
        Err(Status::unavailable("not served; try again later"))
    }
}

struct Stream {
    who: Who,
    /// The type of a stream that has only one.
    only: Option<ResourceType>,
    audience: Audience,
    fleet: Fleet,
    reader: Reader,
    /// Where it is woken by publishes.
    seat: Seat,
    session: Machine,
    proxy: Connected,
    /// Its place among the streams of the proxy.
    _admitted: Admitted,
    slot: Slot,
    signals: Signals,
    /// When it is polled in any case.
    idle: Instant,
    /// The next time that matters, or an earlier one.
    sleep: Pin<Box<Sleep>>,
    /// What the client can do.
    features: Features,
    /// False while its site is unknown or being deleted.
    active: bool,
    /// The proxy has acknowledged everything once.
    complete: bool,
    /// It was said that a set of it is large.
    alarmed: bool,
    /// How many names it asks for, of those of its connection.
    names: Held,
    /// The question whether the replica has read everything.
    confirming: Option<Boxed<bool>>,
    /// It is being opened until it has something to send, or has compared all that has come: who reports what it has does
    /// so in several requests, and those of ten thousand would pile up in memory.
    opening: Option<Opening>,
    /// When it ends so that the proxy is compared anew.
    ends: Option<Instant>,
    /// When a refusal was last told of in the log.
    told: Option<Instant>,
}

/// A place among the connections that are being opened, until it is dropped.
struct Opening(Arrival);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opened();
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a stream waits for.
enum Event {
    Request(Box<Ask>),
    /// The proxy ended it, or its connection is gone.
    End,
    Signal(Signal),
    /// Whether the replica has read everything.
    Confirmed(bool),
    /// Something was published, a frame was taken, or it is time.
    Poll,
}

impl Stream {
    async fn run(mut self, mut requests: Requests, kept: Vec<Ask>) -> Result<(), Status> {
        for request in kept {
            self.request(request)?;
        }
        loop {
            let full = self.fill();
            self.renew();
            match poll_fn(|context| self.next(&mut requests, full, context)).await? {
                Event::End => return Ok(()),
                Event::Request(request) => self.request(*request)?,
                Event::Signal(Signal::Stop) => return Err(stopping()),
                Event::Signal(Signal::Replaced) => {
                    return Err(Status::unavailable("a newer stream of this node took over"));
                }
                Event::Signal(Signal::Sites) => self.identify()?,
                Event::Signal(Signal::Fresh) => drop(self.fleet.fresh.borrow_and_update()),
                Event::Signal(Signal::Watermarks) | Event::Poll => {}
                Event::Confirmed(confirmed) if !self.session.stale() => self.session.trust(confirmed),
                Event::Confirmed(confirmed) => {
                    self.ends = confirmed.then(|| Instant::now() + RENEWED.mul_f64(fastrand::f64()));
                }
            }
            if self.ends.is_some_and(|ends| ends <= Instant::now()) {
                return Err(Status::unavailable("fresh again; please reconnect"));
            }
        }
    }

    /// What happens next. Polled by hand, since a stream is woken ten thousand times for what it waits for once.
    fn next(&mut self, requests: &mut Requests, full: bool, context: &mut Context<'_>) -> Poll<Result<Event, Status>> {
        let attentive = self.active && !full;
        let awaits = attentive && self.session.awaits_watermarks();
        if let Poll::Ready(signal) = self.signals.poll(context, &self.fleet, awaits) {
            return Poll::Ready(Ok(Event::Signal(signal)));
        }
        if let Poll::Ready(request) = pin!(requests.message()).poll(context) {
            return Poll::Ready(request.map(|request| request.map_or(Event::End, |r| Event::Request(Box::new(r)))));
        }
        if full && !self.slot.is_full() {
            return Poll::Ready(Ok(Event::Poll));
        }
        let asks = self.session.unsure() || self.session.stale();
        if let Some(confirming) = self.confirming.as_mut().filter(|_| asks)
            && let Poll::Ready(confirmed) = confirming.as_mut().poll(context)
        {
            self.confirming = None;
            return Poll::Ready(Ok(Event::Confirmed(confirmed)));
        }
        if self.active && self.seat.poll_woken(context).is_ready() {
            return Poll::Ready(Ok(Event::Poll));
        }
        let deadline = self.session.next_deadline().filter(|_| attentive).map(Instant::from_std);
        let at = deadline.into_iter().chain(self.ends).fold(self.idle, Instant::min);
        let due = self.reached(at, context).map(|()| Ok(Event::Poll));
        if due.is_pending() && !self.session.unsure() {
            self.opening = None;
        }
        due
    }

    /// The timer is set anew when it rings, or for an earlier time: most times that a stream names pass unused.
    fn reached(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = &mut self.sleep;
        loop {
            if sleep.is_elapsed() || sleep.deadline() > at {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
        }
    }

    fn request(&mut self, mut request: Ask) -> Result<(), Status> {
        if let Some(only) = self.only {
            // There the type goes without saying (rules 3 and 4).
            let url = request.url();
            if url.is_empty() {
                only.url().clone_into(url);
            } else if *url != only.url() {
                return Err(Status::invalid_argument(format!("this service has {} only", only.url())));
            }
        }
        if let Some((kind, error)) = request.refusal()
            && self.told.is_none_or(|told| told.elapsed() >= TOLD)
        {
            self.told = Some(Instant::now());
            let error = cut(error, REFUSAL_MAX);
            tracing::warn!(node = %self.proxy.id.node, site = %self.proxy.id.site, kind, error, "a response is refused");
        }
        self.session.on_request(request, &self.reader.view().read(), now()).map_err(closed)?;
        if self.names.set(self.session.names()) {
            return Ok(());
        }
        Err(Status::resource_exhausted("the streams of this connection ask for too many names"))
    }

    /// A stream never changes audience: another one means another stream.
    fn identify(&mut self) -> Result<(), Status> {
        let resolved = self.who.resolve(&mut self.fleet.sites);
        if resolved.as_ref().is_ok_and(|audience| *audience != self.audience) {
            return Err(Status::unavailable("the site of this proxy changed"));
        }
        self.active = resolved.is_ok();
        self.proxy.set_audience(resolved);
        Ok(())
    }

    /// Sends the next frame, if there is one and room for it; says whether there is no room for more.
    fn fill(&mut self) -> bool {
        let (mut full, mut complete) = (false, false);
        if self.idle <= Instant::now() {
            self.idle = idle();
        }
        if self.active {
            let mut out = None;
            let (sites, fresh) = (Arc::clone(&self.fleet.sites.borrow()), *self.fleet.fresh.borrow());
            let watermarks = Arc::clone(&self.fleet.watermarks.borrow_and_update());
            {
                let content = self.reader.view().read();
                let moment = Moment { now: now(), fresh, sites: &sites, watermarks: &watermarks };
                if !self.slot.is_full() {
                    out = self.session.poll(&content, &moment);
                }
                full = out.is_some() || self.slot.is_full();
                self.reader.pass(self.session.passed(&content));
                complete = !self.complete && !full && self.session.complete(&content, self.only);
                self.session.sit(&mut self.seat, &content);
            }
            // Encoded outside the lock, by whoever is first.
            if let Some(send) = out {
                self.slot.put(send.bytes(&self.who.inner.shared.identifier, self.features));
                self.opening = None;
            }
        }
        for (kind, state) in self.session.reports() {
            self.alarm(kind, state.set);
            self.proxy.set(kind, state);
        }
        if complete {
            self.complete = true;
            self.proxy.set_complete();
            // A type that comes later and reports something asks anew.
            self.confirming = None;
        }
        if self.session.unsure() && self.confirming.is_none() {
            self.confirming = Some(confirmed(&self.who.inner.shared.views));
        }
        full
    }

    /// A set that cannot be split comes near to what gRPC clients take; said once for each stream.
    fn alarm(&mut self, kind: ResourceType, bytes: usize) {
        if bytes > feedback::LARGE_SET && !std::mem::replace(&mut self.alarmed, true) {
            let ProxyId { site, node } = &self.proxy.id;
            tracing::warn!(
                %node, %site, kind = kind.short(), bytes,
                "a response that cannot be split is larger than 3 MiB; gRPC clients take 4 MiB: ask for fewer names, or by delta"
            );
        }
    }

    /// A proxy that was compared with a view of unknown age is compared anew when the replica is fresh again; that is
    /// proven first, since one that was just cut off thinks that it is.
    fn renew(&mut self) {
        if !self.session.stale() || !*self.fleet.fresh.borrow() {
            self.ends = None;
        } else if self.ends.is_none() && self.confirming.is_none() {
            let views = Arc::clone(&self.who.inner.shared.views);
            self.confirming = Some(Box::pin(async move {
                tokio::time::sleep(AGAIN).await;
                confirmed(&views).await
            }));
        }
    }
}
