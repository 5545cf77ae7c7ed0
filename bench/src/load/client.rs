//! One client: a socket, one ADS stream, and what it has been sent.

use std::{
    io::{self, ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    rc::Rc,
    sync::Arc,
};

use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};

use super::{
    asks::{Asks, ack},
    line::Line,
    scout::Scout,
    variant::Variant,
};
use crate::{
    clock,
    h2::{self, Event, Outbox, Reader},
    proto::{Cutter, Field, Value, fields},
    stamp,
};

/// A response, as far as it is of interest.
#[derive(Default)]
struct Response {
    cluster: bool,
    /// In state of the world.
    version: Vec<u8>,
    nonce: Vec<u8>,
    resources: u32,
    stamp: Option<u64>,
}

/// What a client did with what came.
#[derive(Default)]
pub struct Progress {
    pub responses: u64,
    pub resources: u64,
    pub bytes: u64,
    /// The newest stamp among what came, as a whole time.
    pub stamp: Option<u64>,
    /// ACKs that have to wait their time.
    pub delayed: Vec<Rc<[u8]>>,
}

/// One client.
pub struct Client {
    pub line: Line,
    pub id: usize,
    /// When it began to connect.
    pub began: u64,
    /// It has not yet said all of its first words.
    pub new: bool,
    pub connected: bool,
    /// The server has said something: it has taken the connection.
    pub greeted: bool,
    /// Waits for its socket to take more.
    pub writing: bool,
    /// Grants no window and acknowledges nothing, but answers PINGs.
    pub stalled: bool,
    /// Resources that came: clusters, assignments.
    pub counts: [u32; 2],
    /// The newest stamp that it has.
    pub stamp: u64,
    /// Its latest round.
    pub round: u64,
    reader: Reader,
    cutter: Cutter,
    outbox: Outbox,
    response: Response,
    /// An Envoy acknowledges clusters when they are warm: when their assignments have come.
    held: Option<Rc<[u8]>>,
    asked: bool,
    window: u32,
    pub scout: Option<Box<Scout>>,
}

/// What every client of a pool does alike.
pub struct Habits<'a> {
    pub asks: &'a Asks,
    pub variant: Variant,
    /// Assignments are asked for once clusters are known.
    pub eds: bool,
    pub delayed: bool,
}

impl Client {
    /// Begins to connect.
    ///
    /// # Errors
    /// Of the sockets.
    pub fn open(server: SocketAddr, tls: Option<&Arc<ClientConfig>>, id: usize, window: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        if server.ip().is_loopback() && server.is_ipv4() {
            socket.bind(&SocketAddr::V4(SocketAddrV4::new(address_of(id), 0)).into())?;
        }
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        Ok(Self {
            line: Line::new(socket.into(), server.ip(), tls)?,
            id,
            began: clock::now(),
            new: true,
            connected: false,
            greeted: false,
            writing: true,
            stalled: false,
            counts: [0, 0],
            stamp: 0,
            round: 0,
            reader: Reader::default(),
            cutter: Cutter::default(),
            outbox: Outbox::default(),
            response: Response::default(),
            held: None,
            asked: false,
            window,
            scout: None,
        })
    }

    /// The socket takes bytes: says hello if that was the connection, and writes what waits.
    ///
    /// # Errors
    /// A connection that was refused or is broken.
    pub fn writable(&mut self, habits: &Habits<'_>, warm: bool) -> io::Result<()> {
        if !self.connected {
            if let Some(error) = self.line.socket.take_error()? {
                return Err(error);
            }
            self.connected = true;
            let mut hello = h2::PREFACE.to_vec();
            h2::settings(self.window, &mut hello);
            h2::call(habits.variant.path(), &mut hello);
            self.outbox.raw(&hello);
            habits.asks.first(self.id).into_iter().for_each(|part| self.outbox.send(part));
            if habits.eds && warm {
                self.ask(habits.asks);
            }
        }
        self.flush()
    }

