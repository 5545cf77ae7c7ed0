//! Rules of the protocol about streams and their ends, over loopback, by their number in `docs/protocol.md`.

use super::*;

async fn open(server: &Server, first: DeltaDiscoveryRequest) -> Client {
    let mut ads = AggregatedDiscoveryServiceClient::new(server.channel().await).max_encoding_message_size(16 << 20);
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(first).await.unwrap();
    let responses = ads.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    Client { requests, responses }
}

fn ask(kind: ResourceType, names: Vec<String>) -> DeltaDiscoveryRequest {
    let (type_url, resource_names_subscribe) = (kind.url().to_owned(), names);
    DeltaDiscoveryRequest { type_url, resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
}

/// Services of one type, by their names in Envoy's API, and what their methods are of.
const OF_ONE_TYPE: [(&str, &str); 9] = [
    ("cluster.v3.Cluster", "Clusters"),
    ("endpoint.v3.Endpoint", "Endpoints"),
    ("listener.v3.Listener", "Listeners"),
    ("route.v3.Route", "Routes"),
    ("secret.v3.Secret", "Secrets"),
    ("extension.v3.ExtensionConfig", "ExtensionConfigs"),
    ("route.v3.ScopedRoutes", "ScopedRoutes"),
    ("runtime.v3.Runtime", "Runtime"),
    ("route.v3.VirtualHost", "VirtualHosts"),
];

/// 1
#[tokio::test]
async fn each_type_has_a_service_of_its_own_and_the_aggregated_one_in_both_forms() {
    use tonic_prost::ProstCodec;
    let server = server(Limits::default()).await;
    let mut client = tonic::client::Grpc::new(server.channel().await);
    let mut paths = vec![];
    for form in ["Delta", "Stream"] {
        paths.push(format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{form}AggregatedResources"));
        let own = OF_ONE_TYPE.iter();
        paths.extend(own.map(|(service, what)| format!("/envoy.service.{service}DiscoveryService/{form}{what}")));
    }
    // Virtual hosts exist in delta alone.
    paths.retain(|path| !path.ends_with("StreamVirtualHosts"));
    assert_eq!(paths.len(), 2 * (OF_ONE_TYPE.len() + 1) - 1);
    for path in paths {
        client.ready().await.unwrap();
        let requests = tonic::Request::new(tokio_stream::pending::<DeltaDiscoveryRequest>());
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let call = client.streaming(requests, path.parse().unwrap(), codec);
        assert!(timeout(SOON, call).await.expect("in time").is_ok(), "{path}");
    }
}

/// 6
#[tokio::test]
async fn a_node_that_comes_later_is_ignored_and_its_absence_is_normal() {
    let server = server(Limits::default()).await;
    let mut client = server.client("envoy-1", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    let response = client.next().await;
    client.answer(&response, None).await;
    let locality = Some(Locality { sub_zone: "ams".into(), ..Locality::default() });
    let node = Some(Node { id: "another".into(), locality, ..Node::default() });
    let later = DeltaDiscoveryRequest { node, ..ask(ResourceType::Listener, vec![]) };
    client.requests.send(later).await.unwrap();
    assert_eq!(client.next().await.type_url, ResourceType::Listener.url());
    let known: Vec<_> = server.feedback.proxies().into_iter().map(|p| p.id.node.to_string()).collect();
    assert_eq!(known, ["envoy-1"]);
}

/// 9
#[tokio::test]
async fn a_half_closed_stream_ends_well_and_leaves_nothing_behind() {
    let server = server(Limits::default()).await;
    let mut client = server.client("envoy-1", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    client.next().await;
    drop(client.requests);
    let end = timeout(SOON, client.responses.message()).await.expect("in time");
    assert!(end.unwrap().is_none(), "OK");
    server.until(|f| f.proxies().is_empty()).await;
}

/// 15 of the corner cases
#[tokio::test]
async fn streams_that_come_and_go_leave_nothing_and_the_next_is_served() {
    let server = server(Limits::default()).await;
    let mut first = server.client("first", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("0");
    let response = first.next().await;
    first.answer(&response, None).await;
    let channel = server.channel().await;
    for round in 0..300 {
        let mut client = server.client_over(channel.clone(), &format!("envoy-{}", round % 7), "fra").await;
        if round % 3 == 0 {
            client.next().await;
        }
    }
    server.until(|f| f.proxies().len() == 1).await;
    server.publish("1");
    assert_eq!(first.next().await.resources.len(), 1, "who acknowledged is sent what comes next");
}

/// 108, 25 of the corner cases
#[tokio::test]
async fn sixty_thousand_names_of_a_reconnect_are_let_in() {
    let server = server(Limits::default()).await;
    let names: Vec<String> = (0..60_000).map(|n| format!("some-namespace/some-service-{n}:8080")).collect();
    let initial_resource_versions = names.iter().map(|n| (n.clone(), "0123456789abcdef".to_owned())).collect();
    let first = DeltaDiscoveryRequest {
        node: node("envoy-1"),
        initial_resource_versions,
        ..ask(ResourceType::Endpoints, names)
    };
    let bytes = prost::Message::encoded_len(&first);
    assert!(bytes > 4 << 20, "more than gRPC takes by itself: {bytes}");
    let mut client = open(&server, first).await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    let probe = timeout(SOON, server.views.probe()).await.expect("somebody asks");
    server.views.confirmed(probe, true);
    let response = client.next().await;
    assert_eq!((response.removed_resources.len(), response.resources.len()), (60_000, 0));
}

/// 13
#[tokio::test]
async fn two_streams_of_one_node_are_each_served_in_full() {
    let server = server(Limits::default()).await;
    let mut old = server.client("envoy-1", "fra").await;
    timeout(SOON, server.views.interest()).await.unwrap();
    server.publish("one");
    let response = old.next().await;
    old.answer(&response, None).await;
    let mut new = server.client("envoy-1", "fra").await;
    let response = new.next().await;
    assert_eq!(response.resources.len(), 1);
    server.publish("two");
    assert_eq!(old.next().await.resources.len(), 1);
    // The new one has not answered yet: its window for clusters is wider than one.
    assert_eq!(new.next().await.resources.len(), 1);
}
