//! HTTP/2 with one gRPC stream per connection, both ends: frames in, messages in, messages out within the windows.
//!
//! By hand, so that ten thousand clients cost one thread a few microseconds per message, and so that a client can stop
//! granting window.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    rc::Rc,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The window that every stream and connection begins with.
pub const WINDOW: u32 = 65_535;
const FRAME: usize = 16_384;

/// Appends a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    head(kind, flags, stream, payload.len(), out);
    out.extend_from_slice(payload);
}

fn head(kind: u8, flags: u8, stream: u32, len: usize, out: &mut Vec<u8>) {
    let [_, a, b, c] = u32::try_from(len).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Appends what gives the peer `more` window on the stream and the connection.
pub fn grant(stream: u32, more: u32, out: &mut Vec<u8>) {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes(), out);
}

/// Appends SETTINGS: no server push, the stream window; and the connection's window beside it.
pub fn settings(window: u32, out: &mut Vec<u8>) {
    let mut payload = vec![0, 2, 0, 0, 0, 0, 0, 4];
    payload.extend_from_slice(&window.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload, out);
    if window > WINDOW {
        grant(0, window - WINDOW, out);
    }
}

fn literal(value: &[u8], out: &mut Vec<u8>) {
    out.push(u8::try_from(value.len()).unwrap_or(0));
    out.extend_from_slice(value);
}

/// Appends the HEADERS of a gRPC call, as HPACK literals that no table remembers.
pub fn call(path: &str, out: &mut Vec<u8>) {
    let mut block = vec![0x83, 0x86, 0x04];
    literal(path.as_bytes(), &mut block);
    block.push(0x01);
    literal(b"xds", &mut block);
    content_type(&mut block);
    block.push(0);
    literal(b"te", &mut block);
    literal(b"trailers", &mut block);
    frame(HEADERS, END_HEADERS, 1, &block, out);
}

/// Appends the HEADERS that answer a gRPC call.
pub fn answer(out: &mut Vec<u8>) {
    let mut block = vec![0x88];
    content_type(&mut block);
    frame(HEADERS, END_HEADERS, 1, &block, out);
}

fn content_type(block: &mut Vec<u8>) {
    block.extend_from_slice(&[0x0f, 0x10]);
    literal(b"application/grpc", block);
}

/// A gRPC message: five bytes and the message.
pub fn message(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 5);
    out.push(0);
    out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// What comes in.
