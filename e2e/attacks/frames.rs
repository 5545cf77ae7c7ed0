//! Attacks on HTTP/2 itself, frame by frame: floods of what costs the sender nothing.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use super::{SLACK, Target, rest};
use crate::world::Machine;

pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
pub(super) const END_HEADERS: u8 = 4;

/// GOAWAY's reason for whoever asks too much.
const ENHANCE_YOUR_CALM: u32 = 11;
/// What one attacker may cost in memory, KiB.
const GROWTH_MAX: u64 = 8 << 10;
/// `POST /` on `a`, in HPACK: what a stream begins with.
const POST: &[u8] = b"\x83\x86\x84\x41\x01a";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A connection that has shaken hands.
fn open(target: &Target) -> TcpStream {
    let mut socket = target.connect();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    socket
}

/// Writes `next(n)` for n below `count`, in large pieces, until all is written or the other end takes no more.
fn flood(socket: &mut TcpStream, count: u32, next: impl Fn(u32) -> Vec<u8>) {
    let mut piece = Vec::new();
    for n in 0..count {
        piece.extend(next(n));
        if piece.len() > 64 << 10 {
            if socket.write_all(&piece).is_err() {
                return;
            }
            piece.clear();
        }
    }
    // Whether the rest arrives is told by what follows.
    let _ = socket.write_all(&piece);
}

/// The frames in what a server sent: type and payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        all.push((*kind, payload));
        bytes = rest;
    }
    all
}

/// The reason of the GOAWAY that the connection ended with.
fn goaway(socket: &mut TcpStream) -> u32 {
    let (sent, ended) = rest(socket, Instant::now() + SLACK);
    assert!(ended, "the connection is closed");
    let frames = frames(&sent);
    let last = frames.iter().rev().find(|(kind, _)| *kind == GOAWAY).expect("it says why");
    u32::from_be_bytes(last.1[4..8].try_into().unwrap())
}

/// Makes an attack on one connection and gives the connection back; its memory must stay within bounds.
fn attack(target: &mut Target, attack: impl FnOnce(&mut TcpStream)) -> TcpStream {
    // Whatever is loaded once is loaded.
    target.still_serves("before");
    let before = target.memory();
    let mut socket = open(target);
    attack(&mut socket);
    let grown = target.memory().saturating_sub(before);
    assert!(grown <= GROWTH_MAX, "{grown} KiB more");
    target.still_serves("after");
    socket
}

#[test]
fn a_flood_of_malformed_headers_costs_no_memory_and_ends_in_goaway() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    // No scheme and no path: 11 bytes that are answered by 13, never read.
    let mut socket = attack(&mut target, |socket| {
        flood(socket, 2_000_000, |n| frame(HEADERS, END_HEADERS, 2 * n + 1, b"\x83\x83"));
    });
    assert_eq!(goaway(&mut socket), ENHANCE_YOUR_CALM);
}

#[test]
fn rapid_reset_ends_in_goaway() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    let mut socket = attack(&mut target, |socket| {
        flood(socket, 1_000_000, |n| {
            let mut both = frame(HEADERS, END_HEADERS, 2 * n + 1, POST);
            both.extend(frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
            both
        });
    });
    assert_eq!(goaway(&mut socket), ENHANCE_YOUR_CALM);
}

#[test]
fn headers_without_an_end_are_cut_off() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    let mut socket = attack(&mut target, |socket| {
        socket.write_all(&frame(HEADERS, 0, 1, POST)).unwrap();
        // A header that never ends, in 16 MiB.
        flood(socket, 1_024, |_| frame(CONTINUATION, 0, 1, &[b'a'; 16 << 10]));
    });
    assert!(rest(&mut socket, Instant::now() + SLACK).1, "it is closed");
}

#[test]
fn headers_that_unpack_to_much_are_refused() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    let mut socket = attack(&mut target, |socket| {
        // A header of 3 KiB goes into the table; each byte after it is one copy.
        let mut bomb = POST.to_vec();
        bomb.extend(b"\x40\x01x\x7f\x81\x17");
        bomb.extend(vec![b'a'; 3_072]);
        bomb.extend(vec![0xbe; 12_000]);
        flood(socket, 90, |n| frame(HEADERS, END_HEADERS, 2 * n + 1, &bomb));
    });
    // Each is answered by an error at once, or the connection is closed; no handler has seen it.
    let (sent, _) = rest(&mut socket, Instant::now() + Duration::from_secs(1));
    let sent = frames(&sent);
    let served = sent.iter().any(|(kind, payload)| *kind == HEADERS && payload.contains(&0x88));
    assert!(sent.len() > 2 && !served, "errors, and no 200: {sent:?}");
}

#[test]
fn floods_of_settings_and_pings_are_bounded() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    let _held = attack(&mut target, |socket| flood(socket, 1_000_000, |_| settings.clone()));
    let ping = frame(PING, 0, 0, b"01234567");
    let _held = attack(&mut target, |socket| flood(socket, 1_000_000, |_| ping.clone()));
}

#[test]
fn a_flood_of_empty_data_is_bounded() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    let _held = attack(&mut target, |socket| {
        socket.write_all(&frame(HEADERS, END_HEADERS, 1, &ads())).unwrap();
        flood(socket, 1_000_000, |_| frame(0, 0, 1, b""));
    });
}

/// The head of an ADS call in HPACK.
pub(super) fn ads() -> Vec<u8> {
    let path = b"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let mut head = b"\x83\x86\x41\x01a\x44".to_vec();
    head.push(u8::try_from(path.len()).unwrap());
    head.extend(path);
    head.extend(b"\x40\x0ccontent-type\x10application/grpc");
    head
}

#[test]
fn streams_beyond_a_hundred_are_refused() {
    let _machine = Machine::shared();
    let mut target = Target::start(&[]);
    let mut socket =
        attack(&mut target, |socket| flood(socket, 150, |n| frame(HEADERS, END_HEADERS, 2 * n + 1, &ads())));
    let (sent, _) = rest(&mut socket, Instant::now() + Duration::from_secs(1));
    let refused =
        frames(&sent).into_iter().filter(|(kind, reason)| *kind == RST_STREAM && *reason == 7_u32.to_be_bytes());
    assert!(refused.count() >= 50, "REFUSED_STREAM");
}
