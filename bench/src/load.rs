//! The load generator: one thread, one epoll, as many clients as are wanted, told by lines on standard input what to do.

mod asks;
mod client;
mod control;
mod line;
mod pool;
mod scout;
mod sockets;
mod variant;

pub use self::{control::run, variant::Variant};

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};

/// What the clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Clusters, by wildcard.
    Cds,
    /// Clusters by wildcard, then the assignment of each by name, as an Envoy does.
    Eds,
    /// So many assignments by name, a different share for each group of clients, and no clusters.
    Share(usize),
}

/// What one generator does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients are spread over them, and go to the next when one loses them.
    pub servers: Vec<SocketAddr>,
    /// The folder of a proxy's certificate, for mutual TLS.
    pub tls: Option<PathBuf>,
    pub clients: usize,
    /// Resources of a type that the server has.
    pub resources: usize,
    pub mode: Mode,
    /// State of the world goes with [`Mode::Cds`] only.
    pub variant: Variant,
    /// `node.locality.sub_zone`.
    pub site: String,
    /// Receive window of a stream and a connection.
    pub window: u32,
    /// Bytes of the node in the first message; an Envoy's is 61 kB.
    pub node_bytes: usize,
    /// Connections being opened at a time.
    pub opening: usize,
    /// Milliseconds between a response and its ACK.
    pub ack_delay_ms: u64,
}

impl Settings {
    /// From `key=value` words.
    ///
    /// # Errors
    /// A word that means nothing.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut settings = Self {
            servers: vec![SocketAddr::from(([127, 0, 0, 1], 18_000))],
            tls: None,
            clients: 100,
            resources: 1_000,
            mode: Mode::Cds,
            variant: Variant::Delta,
            site: "core1".to_owned(),
            window: 1 << 20,
            node_bytes: 61_000,
            opening: 256,
            ack_delay_ms: 0,
        };
        for word in words {
            let (key, value) = word.split_once('=').with_context(|| format!("{word:?} is no key=value"))?;
            let number = || value.parse::<usize>().with_context(|| format!("{key}={value}: no number"));
            match key {
                "server" => {
                    let servers = value.split(',').map(str::parse).collect::<Result<_, _>>();
                    settings.servers = servers.with_context(|| format!("{value:?} is no IP:port, or several"))?;
                }
                "tls" => settings.tls = Some(value.into()),
                "clients" => settings.clients = number()?,
                "resources" => settings.resources = number()?,
                "mode" if value == "cds" => settings.mode = Mode::Cds,
                "mode" if value == "eds" => settings.mode = Mode::Eds,
                "variant" if value == "delta" => settings.variant = Variant::Delta,
                "variant" if value == "sotw" => settings.variant = Variant::StateOfTheWorld,
                "share" => settings.mode = Mode::Share(number()?),
                "site" => settings.site = value.to_owned(),
                "window" => settings.window = u32::try_from(number()?)?,
                "node_bytes" => settings.node_bytes = number()?,
                "opening" => settings.opening = number()?,
                "ack_delay_ms" => settings.ack_delay_ms = number()? as u64,
                _ => bail!("{word:?} means nothing here"),
            }
        }
        if settings.variant == Variant::StateOfTheWorld && settings.mode != Mode::Cds {
            bail!("in state of the world clients ask for clusters only");
        }
        Ok(settings)
    }
}
