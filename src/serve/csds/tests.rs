//! Status by resource, matchers, redaction.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;
use prost::Message;

use super::*;
use crate::{
    feedback::{Connected, Parked, ProxyId, TypeState},
    model::{Revision, Role},
    snapshot::{Publish, Seq},
    xds::{Resource, Subscription},
};

struct Setup {
    status: ClientStatus,
    seq: Seq,
    proxies: Vec<Connected>,
}

fn audience(proven: bool) -> Audience {
    Audience { site: "fra".into(), role: Role::Edge, proven, cohort: "".into(), delta: true }
}

fn wildcard() -> Arc<Subscription> {
    let mut wildcard = Subscription::default();
    wildcard.set_wildcard(true);
    Arc::new(wildcard)
}

fn setup(resources: Vec<Resource>) -> Setup {
    let (views, feedback) = (Arc::new(Views::default()), Arc::new(Feedback::default()));
    let _reader = views.open(&audience(true));
    let seq = views.next_seq();
    let upserts = resources.into_iter().map(Arc::new).collect();
    views.get(&audience(true)).unwrap().publish(seq, Revision(1), Publish { upserts, removals: vec![] });
    let sites = Sites { trust_domain: "t".into(), drain_time: Duration::ZERO, sites: BTreeMap::new() };
    let (_, sites) = watch::channel(Arc::new(sites));
    Setup { status: ClientStatus { views, feedback, sites }, seq, proxies: Vec::new() }
}

impl Setup {
    fn connect(&mut self, node: &str) -> &Connected {
        let id = ProxyId { site: "fra".into(), node: node.into() };
        let connected = self.status.feedback.connect(id, SystemTime::now(), Ok(audience(true)));
        self.proxies.push(connected);
        self.proxies.last().unwrap()
    }

    fn ask(&self, request: &ClientStatusRequest) -> BTreeMap<String, GenericXdsConfig> {
        let answer = self.status.answer(request).unwrap();
        answer.config.into_iter().flat_map(|c| c.generic_xds_configs).map(|c| (c.name.clone(), c)).collect()
    }

    fn nodes(&self, matchers: &[StringMatcher]) -> Vec<String> {
        let node_matchers = matchers.iter().map(|m| NodeMatcher { node_id: Some(m.clone()), node_metadatas: vec![] });
        let request = ClientStatusRequest { node_matchers: node_matchers.collect(), ..Default::default() };
        let answer = self.status.answer(&request).unwrap();
        answer.config.into_iter().map(|c| c.node.unwrap().id).collect()
    }
}

fn by(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

#[test]
fn each_resource_is_synced_stale_not_sent_or_refused() {
    let cluster = |name: &str| Resource::new(ResourceType::Cluster, name, "".into());
    let listener = Resource::new(ResourceType::Listener, "unasked", "".into());
    let mut setup = setup(vec![cluster("taken"), cluster("warming"), cluster("refused"), listener]);
    let (seq, refused) = (setup.seq, cluster("refused").version);
    let parked = Parked { version: refused, error: "bad regex".into(), since: seq };
    let state = |sent, acked| TypeState {
        subscription: wildcard(),
        sent,
        acked,
        pending: Arc::new(vec!["warming".into()]),
        behind: None,
        parked: Arc::new([("refused".into(), parked.clone())].into()),
        set: 0,
    };
    setup.connect("a").set(ResourceType::Cluster, state(seq, seq));
    let shown = setup.ask(&ClientStatusRequest::default());
    let statuses: Vec<_> = shown.iter().map(|(name, c)| (name.as_str(), c.config_status())).collect();
    let wanted = [
        ("refused", ConfigStatus::Error),
        ("taken", ConfigStatus::Synced),
        ("unasked", ConfigStatus::NotSent),
        ("warming", ConfigStatus::Stale),
    ];
    assert_eq!(statuses, wanted);
    let refused = &shown["refused"];
    assert_eq!(refused.error_state.as_ref().unwrap().details, "bad regex");
    assert_eq!((refused.version_info.len(), refused.client_status()), (16, ClientResourceStatus::Nacked));

    setup.proxies[0].set(ResourceType::Cluster, state(Seq(0), Seq(0)));
    assert_eq!(setup.ask(&ClientStatusRequest::default())["taken"].config_status(), ConfigStatus::NotSent);
}

#[test]
fn what_grpcdebug_prints_is_there() {
    let mut setup = setup(vec![Resource::new(ResourceType::Cluster, "c", "".into())]);
    setup.connect("edge1-a");
    let answer = setup.status.answer(&ClientStatusRequest::default()).unwrap();
    let [client] = answer.config.as_slice() else { panic!("{answer:?}") };
    assert_eq!(client.client_scope, "edge1-a", "the column by which rows of several proxies are told apart");
    let updated = client.generic_xds_configs[0].last_updated.expect("grpcdebug follows it without a look");
    let updated = SystemTime::UNIX_EPOCH + Duration::from_secs(updated.seconds.try_into().unwrap());
    let age = SystemTime::now().duration_since(updated).unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
}

#[test]
fn contents_are_shown_without_secrets_or_not_at_all() {
    use envoy_types::pb::envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret::Type},
    };
    let private_key =
        Some(DataSource { specifier: Some(Specifier::InlineString("hush".into())), ..Default::default() });
    let certificate = TlsCertificate { private_key, ..TlsCertificate::default() };
    let secret = Secret { name: "s".into(), r#type: Some(Type::TlsCertificate(certificate)) };
    let mut setup = setup(vec![Resource::new(ResourceType::Secret, "s", secret.encode_to_vec().into())]);
    setup.connect("a");
    let shown = setup.ask(&ClientStatusRequest::default()).remove("s").unwrap().xds_config.unwrap();
    assert_eq!(shown.type_url, ResourceType::Secret.url());
    let read = Secret::decode(shown.value.as_slice()).unwrap();
    assert!(!format!("{read:?}").contains("hush") && read.name == "s", "{read:?}");
    let bare = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    assert_eq!(setup.ask(&bare)["s"].xds_config, None);
}

