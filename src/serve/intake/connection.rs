//! The bytes of one connection, with a deadline until its client has shown that it speaks HTTP/2.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::places::Place;

/// Bytes that every HTTP/2 client begins with; once they are here, keep-alive takes over.
const PREFACE: usize = 24;

/// An admitted connection, and its place among the others.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    /// Runs until the preface has come, all of it: a byte now and then is not enough.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: Place,
}

#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Connection {
    /// A connection whose preface is due within `preface`.
    pub(super) fn new(socket: Socket, preface: Duration, place: Place) -> Self {
        Self { socket, preface: Some((PREFACE, Box::pin(sleep(preface)))), _place: place }
    }

    fn socket(&mut self) -> Pin<&mut dyn Duplex> {
        match &mut self.socket {
            Socket::Plain(socket) => Pin::new(socket),
            Socket::Tls(socket) => Pin::new(&mut **socket),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.socket().poll_read(cx, buf);
        let Some((missing, deadline)) = self.preface.as_mut() else { return read };
        *missing = missing.saturating_sub(buf.filled().len() - before);
        if *missing == 0 {
            self.preface = None;
        } else if read.is_pending() {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(socket) => socket.is_write_vectored(),
            Socket::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_shutdown(cx)
    }
}
