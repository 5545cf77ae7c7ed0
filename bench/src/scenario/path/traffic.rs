//! HTTP as little as it takes: back ends that answer with their name, and a client that asks on one connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// For one answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a body.
const BODY_MAX: usize = 64 << 10;

/// Starts a back end in this process, which ends with it.
///
/// # Errors
/// Of the socket.
pub fn backend(name: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // A connection that breaks is Envoy's matter.
            std::thread::spawn(move || drop(serve(socket, name)));
        }
    });
    Ok(address)
}

fn serve(mut socket: TcpStream, name: &str) -> Result<()> {
    socket.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
    let mut requests = BufReader::new(socket.try_clone()?);
    while !head(&mut requests)?.is_empty() {
        socket.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// The lines of a head; none at the end of the connection.
fn head(from: &mut impl BufRead) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(lines);
        }
        lines.push(line.trim().to_ascii_lowercase());
    }
}

/// A client on one connection, which is kept.
pub struct Asker(BufReader<TcpStream>);

impl Asker {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self(BufReader::new(socket)))
    }

    /// What is answered to a GET of `/`.
    ///
    /// # Errors
    /// The connection broke, or no answer came in time.
    pub fn ask(&mut self) -> Result<String> {
        self.0.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: path.example\r\n\r\n")?;
        let lines = head(&mut self.0)?;
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let length = length.with_context(|| format!("an answer without a length: {lines:?}"))?;
        ensure!(length <= BODY_MAX, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_answers_with_its_name_as_often_as_it_is_asked() {
        let mut asker = Asker::connect(backend("somebody").unwrap()).unwrap();
        for _ in 0..3 {
            assert_eq!(asker.ask().unwrap(), "somebody");
        }
    }
}
