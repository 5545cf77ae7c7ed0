//! The task of one ADS stream: who is it, then request, publish and deadline in, frames out while there is room.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;

use super::{
    intake::Arrival,
    machine::Machine,
    requests::Requests,
    service::{Admitted, Fleet, Inner, Method},
    session::{Client, Moment, Session, Violation},
    sotw,
    wire::{Ask, Features, Variant},
};
use crate::{
    feedback::{self, Connected, ProxyId},
    identity::{self, NodeClaim, Peer},
    model::{Audience, Role, Sites},
    snapshot::{Reader, Seq},
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
/// Their bytes: two of the largest, since a reconnect names everything that the proxy has.
const KEPT_BYTES: usize = 32 << 20;
/// Whether the replica has read everything is known within this, or counts as not known.
const CONFIRM: Duration = Duration::from_secs(60);
/// Between two such questions of one stream.
const AGAIN: Duration = Duration::from_secs(1);
/// Streams of a replica that was stale begin anew within this, once it is fresh: not all at once.
const RENEWED: Duration = Duration::from_secs(10);

/// Runs the stream to its end; `Ok` when the proxy ended it.
pub(super) async fn run(
    inner: Arc<Inner>,
    (peer, arrival): (Peer, Arrival),
    service: &'static Method,
    mut requests: Requests,
    frames: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
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
    arrival.known(&id.site);
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
            match who.wait(&mut fleet.sites, &mut requests, &mut kept, &proxy).await? {
                Some(audience) => audience,
                None => return Ok(()),
            }
        }
    };
    tracing::debug!(node = %id.node, site = %id.site, "a stream begins");
    // Only now: nobody may push out the streams of a proxy that it merely claims to be.
    let admitted = who.inner.admit(&id, !one_of_many);
    let reader = who.inner.shared.views.open(&audience);
    let drain = match audience.role {
        // It has no listener whose connections could drain.
        Role::Grpc => Duration::ZERO,
        Role::Edge | Role::Core => drain.unwrap_or_else(|| fleet.sites.borrow().drain_time),
    };
    let (expires, unwraps) = (features.expires, features.wrapped);
    let client = Client { role: audience.role, proven: audience.proven, drain, expires, unwraps };
    let doubt = who.inner.doubts.of(&id);
    let session = match service.variant {
        Variant::Delta => {
            let session = Session::new(who.inner.fanouts(&audience), client, now());
            Machine::Delta(Box::new(session.doubting(doubt)))
        }
        Variant::World => Machine::World(Box::new(sotw::Session::new(client, now()).doubting(doubt))),
    };
    let published = reader.view().subscribe();
    let stream = Stream {
        who,
        only: service.only,
        audience,
        fleet,
        reader,
        published,
        session,
        proxy,
        admitted,
        frames,
        features,
        active: true,
        complete: false,
        alarmed: false,
        confirming: None,
        ends: None,
        told: None,
    };
    stream.run(requests, kept).await
}

/// Words of somebody else as far as they are kept: a claim that is longer is refused, but named.
fn cut(words: &str, max: usize) -> &str {
    let end = words.char_indices().map(|(at, _)| at).find(|at| *at >= max).unwrap_or(words.len());
    words.get(..end).unwrap_or_default()
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
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
        kept: &mut Vec<Ask>,
        proxy: &Connected,
    ) -> Result<Option<Audience>, Status> {
        let mut bytes: usize = kept.iter().map(Ask::size).sum();
        loop {
            tokio::select! {
                () = self.inner.shared.cancel.cancelled() => return Err(Status::unavailable("shutting down")),
                request = requests.message() => match request? {
                    None => return Ok(None),
                    Some(request) if kept.len() < KEPT && bytes + request.size() <= KEPT_BYTES => {
                        bytes += request.size();
                        kept.push(request);
                    }
                    Some(_) => return Err(Status::unavailable("not served; try again later")),
                },
                changed = sites.changed() => {
                    changed.map_err(|_| Status::unavailable("shutting down"))?;
                    let resolved = self.resolve(sites);
                    proxy.set_audience(resolved.clone());
                    if let Ok(audience) = resolved {
                        return Ok(Some(audience));
                    }
                }
            }
        }
    }
}

struct Stream {
    who: Who,
    /// The type of a stream that has only one.
    only: Option<ResourceType>,
    audience: Audience,
    fleet: Fleet,
    reader: Reader,
    published: watch::Receiver<Seq>,
    session: Machine,
    proxy: Connected,
    admitted: Admitted,
    frames: mpsc::Sender<Bytes>,
    /// What the client can do.
    features: Features,
    /// False while its site is unknown or being deleted.
    active: bool,
    /// The proxy has acknowledged everything once.
    complete: bool,
    /// It was said that a set of it is large.
    alarmed: bool,
    /// The question whether the replica has read everything.
    confirming: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    /// When it ends so that the proxy is compared anew.
    ends: Option<Instant>,
    /// When a refusal was last told of in the log.
    told: Option<Instant>,
}

