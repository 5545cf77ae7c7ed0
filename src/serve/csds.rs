//! Client status discovery (CSDS) for operators: what each connected proxy has of what it is served, in Envoy's words.

use std::{pin::Pin, sync::Arc};

use envoy_types::pb::{
    envoy::{
        admin::v3::{ClientResourceStatus, UpdateFailureState},
        config::core::v3::{Locality, Node},
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
            client_config::GenericXdsConfig,
            client_status_discovery_service_server::{
                ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
            },
        },
        r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::{Any, Timestamp},
};
use futures::{Stream, StreamExt};
use regex::{Regex, RegexBuilder};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    feedback::{Acked, Feedback, ProxyView},
    identity::{self, Peer},
    model::{Audience, Sites},
    snapshot::{Entry, Views},
    xds::{ResourceType, descriptor, redact},
};

/// Matchers in one request.
const MATCHERS_MAX: usize = 100;
/// Bytes of a regular expression.
const PATTERN_MAX: usize = 1_024;
/// Bytes of resources in one answer.
const CONTENTS_MAX: usize = 64 << 20;

/// `envoy.service.status.v3.ClientStatusDiscoveryService`.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    /// What proxies are served.
    pub views: Arc<Views>,
    /// What they answered.
    pub feedback: Arc<Feedback>,
    /// Whose trust domain operators are of.
    pub sites: watch::Receiver<Arc<Sites>>,
}

/// The service, to be served on the operators' port.
pub fn service(status: ClientStatus) -> ClientStatusDiscoveryServiceServer<ClientStatus> {
    ClientStatusDiscoveryServiceServer::new(status)
}

impl ClientStatus {
    fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let trust_domain = Arc::clone(&self.sites.borrow().trust_domain);
        let principal = identity::principal(&peer, &trust_domain, false);
        principal.map(drop).map_err(|refusal| Status::permission_denied(refusal.to_string()))
    }

    fn answer(&self, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        if request.node_matchers.len() > MATCHERS_MAX {
            return Err(Status::invalid_argument(format!("more than {MATCHERS_MAX} node_matchers")));
        }
        let matchers: Vec<_> = request.node_matchers.iter().map(Matcher::parse).collect::<Result<_, _>>()?;
        let mut room = CONTENTS_MAX;
        let mut config = Vec::new();
        for proxy in
            self.feedback.reaching(&|audience, kind, asked, seqs| self.views.extent(audience, kind, asked, seqs))
        {
            // Any of them is enough; none at all is everybody.
            if matchers.is_empty() || matchers.iter().any(|matcher| matcher.takes(&proxy.id.node)) {
                config.push(self.client(&proxy, request.exclude_resource_contents, &mut room)?);
            }
        }
        Ok(ClientStatusResponse { config })
    }

    fn client(&self, proxy: &ProxyView, bare: bool, room: &mut usize) -> Result<ClientConfig, Status> {
        let site = proxy.audience.as_ref().map_or(&proxy.id.site, |audience| &audience.site);
        let cluster = proxy.audience.as_ref().map(|audience| audience.role.as_str()).unwrap_or_default();
        let node = Node {
            id: proxy.id.node.to_string(),
            cluster: cluster.to_owned(),
            locality: Some(Locality { sub_zone: site.to_string(), ..Locality::default() }),
            ..Node::default()
        };
        let entries = proxy.audience.as_ref().map(|audience| self.entries(audience)).unwrap_or_default();
        let mut configs = Vec::with_capacity(entries.len());
        for entry in entries {
            let config = resource(proxy, &entry, bare);
            let size = config.xds_config.as_ref().map_or(0, |any| any.value.len());
            *room = room.checked_sub(size).ok_or_else(|| {
                let most = CONTENTS_MAX >> 20;
                Status::resource_exhausted(format!(
                    "the resources are more than {most} MiB: name fewer proxies by node_matchers, or set \
                     exclude_resource_contents"
                ))
            })?;
            configs.push(config);
        }
        // By the scope grpcdebug tells rows apart and picks them; the node it does not show.
        let client_scope = proxy.id.node.to_string();
        Ok(ClientConfig { node: Some(node), generic_xds_configs: configs, client_scope, ..ClientConfig::default() })
    }

    /// A copy of what an audience sees, so that nothing is computed under the view's lock.
    fn entries(&self, audience: &Audience) -> Vec<Entry> {
        let Some(view) = self.views.get(audience) else { return Vec::new() };
        let content = view.read();
        ResourceType::ALL.into_iter().flat_map(|kind| content.entries(kind)).map(|(_, entry)| entry.clone()).collect()
    }
}

