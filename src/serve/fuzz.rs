//! What fuzzing calls: the decoder of requests, and both state machines under any sequence of events. A violated rule is
//! a panic. Built for tests and by `cargo fuzz` only; see `fuzz/README.md`.

mod driver;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;

use self::driver::{Driver, Script};
use super::{
    fanout::Fanouts,
    machine::Machine,
    session::{Client, Moment, Session},
    sotw,
    wire::{Ask, DeltaRequest, Features, WorldRequest},
};
use crate::{
    model::{Audience, Revision, Role, Sites, Watermarks},
    snapshot::{Publish, Views},
    xds::{Resource, ResourceType},
};

/// Responses that one request may lead to here: there are five resources, each with a part in two at most.
const SENDS_MAX: usize = 50;

/// `data` as a request of each form: it is refused, or read the same again when it is written, and a session that gets it
/// sends a bounded number of responses.
pub fn requests(data: &[u8]) {
    if let Ok(request) = DeltaRequest::decode(data) {
        let again = DeltaRequest::decode(request.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&request));
        hand_over(Ask::Delta(request), |role, now| {
            Machine::Delta(Box::new(Session::new(Arc::new(Fanouts::new("fuzz".into())), client(role), now)))
        });
    }
    if let Ok(request) = WorldRequest::decode(data) {
        let again = WorldRequest::decode(request.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&request));
        hand_over(Ask::World(request), |role, now| Machine::World(Box::new(sotw::Session::new(client(role), now))));
    }
}

const DRAIN: Duration = Duration::from_secs(600);

/// A client that can do everything.
fn client(role: Role) -> Client {
    Client { role, proven: true, drain: DRAIN, expires: true, unwraps: true }
}

fn hand_over(mut ask: Ask, machine: impl Fn(Role, Instant) -> Machine) {
    if let Some(node) = ask.take_node() {
        // What it claims is refused or short enough to be kept, never a panic.
        drop(node.claim());
        assert!(node.drain_time().is_none_or(|time| time <= Duration::from_secs(86_400)));
        node.can("xds.config.resource-in-sotw");
    }
    assert!(ask.take_node().is_none());
    let (size, url) = (ask.size(), ask.url().len());
    assert!(size >= url);
    ask.refusal();
    let views = Views::default();
    let audience = Audience { site: "fra".into(), role: Role::Edge, proven: true, delta: true, cohort: "".into() };
    let reader = views.open(&audience);
    let all = ResourceType::ALL.map(|kind| Arc::new(Resource::new(kind, "a", "1".into())));
    reader.view().publish(views.next_seq(), Revision(1), Publish { upserts: all.into(), removals: vec![] });
    let now = Instant::now();
    let mut machine = machine(Role::Edge, now);
    let content = reader.view().read();
    machine.trust(true);
    if machine.on_request(ask, &content, now).is_err() {
        return;
    }
    let (sites, watermarks) = (Sites::default(), Watermarks::new());
    let moment = Moment { now, fresh: true, sites: &sites, watermarks: &watermarks };
    let sends = std::iter::from_fn(|| machine.poll(&content, &moment)).take(SENDS_MAX);
    let sent = sends.map(|out| out.bytes("fuzz", Features::default())).filter(|bytes| !bytes.is_empty()).count();
    assert!(sent < SENDS_MAX, "a request that is answered without an end");
    machine.reports();
}

/// `data` as a script of publishes, requests, reads and time, for a stream of each form.
pub fn sessions(data: &[u8]) {
    let mut script = Script::new(data);
    let mut driver = Driver::new(&mut script);
    while !script.ended() {
        driver.step(&mut script);
    }
    driver.settle();
}
