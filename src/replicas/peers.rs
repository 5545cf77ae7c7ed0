//! One connection for each other replica, made when it is first needed, dropped when the replica goes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{Member, Members, PeerTls};
use crate::rpc::peer_client::PeerClient;

/// Answers of a replica with many proxies are large.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);

/// In each question: the process that is asked.
const INSTANCE: &str = "tidegate-instance";

/// Calls to one process.
pub type PeerCalls = PeerClient<InterceptedService<Channel, Addressed>>;

/// Says in each question who is asked, so that an address that leads to somebody else is noticed.
#[derive(Clone, Debug)]
pub struct Addressed(Option<MetadataValue<Ascii>>);

impl Interceptor for Addressed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(instance) = &self.0 {
            request.metadata_mut().insert(INSTANCE, instance.clone());
        }
        Ok(request)
    }
}

/// Whether a question is meant for the process `instance`; one that names nobody is.
pub(super) fn meant(question: &MetadataMap, instance: &str) -> bool {
    question.get(INSTANCE).is_none_or(|asked| asked.as_bytes() == instance.as_bytes())
}

/// The connections of one replica to the others, by address.
pub(super) struct Peers {
    tls: Option<PeerTls>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Peers {
    pub(super) fn new(tls: Option<PeerTls>) -> Self {
        Self { tls, channels: Mutex::default() }
    }

    /// Calls to a replica.
    pub(super) fn client(&self, Member { api, instance, .. }: &Member) -> Result<PeerCalls, String> {
        if api.is_empty() {
            return Err("it advertises no address; start it with --advertise HOST:PORT".to_owned());
        }
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(api) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.connect(api)?;
                channels.insert(api.clone(), channel.clone());
                channel
            }
        };
        Ok(PeerClient::with_interceptor(channel, Addressed(instance.parse().ok()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Drops the connections to whoever is gone.
    pub(super) fn retain(&self, members: &Members) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|api, _| members.values().any(|member| member.api == *api));
    }

    fn connect(&self, api: &str) -> Result<Channel, String> {
        let wrong = |error: &dyn std::error::Error| format!("it advertises {api:?}, which is no HOST:PORT: {error}");
        let endpoint = Endpoint::from_shared(format!("http://{api}"))
            .map_err(|error| wrong(&error))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(3));
        Ok(match &self.tls {
            None => endpoint.connect_lazy(),
            Some(tls) => endpoint.connect_with_connector_lazy(tls.connector()),
        })
    }
}
