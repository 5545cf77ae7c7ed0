//! The back end of the container stack: answers every request with its name, and `/healthz` with `ok`.
//!
//! `backend NAME` listens on port 8080; `backend --check` asks such a one on this host, and is its health check.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use axum::{
    Router,
    routing::{any, get},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

const PORT: u16 = 8080;
const CHECK: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("--check") => check(),
        Some(name) if !name.starts_with('-') => serve(name.to_owned()),
        _ => Err(std::io::Error::other("usage: backend NAME | backend --check")),
    };
    if let Err(error) = outcome {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[tokio::main(flavor = "current_thread")]
async fn serve(name: String) -> std::io::Result<()> {
    let answer = format!("hello from {name}\n");
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).fallback(any(move || async move { answer }));
    // The first process of a container has no default action for SIGTERM.
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let stop = async move {
        terminate.recv().await;
    };
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

fn check() -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), CHECK)?;
    stream.set_read_timeout(Some(CHECK))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(answer)) }
}