async fn answer(question: &mut Option<Pin<Box<dyn Future<Output = bool> + Send>>>) -> bool {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}

impl Stream {
    async fn run(mut self, mut requests: Requests, kept: Vec<Ask>) -> Result<(), Status> {
        for request in kept {
            self.request(request)?;
        }
        let cancel = self.who.inner.shared.cancel.clone();
        let (replaced, room) = (self.admitted.token.clone(), self.frames.clone());
        loop {
            let full = self.fill();
            self.renew();
            let deadline = self.session.next_deadline().filter(|_| self.active && !full);
            let at = deadline.map_or_else(Instant::now, Instant::from_std);
            let (ends, awaits) = (self.ends, self.active && !full && self.session.awaits_watermarks());
            let confirming = &mut self.confirming;
            tokio::select! {
                () = cancel.cancelled() => return Err(Status::unavailable("shutting down")),
                () = replaced.cancelled() => {
                    return Err(Status::unavailable("a newer stream of this node took over"));
                }
                request = requests.message() => match request? {
                    None => return Ok(()),
                    Some(request) => self.request(request)?,
                },
                permit = room.reserve(), if full => {
                    if permit.is_err() {
                        return Ok(());
                    }
                }
                changed = self.published.changed(), if self.active => {
                    changed.map_err(|_| Status::unavailable("shutting down"))?;
                }
                changed = self.fleet.sites.changed() => {
                    changed.map_err(|_| Status::unavailable("shutting down"))?;
                    self.identify()?;
                }
                confirmed = answer(confirming), if confirming.is_some() => {
                    self.confirming = None;
                    if !self.session.stale() {
                        self.session.trust(confirmed);
                    } else if confirmed {
                        self.ends = Some(Instant::now() + RENEWED.mul_f64(fastrand::f64()));
                    }
                }
                changed = self.fleet.watermarks.changed(), if awaits => {
                    changed.map_err(|_| Status::unavailable("shutting down"))?;
                }
                changed = self.fleet.fresh.changed() => {
                    changed.map_err(|_| Status::unavailable("shutting down"))?;
                }
                () = sleep_until(ends.unwrap_or(at)), if ends.is_some() => {
                    return Err(Status::unavailable("fresh again; please reconnect"));
                }
                () = sleep_until(at), if deadline.is_some() => {}
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
        let content = self.reader.view().read();
        self.session.on_request(request, &content, now()).map_err(closed)
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

    /// Sends while there is room and something to send; says whether it stopped for want of room.
    fn fill(&mut self) -> bool {
        let (mut full, mut complete) = (false, false);
        if self.active {
            let mut out = Vec::new();
            let (sites, fresh) = (Arc::clone(&self.fleet.sites.borrow()), *self.fleet.fresh.borrow());
            let watermarks = Arc::clone(&self.fleet.watermarks.borrow_and_update());
            {
                let content = self.reader.view().read();
                let moment = || Moment { now: now(), fresh, sites: &sites, watermarks: &watermarks };
                loop {
                    let Ok(room) = self.frames.try_reserve() else {
                        full = true;
                        break;
                    };
                    let Some(send) = self.session.poll(&content, &moment()) else { break };
                    out.push((room, send));
                }
                self.reader.pass(self.session.passed(&content));
                complete = !self.complete && !full && self.session.complete(&content, self.only);
            }
            // Encoded outside the lock, by whoever is first.
            for (room, send) in out {
                room.send(send.bytes(&self.who.inner.shared.identifier, self.features));
            }
        }
        for (kind, state) in self.session.reports() {
            self.alarm(kind, state.set);
            self.proxy.set(kind, state);
        }
        if complete {
            self.complete = true;
            self.proxy.set_complete();
        }
        if self.session.unsure() && self.confirming.is_none() {
            self.confirm(Duration::ZERO);
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
            self.confirm(AGAIN);
        }
    }

    /// Asks whether the replica has read everything.
    fn confirm(&mut self, after: Duration) {
        let views = Arc::clone(&self.who.inner.shared.views);
        self.confirming = Some(Box::pin(async move {
            tokio::time::sleep(after).await;
            timeout(CONFIRM, views.confirm()).await.unwrap_or(false)
        }));
    }
}
