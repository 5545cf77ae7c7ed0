//! The floor: one thread that writes ready bytes to each socket and reads what comes back. No store, no subscription
//! logic beyond "who asked for it", no pacing: no server can do with less than these system calls.

use std::{
    collections::{BTreeSet, HashMap},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    rc::Rc,
};

use anyhow::Result;
use prost::Message;
use rustix::event::epoll;
use socket2::{Domain, Socket, Type};

use super::{Change, Data};
use crate::{
    h2::{self, Event, Outbox, Reader},
    proto::{Cutter, Value, put},
    stamp,
};

const INPUT: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const WINDOW: u32 = 16 << 20;

/// Names that a client asks for; none: all of them.
type Names = Option<Rc<BTreeSet<String>>>;

#[derive(Default)]
struct Request {
    cluster: bool,
    answer: bool,
    names: BTreeSet<String>,
}

struct Connection {
    socket: TcpStream,
    reader: Reader,
    cutter: Cutter,
    outbox: Outbox,
    writing: bool,
    request: Request,
    /// Clusters, assignments: what it asked for.
    asked: [Option<Names>; 2],
}

struct Floor {
    data: Data,
    epoll: std::os::fd::OwnedFd,
    connections: Vec<Option<Connection>>,
    /// First responses, by type and names.
    first: HashMap<(bool, Names), Rc<[u8]>>,
}

pub(super) fn serve(address: SocketAddr, data: Data) -> Result<()> {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&address.into())?;
    listener.listen(4_096)?;
    let stdin = std::io::stdin();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, stdin.as_fd(), epoll::EventData::new_u64(INPUT), epoll::EventFlags::IN)?;
    epoll::add(&epoll, listener.as_fd(), epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    println!("ready");
    let mut floor = Floor { data, epoll, connections: Vec::new(), first: HashMap::new() };
    let (mut events, mut scratch) = (Vec::with_capacity(1_024), vec![0; 256 << 10]);
    let mut line = String::new();
    loop {
        events.clear();
        epoll::wait(&floor.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let (data, flags) = (event.data, event.flags);
            match data.u64() {
                INPUT => {
                    let mut bytes = [0; 256];
                    let read = stdin.lock().read(&mut bytes)?;
                    if read == 0 {
                        return Ok(());
                    }
                    // A line may come in pieces; the next one is not sent before this one is answered.
                    line.push_str(std::str::from_utf8(&bytes[..read])?);
                    if line.ends_with('\n') {
                        floor.change(&std::mem::take(&mut line))?;
                        println!("done");
                        std::io::stdout().flush()?;
                    }
                }
                LISTENER => floor.accept(&listener)?,
                token => floor.event(token as usize, flags, &mut scratch)?,
            }
        }
    }
}

impl Floor {
    fn accept(&mut self, listener: &Socket) -> Result<()> {
        for _ in 0..64 {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            let mut connection = Connection {
                socket: socket.into(),
                // The client's preface is no frame: it is passed over before the first one.
                reader: Reader::after_preface(),
                cutter: Cutter::default(),
                outbox: Outbox::default(),
                writing: false,
                request: Request::default(),
                asked: [None, None],
            };
            let mut hello = Vec::new();
            h2::settings(WINDOW, &mut hello);
            connection.outbox.raw(&hello);
            let token = epoll::EventData::new_u64(self.connections.len() as u64);
            epoll::add(&self.epoll, connection.socket.as_fd(), token, epoll::EventFlags::IN)?;
            self.connections.push(Some(connection));
        }
        Ok(())
    }