    /// It has said all of its first words, so that what comes next is up to the server.
    pub fn settled(&self) -> bool {
        self.connected && self.line.ready() && !self.writing && self.outbox.idle()
    }

    fn ask(&mut self, asks: &Asks) {
        if !std::mem::replace(&mut self.asked, true)
            && let Some(names) = asks.names()
        {
            self.outbox.send(names);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writing = self.line.push()?;
        if self.line.ready() {
            self.writing = self.outbox.flush(&mut self.line)? | self.line.push()?;
        }
        Ok(())
    }

    /// Says an ACK that had to wait.
    ///
    /// # Errors
    /// A broken connection.
    pub fn acknowledge(&mut self, ack: Rc<[u8]>) -> io::Result<()> {
        if !self.stalled {
            self.outbox.send(ack);
        }
        self.flush()
    }

    /// Reads what has come, and answers.
    ///
    /// # Errors
    /// A stream or connection that ended, in words.
    pub fn readable(&mut self, scratch: &mut [u8], habits: &Habits<'_>, now: u64) -> io::Result<Progress> {
        let mut progress = Progress::default();
        let read = match self.line.read(scratch) {
            // A handshake that is under way answers before it says anything.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.flush()?;
                return Ok(progress);
            }
            Ok(0) => return Err(io::Error::other("the server closed the connection")),
            Ok(read) => read,
            Err(error) => return Err(error),
        };
        progress.bytes = read as u64;
        self.greeted = true;
        self.take(&scratch[..read], habits, now, &mut progress)?;
        if !self.stalled
            && let Some(taken) = self.reader.taken(self.window / 2)
        {
            let mut grants = Vec::new();
            h2::grant(0, taken, &mut grants);
            h2::grant(1, taken, &mut grants);
            self.outbox.raw(&grants);
        }
        self.flush()?;
        Ok(progress)
    }

    fn take(&mut self, data: &[u8], habits: &Habits<'_>, now: u64, progress: &mut Progress) -> io::Result<()> {
        let mut fault = None;
        // Taken out: the reader lends its events while the rest of the client works on them.
        let mut reader = std::mem::take(&mut self.reader);
        reader.feed(data, &mut |event| match event {
            Event::Part(part) => {
                let (response, scout) = (&mut self.response, &mut self.scout);
                self.cutter.feed(part, &mut |field| response.field(field, habits.variant, scout.as_deref_mut()));
            }
            Event::End => self.answer(habits, now, progress),
            Event::Frame(kind, flags, stream, payload) => {
                self.outbox.on_frame(kind, flags, stream, payload);
                let ended = matches!(kind, h2::HEADERS | h2::DATA) && flags & h2::END_STREAM != 0;
                if ended || matches!(kind, h2::RST_STREAM | h2::GOAWAY) {
                    fault = Some(format!("the server ended the stream (frame {kind}: {payload:?})"));
                }
            }
        });
        self.reader = reader;
        fault.map_or(Ok(()), |fault| Err(io::Error::other(fault)))
    }

    /// A response is complete.
    fn answer(&mut self, habits: &Habits<'_>, now: u64, progress: &mut Progress) {
        let response = std::mem::take(&mut self.response);
        progress.responses += 1;
        progress.resources += u64::from(response.resources);
        self.counts[usize::from(!response.cluster)] += response.resources;
        if let Some(stamp) = response.stamp {
            let stamp = stamp::whole(stamp, now);
            self.stamp = self.stamp.max(stamp);
            progress.stamp = progress.stamp.max(Some(stamp));
        }
        if self.stalled {
            return;
        }
        let ack = ack(habits.variant, response.cluster, &response.version, &response.nonce);
        if habits.eds && response.cluster && !self.asked {
            if let Some(scout) = &self.scout {
                let mut request = Vec::new();
                crate::proto::put(2, stamp::ENDPOINTS.as_bytes(), &mut request);
                scout.held().clusters.iter().for_each(|c| crate::proto::put(3, c.name.as_bytes(), &mut request));
                self.asked = true;
                self.outbox.send(h2::message(&request).into());
            }
            self.ask(habits.asks);
            self.held = Some(ack);
            return;
        }
        if let Some(held) = self.held.take_if(|_| !response.cluster) {
            self.outbox.send(held);
        }
        if habits.delayed {
            progress.delayed.push(ack);
        } else {
            self.outbox.send(ack);
        }
    }
}