#[test]
fn any_matcher_is_enough_and_what_cannot_be_matched_is_refused() {
    let mut setup = setup(vec![]);
    for node in ["edge1-a", "edge1-b", "Core1-a"] {
        setup.connect(node);
    }
    assert_eq!(setup.nodes(&[]).len(), 3);
    let text = |text: &str| text.to_owned();
    assert_eq!(setup.nodes(&[by(MatchPattern::Exact(text("edge1-a")))]), ["edge1-a"]);
    let either = [by(MatchPattern::Exact(text("edge1-a"))), by(MatchPattern::Prefix(text("Core")))];
    assert_eq!(setup.nodes(&either), ["Core1-a", "edge1-a"]);
    assert_eq!(setup.nodes(&[by(MatchPattern::Suffix(text("-b")))]), ["edge1-b"]);
    assert_eq!(setup.nodes(&[by(MatchPattern::Contains(text("1-a")))]), ["Core1-a", "edge1-a"]);
    let regex = |regex: &str| MatchPattern::SafeRegex(RegexMatcher { regex: regex.into(), ..Default::default() });
    assert_eq!(setup.nodes(&[by(regex("edge.-[ab]"))]).len(), 2);
    assert!(setup.nodes(&[by(regex("edge"))]).is_empty(), "the whole id");
    let folded = StringMatcher { ignore_case: true, ..by(MatchPattern::Prefix(text("CORE"))) };
    assert_eq!(setup.nodes(&[folded]), ["Core1-a"]);
    for wrong in [
        NodeMatcher { node_id: None, node_metadatas: vec![Default::default()] },
        NodeMatcher { node_id: Some(by(regex("("))), node_metadatas: vec![] },
        NodeMatcher { node_id: Some(by(regex(&"a".repeat(PATTERN_MAX + 1)))), node_metadatas: vec![] },
        NodeMatcher { node_id: Some(by(MatchPattern::Custom(Default::default()))), node_metadatas: vec![] },
    ] {
        let request = ClientStatusRequest { node_matchers: vec![wrong], ..Default::default() };
        assert_eq!(setup.status.answer(&request).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}

#[tokio::test]
async fn only_operators_are_answered() {
    let setup = setup(vec![]);
    let ask = async |peer: Peer| {
        let mut request = Request::new(ClientStatusRequest::default());
        request.extensions_mut().insert(peer);
        setup.status.fetch_client_status(request).await.map(drop).map_err(|status| status.code())
    };
    let named = |path: &str| Peer { spiffe: Some(format!("spiffe://t/{path}")), loopback: true };
    assert_eq!(ask(named("operator/ann")).await, Ok(()));
    for peer in [named("edge/fra"), Peer { spiffe: None, loopback: false }] {
        assert_eq!(ask(peer).await, Err(tonic::Code::PermissionDenied));
    }
}
