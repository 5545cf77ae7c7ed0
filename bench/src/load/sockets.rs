//! The sockets that are waited for, in two classes: of clients that are *new*, until they have said all of their first
//! words, and of the others.
//!
//! A machine of its own speaks as soon as it is connected, whatever ten thousand others are being sent. So new sockets
//! are asked for between any two reads, and not only when the loop comes round to them.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, Event, EventData, EventFlags},
    },
};

/// The event of standard input.
pub const INPUT: u64 = u64::MAX;
/// The event of the scout.
pub const SCOUT: u64 = u64::MAX - 1;
/// The event of there being events of new sockets.
pub const NEW: u64 = u64::MAX - 2;

pub struct Sockets {
    all: OwnedFd,
    /// Stands in `all`, so that whoever waits for that waits for new ones too.
    new: OwnedFd,
}

impl Sockets {
    /// None yet but standard input.
    ///
    /// # Errors
    /// Of epoll, as all below.
    pub fn new(input: BorrowedFd<'_>) -> io::Result<Self> {
        let [all, new] = [epoll::create(epoll::CreateFlags::CLOEXEC)?, epoll::create(epoll::CreateFlags::CLOEXEC)?];
        epoll::add(&all, input, EventData::new_u64(INPUT), EventFlags::IN)?;
        epoll::add(&all, &new, EventData::new_u64(NEW), EventFlags::IN)?;
        Ok(Self { all, new })
    }

    /// One that connects.
    pub fn add(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.new, socket, EventData::new_u64(token), wanted(true))?)
    }

    /// Whether it waits to be written to.
    pub fn want(&self, socket: BorrowedFd<'_>, token: u64, new: bool, writing: bool) -> io::Result<()> {
        let of = if new { &self.new } else { &self.all };
        Ok(epoll::modify(of, socket, EventData::new_u64(token), wanted(writing))?)
    }

    /// It is new no longer, and has nothing to write.
    pub fn settle(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::delete(&self.new, socket)?;
        Ok(epoll::add(&self.all, socket, EventData::new_u64(token), wanted(false))?)
    }

    /// Waits so many nanoseconds for any; as many as `events` has room for.
    pub fn wait(&self, nanoseconds: u64, events: &mut Vec<Event>) -> io::Result<()> {
        waited(&self.all, nanoseconds, events)
    }

    /// Those of new sockets, without waiting.
    pub fn of_new(&self, events: &mut Vec<Event>) -> io::Result<()> {
        waited(&self.new, 0, events)
    }
}

fn waited(epoll: impl AsFd, nanoseconds: u64, events: &mut Vec<Event>) -> io::Result<()> {
    events.clear();
    let wait = Timespec { tv_sec: (nanoseconds / 1_000_000_000) as i64, tv_nsec: (nanoseconds % 1_000_000_000) as i64 };
    match epoll::wait(epoll, spare_capacity(events), Some(&wait)) {
        Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn wanted(writing: bool) -> EventFlags {
    if writing { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn new_sockets_are_asked_for_alone_until_they_settle() {
        let (input, _quiet) = UnixStream::pair().unwrap();
        let sockets = Sockets::new(input.as_fd()).unwrap();
        let (client, mut server) = UnixStream::pair().unwrap();
        sockets.add(client.as_fd(), 7).unwrap();
        let mut events = Vec::with_capacity(8);
        let tokens = |events: &[Event]| events.iter().map(|event| { event.data }.u64()).collect::<Vec<_>>();
        sockets.wait(1_000_000_000, &mut events).unwrap();
        assert_eq!(tokens(&events), [NEW], "it can be written to");
        sockets.of_new(&mut events).unwrap();
        assert_eq!(tokens(&events), [7]);
        sockets.want(client.as_fd(), 7, true, false).unwrap();
        sockets.of_new(&mut events).unwrap();
        assert!(events.is_empty(), "it has nothing to write and nothing to read");
        server.write_all(b"settings").unwrap();
        sockets.of_new(&mut events).unwrap();
        assert_eq!(tokens(&events), [7]);
        sockets.settle(client.as_fd(), 7).unwrap();
        sockets.of_new(&mut events).unwrap();
        assert!(events.is_empty());
        sockets.wait(1_000_000_000, &mut events).unwrap();
        assert_eq!(tokens(&events), [7]);
    }
}
