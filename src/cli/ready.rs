//! `ready`: asks the replica on this host whether it serves. The health check of a container or a unit, without a tool
//! that an image would need for it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Failure, Io, ReadyArgs};

/// What is read of an answer: more than any page with its problems needs to show that it is there.
const ANSWER_MAX: u64 = 1 << 20;

/// Prints `/readyz?verbose`.
///
/// # Errors
/// [`Failure::NotReady`] when it says another status than 200; that nobody answers, or not in `limit`.
pub(super) async fn ready(args: &ReadyArgs, limit: Duration, io: &mut Io<'_>) -> Result<(), Failure> {
    let answer = timeout(limit, page(args)).await;
    let answer = answer.map_err(|_| Failure::Timeout(format!("{} did not answer within {limit:?}", args.address)))?;
    let answer = answer.map_err(|error| Failure::Failed(format!("no replica answers at {}: {error}", args.address)))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    write!(io.out, "{body}")?;
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(Failure::NotReady(format!("the replica at {} is not ready: {status:?}", args.address))),
    }
}

async fn page(args: &ReadyArgs) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(args.address).await?;
    let request = format!("GET /readyz?verbose HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", args.address);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