/// On loopback each client has an address of its own, as machines have: 28,232 ports of one address are soon gone, since
/// each that was used is taken for another minute, and what takes none of its own (a server that starts, `etcdctl`) finds
/// none either.
fn address_of(id: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + u32::try_from(id).unwrap_or(0))
}

impl Response {
    fn field(&mut self, field: Field<'_>, variant: Variant, scout: Option<&mut Scout>) {
        let Value::Bytes(bytes) = field.value else { return };
        match field.number {
            1 if variant == Variant::StateOfTheWorld => self.version = bytes.to_vec(),
            2 => {
                self.resources += 1;
                if let Some(scout) = scout {
                    scout.take(bytes);
                }
                // Of several the newest counts: older ones came too late to be seen alone.
                self.stamp = self.stamp.max(variant.any(bytes).and_then(stamp_of));
            }
            4 => self.cluster = bytes.ends_with(b".Cluster"),
            5 => self.nonce = bytes.to_vec(),
            _ => {}
        }
    }
}

fn stamp_of(any: &[u8]) -> Option<u64> {
    let mut url: &[u8] = &[];
    for Field { number, value } in fields(any) {
        match (number, value) {
            (1, Value::Bytes(bytes)) => url = bytes,
            (2, Value::Bytes(bytes)) => return stamp::read(url, bytes),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{
            config::cluster::v3::{CircuitBreakers, Cluster, circuit_breakers::Thresholds},
            service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource},
        },
        google::protobuf::Any,
    };
    use prost::Message;

    use super::*;

    const AT: u64 = 5_000_000_123_457;

    /// Three clusters, of which the second is stamped.
    fn clusters() -> Vec<Any> {
        let mut clusters = vec![Cluster::default(); 3];
        let thresholds = vec![Thresholds::default()];
        clusters[1].circuit_breakers = Some(CircuitBreakers { thresholds, ..Default::default() });
        stamp::stamp_cluster(&mut clusters[1], AT);
        let any = |cluster: &Cluster| Any { type_url: stamp::CLUSTER.to_owned(), value: cluster.encode_to_vec() };
        clusters.iter().map(any).collect()
    }

    fn read(variant: Variant, message: &[u8]) -> Response {
        let mut response = Response::default();
        fields(message).for_each(|field| response.field(field, variant, None));
        assert_eq!((response.resources, response.cluster, response.nonce.as_slice()), (3, true, b"n".as_slice()));
        assert!(response.stamp.is_some_and(|read| AT - stamp::whole(read, AT) < 1_024));
        response
    }

    #[test]
    fn the_changed_resource_is_found_among_the_whole_set() {
        let response = DiscoveryResponse {
            version_info: "7".into(),
            resources: clusters(),
            type_url: stamp::CLUSTER.into(),
            nonce: "n".into(),
            ..Default::default()
        };
        assert_eq!(read(Variant::StateOfTheWorld, &response.encode_to_vec()).version, b"7");
    }

    #[test]
    fn the_changed_resource_is_found_in_a_delta() {
        let resource = |any| Resource { resource: Some(any), ..Default::default() };
        let response = DeltaDiscoveryResponse {
            resources: clusters().into_iter().map(resource).collect(),
            type_url: stamp::CLUSTER.into(),
            nonce: "n".into(),
            ..Default::default()
        };
        read(Variant::Delta, &response.encode_to_vec());
    }
}
