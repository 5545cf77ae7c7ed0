//! The two forms of xDS behind one face: what a stream's loop needs of a session, whichever the client speaks.

use std::time::Instant;

use bytes::Bytes;

use super::{
    session::{self, Moment, Violation},
    sotw,
    wire::{Ask, Features, world_response},
};
use crate::{
    feedback::TypeState,
    snapshot::{Content, Seat, Seq},
    xds::ResourceType,
};

/// One stream's session.
#[derive(Debug)]
pub(super) enum Machine {
    /// Incremental.
    Delta(Box<session::Session>),
    /// State of the world.
    World(Box<sotw::Session>),
}

/// What a session wants sent, not yet encoded.
pub(super) enum Out {
    /// A frame that streams share.
    Frame(session::Send),
    /// A response of this stream alone.
    Own(sotw::Response),
}

impl Out {
    /// The message behind its gRPC prefix, for a client that can do `features`.
    pub(super) fn bytes(&self, identifier: &str, features: Features) -> Bytes {
        match self {
            Self::Frame(send) => send.frame.bytes().clone(),
            Self::Own(response) => world_response(response, identifier, features),
        }
    }
}

impl Machine {
    /// Takes one request.
    ///
    /// # Errors
    /// [`Violation`]: the stream has to be closed.
    pub(super) fn on_request(&mut self, ask: Ask, content: &Content, now: Instant) -> Result<(), Violation> {
        match (self, ask) {
            (Self::Delta(session), Ask::Delta(request)) => session.on_request(request.into(), content, now),
            (Self::World(session), Ask::World(request)) => session.on_request(&request.into(), content, now),
            // One decoder reads all requests of a stream.
            _ => Ok(()),
        }
    }

    /// The next response, if there is one.
    pub(super) fn poll(&mut self, content: &Content, moment: &Moment<'_>) -> Option<Out> {
        match self {
            Self::Delta(session) => session.poll(content, moment).map(Out::Frame),
            Self::World(session) => session.poll(content, moment).map(Out::Own),
        }
    }

    /// When to poll again at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::Delta(session) => session.next_deadline(),
            Self::World(session) => session.next_deadline(),
        }
    }

    /// How many names it asks for.
    pub(super) fn names(&self) -> usize {
        match self {
            Self::Delta(session) => session.names(),
            Self::World(session) => session.names(),
        }
    }

    /// It has to be told whether the view is as new as all that was written before the stream began.
    pub(super) fn unsure(&self) -> bool {
        match self {
            Self::Delta(session) => session.unsure(),
            Self::World(session) => session.unsure(),
        }
    }

    /// The view is as new as all that was written before now, or that cannot be known.
    pub(super) fn trust(&mut self, confirmed: bool) {
        match self {
            Self::Delta(session) => session.trust(confirmed),
            Self::World(session) => session.trust(confirmed),
        }
    }

    /// The client must be compared anew, on another stream, once the replica is fresh.
    pub(super) fn stale(&self) -> bool {
        match self {
            Self::Delta(session) => session.stale(),
            Self::World(session) => session.stale(),
        }
    }

    /// A change of a watermark is a reason to poll.
    pub(super) fn awaits_watermarks(&self) -> bool {
        match self {
            Self::Delta(session) => session.awaits_watermarks(),
            Self::World(session) => session.awaits_watermarks(),
        }
    }

    /// Whether the client has taken all that the view had for it when it began to ask; of `only` one type, perhaps.
    pub(super) fn complete(&mut self, content: &Content, only: Option<ResourceType>) -> bool {
        match self {
            Self::Delta(session) => session.complete(content, only),
            Self::World(session) => session.complete(content, only),
        }
    }

    /// Every tombstone up to here has been taken over.
    pub(super) fn passed(&self, content: &Content) -> Seq {
        match self {
            Self::Delta(session) => session.passed(content),
            Self::World(session) => session.passed(content),
        }
    }

    /// Takes its seat among those that are woken by what concerns it; it has been polled with this very content.
    pub(super) fn sit(&self, seat: &mut Seat, content: &Content) {
        match self {
            Self::Delta(session) => seat.follow(session.follows(), content),
            Self::World(session) => seat.follow(session.follows(), content),
        }
    }

    /// What feedback has to know of each type, where it changed since the last call.
    pub(super) fn reports(&mut self) -> Vec<(ResourceType, TypeState)> {
        match self {
            Self::Delta(session) => session.reports(),
            Self::World(session) => session.reports(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Context, Waker},
        time::Duration,
    };

    use super::*;
    use crate::{
        model::{Audience, Revision, Role, Sites, Watermarks},
        serve::fanout::Fanouts,
        snapshot::{Publish, Views},
        xds::Resource,
    };

    #[test]
    fn a_stream_of_either_form_says_what_its_session_says_and_is_woken_by_what_concerns_it_alone() {
        let kind = ResourceType::Endpoints;
        let views = Views::default();
        let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, cohort: "".into(), delta: true };
        let reader = views.open(&audience);
        let publish = |name: &str| {
            let resource = Resource::new(kind, name, views.next_seq().to_string().into());
            let changes = Publish { upserts: vec![Arc::new(resource)], removals: vec![] };
            reader.view().publish(views.next_seq(), Revision(1), changes);
        };
        publish("a");
        let now = Instant::now();
        let client =
            session::Client { role: Role::Edge, proven: true, drain: Duration::ZERO, expires: false, unwraps: false };
        let url = || kind.url().to_owned();
        let mut delta = session::Session::new(Arc::new(Fanouts::new("test".into())), client, now);
        let request =
            session::Request { url: url(), subscribe: vec!["a".into(), "c".into()], ..session::Request::default() };
        delta.on_request(request, &reader.view().read(), now).unwrap();
        let mut world = sotw::Session::new(client, now);
        let request = sotw::Request { url: url(), names: vec!["a".into(), "c".into()], ..sotw::Request::default() };
        world.on_request(&request, &reader.view().read(), now).unwrap();
        for mut machine in [Machine::Delta(Box::new(delta)), Machine::World(Box::new(world))] {
            let mut seat = reader.seat();
            let (sites, watermarks) = (Sites::default(), Watermarks::default());
            let moment = |now| Moment { now, fresh: true, sites: &sites, watermarks: &watermarks };
            assert_eq!(machine.names(), 2);
            let content = reader.view().read();
            assert!(machine.poll(&content, &moment(now)).is_some());
            assert!(machine.poll(&content, &moment(now)).is_none());
            let stood = now + session::STOOD;
            if matches!(machine, Machine::World(_)) {
                assert_eq!(machine.next_deadline(), Some(stood), "its names have to stand for a while");
            }
            assert!(machine.poll(&content, &moment(stood)).is_none());
            assert_eq!((machine.next_deadline(), machine.passed(&content)), (None, content.seq()));
            assert!(!machine.unsure() && !machine.awaits_watermarks() && !machine.stale());
            machine.sit(&mut seat, &content);
            drop(content);
            let woken = || seat.poll_woken(&Context::from_waker(Waker::noop())).is_ready();
            woken();
            publish("b");
            assert!(!woken(), "it does not ask for that");
            publish("a");
            assert!(woken());
            machine.trust(false);
            assert!(machine.stale());
        }
    }
}