pub enum Event<'a> {
    /// A piece of a message.
    Part(&'a [u8]),
    /// The message is complete.
    End,
    /// A frame other than DATA: kind, flags, stream, payload.
    Frame(u8, u8, u32, &'a [u8]),
}

/// Cuts bytes into frames, and the bytes of DATA frames into gRPC messages.
#[derive(Default)]
pub struct Reader {
    preface: usize,
    head: [u8; 9],
    have: usize,
    left: usize,
    control: Vec<u8>,
    message_head: [u8; 5],
    message_have: usize,
    message_left: usize,
    /// Bytes of DATA frames since the last [`Reader::taken`]: what the windows are owed.
    data: u32,
}

impl Reader {
    /// At a server's end: the client's preface comes before the first frame.
    pub fn after_preface() -> Self {
        Self { preface: PREFACE.len(), ..Self::default() }
    }

    /// Bytes of DATA since the last call.
    pub fn taken(&mut self, at_least: u32) -> Option<u32> {
        (self.data >= at_least).then(|| std::mem::take(&mut self.data))
    }

    /// The next bytes; what they complete goes to `on`.
    pub fn feed(&mut self, data: &[u8], on: &mut impl FnMut(Event<'_>)) {
        let (preface, mut data) = data.split_at(self.preface.min(data.len()));
        self.preface -= preface.len();
        while !data.is_empty() {
            if self.have < 9 {
                let take = (9 - self.have).min(data.len());
                self.head[self.have..self.have + take].copy_from_slice(&data[..take]);
                self.have += take;
                data = &data[take..];
                if self.have < 9 {
                    return;
                }
                let [a, b, c, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.left > 0 {
                    continue;
                }
            }
            let (now, rest) = data.split_at(self.left.min(data.len()));
            self.left -= now.len();
            data = rest;
            self.payload(now, on);
            if self.left == 0 {
                self.have = 0;
            }
        }
    }

    fn payload(&mut self, now: &[u8], on: &mut impl FnMut(Event<'_>)) {
        let [_, _, _, kind, flags, stream @ ..] = self.head;
        if kind == DATA {
            self.data += now.len() as u32;
            self.messages(now, on);
            if self.left == 0 && flags & END_STREAM != 0 {
                on(Event::Frame(DATA, flags, u32::from_be_bytes(stream), &[]));
            }
            return;
        }
        if self.left == 0 && self.control.is_empty() {
            on(Event::Frame(kind, flags, u32::from_be_bytes(stream), now));
            return;
        }
        self.control.extend_from_slice(now);
        if self.left == 0 {
            on(Event::Frame(kind, flags, u32::from_be_bytes(stream), &std::mem::take(&mut self.control)));
        }
    }

    fn messages(&mut self, mut data: &[u8], on: &mut impl FnMut(Event<'_>)) {
        while !data.is_empty() {
            if self.message_have < 5 {
                let take = (5 - self.message_have).min(data.len());
                self.message_head[self.message_have..self.message_have + take].copy_from_slice(&data[..take]);
                self.message_have += take;
                data = &data[take..];
                if self.message_have < 5 {
                    return;
                }
                let [_, length @ ..] = self.message_head;
                self.message_left = u32::from_be_bytes(length) as usize;
            }
            let (now, rest) = data.split_at(self.message_left.min(data.len()));
            self.message_left -= now.len();
            data = rest;
            if !now.is_empty() {
                on(Event::Part(now));
            }
            if self.message_left == 0 {
                self.message_have = 0;
                on(Event::End);
            }
        }
    }
}

/// Bytes that many connections may share, sent up to `at`.
struct Chunk {
    bytes: Rc<[u8]>,
    at: usize,
}

/// What goes out: raw frames at once, messages as DATA within the windows of the peer.
pub struct Outbox {
    stream: i64,
    connection: i64,
    initial: i64,
    messages: VecDeque<Chunk>,
    /// Framed, and not taken by the socket yet.
    ready: Vec<u8>,
    at: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        let window = i64::from(WINDOW);
        Self {
            stream: window,
            connection: window,
            initial: window,
            messages: VecDeque::new(),
            ready: Vec::new(),
            at: 0,
        }
    }
}

impl Outbox {
    /// A frame, or several.
    pub fn raw(&mut self, frames: &[u8]) {
        self.ready.extend_from_slice(frames);
    }

    /// A gRPC message, prefix included.
    pub fn send(&mut self, message: Rc<[u8]>) {
        self.messages.push_back(Chunk { bytes: message, at: 0 });
    }

    /// Nothing waits, not even for window.
    pub fn idle(&self) -> bool {
        self.messages.is_empty() && self.blocked_bytes() == 0
    }

    fn blocked_bytes(&self) -> usize {
        self.ready.len() - self.at
    }

    /// Takes the peer's SETTINGS, WINDOW_UPDATE or PING, and answers where it has to be answered.
    pub fn on_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if let [0, 4, value @ ..] = setting {
                        let value = value.try_into().map_or(0, u32::from_be_bytes);
                        self.stream += i64::from(value) - self.initial;
                        self.initial = i64::from(value);
                    }
                }
                frame(SETTINGS, ACK, 0, &[], &mut self.ready);
            }
            PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, &mut self.ready),
            WINDOW_UPDATE => {
                let more = payload.try_into().map_or(0, u32::from_be_bytes) & 0x7fff_ffff;
                let window = if stream == 0 { &mut self.connection } else { &mut self.stream };
                *window += i64::from(more);
            }
            _ => {}
        }
    }

    /// Writes what the windows and the socket take; true: the socket is full.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        loop {
            self.frame_messages();
            if self.blocked_bytes() == 0 {
                return Ok(false);
            }
            match socket.write(&self.ready[self.at..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.at += written;
                    if self.at == self.ready.len() {
                        self.at = 0;
                        self.ready.clear();
                        if self.messages.is_empty() {
                            self.ready.shrink_to(2_048);
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Frames at most 64 KiB ahead of the socket.
    fn frame_messages(&mut self) {
        while self.blocked_bytes() < 4 * FRAME {
            let Some(chunk) = self.messages.front_mut() else { return };
            let window = usize::try_from(self.stream.min(self.connection)).unwrap_or(0);
            let now = (chunk.bytes.len() - chunk.at).min(window).min(FRAME);
            if now == 0 {
                return;
            }
            self.stream -= now as i64;
            self.connection -= now as i64;
            frame(DATA, 0, 1, &chunk.bytes[chunk.at..chunk.at + now], &mut self.ready);
            chunk.at += now;
            if chunk.at == chunk.bytes.len() {
                self.messages.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(wire: &[u8], piece: usize) -> (Vec<usize>, Vec<u8>) {
        let (mut reader, mut sizes, mut kinds, mut size) = (Reader::default(), Vec::new(), Vec::new(), 0);
        for data in wire.chunks(piece) {
            reader.feed(data, &mut |event| match event {
                Event::Part(part) => size += part.len(),
                Event::End => sizes.push(std::mem::take(&mut size)),
                Event::Frame(kind, ..) => kinds.push(kind),
            });
        }
        (sizes, kinds)
    }

    #[test]
    fn what_an_outbox_writes_a_reader_reads() {
        let mut outbox = Outbox::default();
        outbox.on_frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
        outbox.on_frame(WINDOW_UPDATE, 0, 0, &1_000u32.to_be_bytes());
        outbox.on_frame(PING, 0, 0, &[1; 8]);
        outbox.send(message(&[1; 40_000]).into());
        outbox.send(message(b"").into());
        outbox.send(message(b"abc").into());
        let mut wire = Vec::new();
        assert!(!outbox.flush(&mut wire).unwrap());
        assert!(outbox.idle());
        for piece in [1, 7, 1_000, wire.len()] {
            assert_eq!(messages(&wire, piece), (vec![40_000, 0, 3], vec![SETTINGS, PING]));
        }
    }

    #[test]
    fn nothing_is_sent_beyond_the_windows() {
        let mut outbox = Outbox::default();
        outbox.send(message(&[1; 100_000]).into());
        let mut wire = Vec::new();
        outbox.flush(&mut wire).unwrap();
        assert_eq!(wire.len(), WINDOW as usize + 4 * 9);
        outbox.on_frame(WINDOW_UPDATE, 0, 1, &100_000u32.to_be_bytes());
        outbox.flush(&mut wire).unwrap();
        assert_eq!(wire.len(), WINDOW as usize + 4 * 9, "the connection's window counts too");
        outbox.on_frame(WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes());
        outbox.flush(&mut wire).unwrap();
        assert!(outbox.idle());
        assert_eq!(messages(&wire, 999).0, [100_000]);
    }
}
