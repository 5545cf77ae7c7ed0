//! A delta ADS client that behaves as an Envoy does, and counts what it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use envoy_types::pb::envoy::{
    config::core::v3::{Locality, Node},
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use serde_json::Value;
use tidegate::xds::{ResourceType, descriptor::message_name, json::to_json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

/// Nothing for so long is the end of what the control plane has to say: additions do not wait.
const QUIET: Duration = Duration::from_secs(4);
/// The first response is waited for no longer than this.
const FIRST: Duration = Duration::from_secs(30);

/// Names that came in a session, in order, by type.
pub(crate) type Sent = BTreeMap<ResourceType, Vec<String>>;

/// A step of what a client was told: a resource, or that it is gone.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) kind: ResourceType,
    pub(crate) name: String,
    /// Its version and its body as JSON; `None`: it was removed.
    pub(crate) resource: Option<(String, Value)>,
}

/// One proxy of a site, and what it holds.
pub(crate) struct XdsClient {
    /// All that it was told, in order.
    pub(crate) told: Vec<Told>,
    /// Nothing for so long ends a session. Additions do not wait; a cluster is removed 5 s after its routes.
    pub(crate) quiet: Duration,
    /// A session ends as soon as it holds just this.
    pub(crate) goal: Option<BTreeMap<ResourceType, BTreeMap<String, String>>>,
    /// The times to live that came, of resources and of what renewed them (`true`), in order.
    pub(crate) lives: Vec<(String, Duration, bool)>,
    /// A session ends as soon as it has heard of so many.
    pub(crate) enough_lives: usize,
    node: Node,
    tls: ClientTlsConfig,
    server: SocketAddr,
    held: BTreeMap<ResourceType, BTreeMap<String, String>>,
    /// The names that what it holds leads to.
    wanted: BTreeMap<ResourceType, BTreeSet<String>>,
}