fn resource(proxy: &ProxyView, entry: &Entry, bare: bool) -> GenericXdsConfig {
    let resource = &entry.resource;
    let (kind, name) = (resource.kind, &*resource.name);
    let sent = proxy.types.get(&kind).is_some_and(|state| state.sent >= entry.seq);
    let mut error = None;
    let (status, client) = match proxy.taken(kind, name, resource.version, entry.seq) {
        Acked::Acked => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        Acked::NotSubscribed => (ConfigStatus::NotSent, ClientResourceStatus::Unknown),
        // Sent and not answered; a cluster that warms stays so for a while.
        Acked::Pending if sent => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        Acked::Pending => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
        Acked::Refused(words) => {
            let version_info = resource.version.to_string();
            error = Some(UpdateFailureState { details: words.to_string(), version_info, ..Default::default() });
            (ConfigStatus::Error, ClientResourceStatus::Nacked)
        }
    };
    let shown = if bare { None } else { redact::redacted(descriptor::message_name(kind.url()), &resource.payload) };
    GenericXdsConfig {
        type_url: kind.url().to_owned(),
        name: name.to_owned(),
        version_info: resource.version.to_string(),
        xds_config: shown.map(|value| Any { type_url: kind.url().to_owned(), value }),
        // grpcdebug crashes without it.
        last_updated: Some(Timestamp { seconds: entry.changed.into(), nanos: 0 }),
        config_status: status.into(),
        client_status: client.into(),
        error_state: error,
        ..GenericXdsConfig::default()
    }
}

/// What a node's id has to be.
enum Matcher {
    Any,
    Exact(String, bool),
    Prefix(String, bool),
    Suffix(String, bool),
    Contains(String, bool),
    Regex(Regex),
}

impl Matcher {
    fn parse(matcher: &NodeMatcher) -> Result<Self, Status> {
        if !matcher.node_metadatas.is_empty() {
            return Err(Status::invalid_argument("node metadata is not kept: match by node_id"));
        }
        let Some(StringMatcher { match_pattern, ignore_case }) = &matcher.node_id else { return Ok(Self::Any) };
        let fold = |text: &String| (if *ignore_case { text.to_lowercase() } else { text.clone() }, *ignore_case);
        let of = |make: fn(String, bool) -> Self, text: &String| {
            let (text, fold) = fold(text);
            Ok(make(text, fold))
        };
        match match_pattern {
            None => Ok(Self::Any),
            Some(MatchPattern::Exact(text)) => of(Self::Exact, text),
            Some(MatchPattern::Prefix(text)) => of(Self::Prefix, text),
            Some(MatchPattern::Suffix(text)) => of(Self::Suffix, text),
            Some(MatchPattern::Contains(text)) => of(Self::Contains, text),
            Some(MatchPattern::SafeRegex(regex)) if regex.regex.len() <= PATTERN_MAX => {
                // The whole id has to match, as in Envoy.
                let built = RegexBuilder::new(&format!("^(?:{})$", regex.regex)).size_limit(1 << 20).build();
                let built = built.map_err(|error| Status::invalid_argument(format!("node_id.safe_regex: {error}")))?;
                Ok(Self::Regex(built))
            }
            Some(MatchPattern::SafeRegex(_)) => {
                Err(Status::invalid_argument(format!("node_id.safe_regex is longer than {PATTERN_MAX} bytes")))
            }
            Some(MatchPattern::Custom(_)) => Err(Status::invalid_argument("node_id.custom is not known")),
        }
    }

    fn takes(&self, id: &str) -> bool {
        let id = |fold: bool| if fold { id.to_lowercase() } else { id.to_owned() };
        match self {
            Self::Any => true,
            Self::Exact(text, fold) => id(*fold) == *text,
            Self::Prefix(text, fold) => id(*fold).starts_with(text),
            Self::Suffix(text, fold) => id(*fold).ends_with(text),
            Self::Contains(text, fold) => id(*fold).contains(text),
            Self::Regex(regex) => regex.is_match(&id(false)),
        }
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatus {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        self.authorize(&request)?;
        let status = self.clone();
        // One answer for each question, as of when it is asked.
        let answers = request.into_inner().map(move |asked| asked.and_then(|asked| status.answer(&asked)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.authorize(&request)?;
        self.answer(request.get_ref()).map(Response::new)
    }
}

#[cfg(test)]
mod tests;