    fn event(&mut self, id: usize, flags: epoll::EventFlags, scratch: &mut [u8]) -> Result<()> {
        let Some(Some(mut connection)) = self.connections.get_mut(id).map(Option::take) else { return Ok(()) };
        let was = connection.writing;
        let mut alive = true;
        if flags.contains(epoll::EventFlags::IN) {
            match connection.socket.read(scratch) {
                Ok(0) => alive = false,
                Ok(read) => self.read(&mut connection, &scratch[..read]),
                Err(error) => alive = error.kind() == ErrorKind::WouldBlock,
            }
        }
        alive &= connection.flush();
        if alive && connection.writing != was {
            let out = if connection.writing { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let token = epoll::EventData::new_u64(id as u64);
            epoll::modify(&self.epoll, connection.socket.as_fd(), token, epoll::EventFlags::IN | out)?;
        }
        if alive && let Some(place) = self.connections.get_mut(id) {
            *place = Some(connection);
        }
        Ok(())
    }

    fn read(&mut self, connection: &mut Connection, data: &[u8]) {
        let mut reader = std::mem::take(&mut connection.reader);
        reader.feed(data, &mut |event| match event {
            Event::Part(part) => {
                let request = &mut connection.request;
                connection.cutter.feed(part, &mut |field| {
                    let Value::Bytes(bytes) = field.value else { return };
                    match field.number {
                        2 => request.cluster = bytes == stamp::CLUSTER.as_bytes(),
                        3 => drop(request.names.insert(String::from_utf8_lossy(bytes).into_owned())),
                        6 => request.answer = true,
                        _ => {}
                    }
                });
            }
            Event::End => {
                let request = std::mem::take(&mut connection.request);
                if !request.answer {
                    self.subscribe(connection, request);
                }
            }
            Event::Frame(h2::HEADERS, ..) => {
                let mut answer = Vec::new();
                h2::answer(&mut answer);
                connection.outbox.raw(&answer);
            }
            Event::Frame(kind, flags, stream, payload) => connection.outbox.on_frame(kind, flags, stream, payload),
        });
        if let Some(taken) = reader.taken(WINDOW / 2) {
            let mut grants = Vec::new();
            h2::grant(0, taken, &mut grants);
            h2::grant(1, taken, &mut grants);
            connection.outbox.raw(&grants);
        }
        connection.reader = reader;
    }

    fn subscribe(&mut self, connection: &mut Connection, request: Request) {
        let all = request.names.is_empty() || request.names.len() >= self.data.endpoints.len();
        let names: Names = (!all).then(|| Rc::new(request.names));
        let key = (request.cluster, names);
        let shared = self.first.keys().find(|k| **k == key).cloned().unwrap_or(key);
        let data = &self.data;
        let first = self.first.entry(shared.clone()).or_insert_with(|| {
            let wanted = |name: &str| shared.1.as_ref().is_none_or(|names| names.contains(name));
            if shared.0 {
                response(data, true, (0..data.clusters.len()).filter(|at| wanted(&data.clusters[*at].0)))
            } else {
                response(data, false, (0..data.endpoints.len()).filter(|at| wanted(&data.endpoints[*at].0)))
            }
        });
        connection.outbox.send(Rc::clone(first));
        connection.asked[usize::from(!request.cluster)] = Some(shared.1);
    }

    fn change(&mut self, line: &str) -> Result<()> {
        let Change { cluster, index } = self.data.change(line)?;
        self.first.clear();
        let frame = response(&self.data, cluster, std::iter::once(index));
        let name = if cluster { &self.data.clusters[index].0 } else { &self.data.endpoints[index].0 };
        for (id, place) in self.connections.iter_mut().enumerate() {
            let Some(connection) = place else { continue };
            let asked = &connection.asked[usize::from(!cluster)];
            if !asked.as_ref().is_some_and(|names| names.as_ref().is_none_or(|names| names.contains(name))) {
                continue;
            }
            connection.outbox.send(Rc::clone(&frame));
            let was = connection.writing;
            if !connection.flush() {
                *place = None;
            } else if connection.writing && !was {
                let both = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                epoll::modify(&self.epoll, connection.socket.as_fd(), epoll::EventData::new_u64(id as u64), both)?;
            }
        }
        Ok(())
    }
}

impl Connection {
    /// False: the connection is broken.
    fn flush(&mut self) -> bool {
        match self.outbox.flush(&mut self.socket) {
            Ok(full) => {
                self.writing = full;
                true
            }
            Err(_) => false,
        }
    }
}

/// A whole gRPC message with these resources.
fn response(data: &Data, cluster: bool, which: impl Iterator<Item = usize>) -> Rc<[u8]> {
    let url = if cluster { stamp::CLUSTER } else { stamp::ENDPOINTS };
    let version = data.version.to_string();
    let mut out = Vec::new();
    put(1, version.as_bytes(), &mut out);
    for index in which {
        let (name, bytes) = if cluster {
            let (name, cluster) = &data.clusters[index];
            (name, cluster.encode_to_vec())
        } else {
            let (name, endpoints) = &data.endpoints[index];
            (name, endpoints.encode_to_vec())
        };
        let (mut any, mut resource) = (Vec::new(), Vec::new());
        put(1, url.as_bytes(), &mut any);
        put(2, &bytes, &mut any);
        put(1, version.as_bytes(), &mut resource);
        put(2, &any, &mut resource);
        put(3, name.as_bytes(), &mut resource);
        put(2, &resource, &mut out);
    }
    put(4, url.as_bytes(), &mut out);
    put(5, version.as_bytes(), &mut out);
    h2::message(&out).into()
}