impl XdsClient {
    /// A proxy that holds nothing yet; `identity` is the folder of its site's certificate.
    pub(crate) fn new(server: SocketAddr, site: &str, id: &str, identity: &Path) -> Self {
        let file = |name: &str| fs::read(identity.join(name)).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(file("ca.crt")))
            .identity(Identity::from_pem(file("tls.crt"), file("tls.key")))
            .domain_name("localhost");
        let locality = Some(Locality { sub_zone: site.to_owned(), ..Locality::default() });
        let node = Node { id: id.to_owned(), locality, ..Node::default() };
        Self {
            told: Vec::new(),
            quiet: QUIET,
            goal: None,
            lives: Vec::new(),
            enough_lives: usize::MAX,
            node,
            tls,
            server,
            held: BTreeMap::new(),
            wanted: BTreeMap::new(),
        }
    }

    /// It says of itself that it lets resources run out.
    pub(crate) fn expiring(mut self) -> Self {
        self.node.client_features.push("xds.config.supports-resource-ttl".to_owned());
        self
    }

    /// How many resources it holds.
    pub(crate) fn holds(&self) -> usize {
        self.held.values().map(BTreeMap::len).sum()
    }

    /// The version of each resource that it holds, by type and name.
    pub(crate) fn versions(&self) -> BTreeMap<ResourceType, BTreeMap<String, String>> {
        self.held.clone().into_iter().filter(|(_, held)| !held.is_empty()).collect()
    }

    /// The next session is with this control plane.
    pub(crate) fn moves_to(&mut self, server: SocketAddr) {
        self.server = server;
    }

    /// One stream, from connecting, with the versions that it holds, until the control plane says nothing more.
    pub(crate) fn session(&mut self) -> Sent {
        self.try_session().unwrap()
    }

    /// As [`XdsClient::session`], with a control plane that may be killed meanwhile.
    ///
    /// # Errors
    /// What ended it: no connection, or a stream that was cut.
    pub(crate) fn try_session(&mut self) -> Result<Sent, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.run())
    }

    async fn run(&mut self) -> Result<Sent, String> {
        let channel = Channel::from_shared(format!("https://{}", self.server)).unwrap();
        let channel = channel.tls_config(self.tls.clone()).unwrap();
        let channel = channel.connect().await.map_err(|error| error.to_string())?;
        let (requests, outgoing) = mpsc::channel(256);
        let mut sent = Sent::new();
        let mut first = Some(self.node.clone());
        let mut asked = BTreeMap::new();
        // An Envoy asks for a type's names with all that it holds of the type, and names nothing for a wildcard.
        for kind in ResourceType::ALL {
            let names = self.wanted.get(&kind).cloned().unwrap_or_default();
            if (kind.common() && kind.wildcard()) || !names.is_empty() {
                requests.send(self.open(kind, &names, first.take())).await.unwrap();
                asked.insert(kind, names);
            }
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let stream = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
        let mut incoming = stream.map_err(|status| status.to_string())?.into_inner();
        let mut wait = if self.holds() == 0 { FIRST } else { self.quiet };
        while self.goal.as_ref() != Some(&self.versions())
            && self.lives.len() < self.enough_lives
            && let Ok(message) = tokio::time::timeout(wait, incoming.message()).await
        {
            let response = message.map_err(|status| status.to_string())?.ok_or("the control plane ended the stream")?;
            wait = self.quiet;
            let kind = ResourceType::from_url(&response.type_url).unwrap();
            self.take(kind, &response, &mut sent);
            let type_url = kind.url().to_owned();
            let ack = DeltaDiscoveryRequest { type_url, response_nonce: response.nonce, ..Default::default() };
            let cut = |_| "the stream was cut".to_owned();
            requests.send(ack).await.map_err(cut)?;
            for (kind, wanted) in &self.wanted {
                let known = asked.get(kind).cloned();
                let new: BTreeSet<_> = wanted.difference(known.as_ref().unwrap_or(&BTreeSet::new())).cloned().collect();
                if !new.is_empty() {
                    let type_url = kind.url().to_owned();
                    let resource_names_subscribe = new.iter().cloned().collect();
                    let more = DeltaDiscoveryRequest { type_url, resource_names_subscribe, ..Default::default() };
                    requests.send(more).await.map_err(cut)?;
                    asked.entry(*kind).or_default().extend(new);
                }
            }
        }
        Ok(sent)
    }

    fn open(&self, kind: ResourceType, names: &BTreeSet<String>, node: Option<Node>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node,
            type_url: kind.url().to_owned(),
            resource_names_subscribe: if kind.wildcard() { Vec::new() } else { names.iter().cloned().collect() },
            initial_resource_versions: self.held.get(&kind).cloned().unwrap_or_default().into_iter().collect(),
            ..Default::default()
        }
    }

    fn take(&mut self, kind: ResourceType, response: &DeltaDiscoveryResponse, sent: &mut Sent) {
        let held = self.held.entry(kind).or_default();
        for name in &response.removed_resources {
            held.remove(name);
            self.told.push(Told { kind, name: name.clone(), resource: None });
        }
        for resource in &response.resources {
            if let Some(ttl) = &resource.ttl {
                let ttl = Duration::new(ttl.seconds.unsigned_abs(), ttl.nanos.unsigned_abs());
                self.lives.push((resource.name.clone(), ttl, resource.resource.is_none()));
            }
            if resource.ttl.is_some() && resource.resource.is_none() {
                assert_eq!(held.get(&resource.name), Some(&resource.version), "what it holds is renewed");
                continue;
            }
            held.insert(resource.name.clone(), resource.version.clone());
            sent.entry(kind).or_default().push(resource.name.clone());
            let any = resource.resource.as_ref().expect("a resource has a body");
            let message = to_json(message_name(&any.type_url), &any.value).unwrap();
            if kind == ResourceType::Cluster && message["type"] == "EDS" {
                let service = message["edsClusterConfig"]["serviceName"].as_str().filter(|name| !name.is_empty());
                let name = service.unwrap_or(&resource.name).to_owned();
                self.wanted.entry(ResourceType::Endpoints).or_default().insert(name);
            }
            find_names(&message, &mut self.wanted);
            let told = Some((resource.version.clone(), message));
            self.told.push(Told { kind, name: resource.name.clone(), resource: told });
        }
    }
}

/// The route configurations and secrets that a message names with the control plane as their source.
fn find_names(value: &Value, wanted: &mut BTreeMap<ResourceType, BTreeSet<String>>) {
    let mut want = |kind, name: &Value| {
        wanted.entry(kind).or_default().insert(name.as_str().unwrap_or_default().to_owned());
    };
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("routeConfigName") {
                want(ResourceType::Route, name);
            }
            if fields.get("sdsConfig").is_some_and(|source| source.get("ads").is_some()) {
                want(ResourceType::Secret, &fields["name"]);
            }
            fields.values().for_each(|value| find_names(value, wanted));
        }
        Value::Array(values) => values.iter().for_each(|value| find_names(value, wanted)),
        _ => {}
    }
}
