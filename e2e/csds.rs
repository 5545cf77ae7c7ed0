//! Client status discovery and reflection on the operators' port, asked as grpcdebug and grpcurl ask.

use std::{collections::BTreeMap, time::Duration};

use envoy_types::pb::envoy::service::status::v3::{
    ClientStatusRequest, ConfigStatus, client_config::GenericXdsConfig,
    client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    harness::{Tidegate, wait_for},
    hostile::{Client, start},
    world::{HTTPS, Machine, SOON, World, certificate_yaml, https_gateway_yaml, route_yaml, service_yaml},
};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Every resource of every proxy, by the proxy's id.
pub(crate) fn ask(control: &Tidegate) -> BTreeMap<String, Vec<GenericXdsConfig>> {
    let answer = runtime().block_on(async {
        let channel = Channel::from_shared(control.api()).unwrap().connect().await.unwrap();
        let mut csds = ClientStatusDiscoveryServiceClient::new(channel);
        csds.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner()
    });
    answer.config.into_iter().map(|client| (client.node.unwrap().id, client.generic_xds_configs)).collect()
}

#[test]
fn what_a_proxy_refuses_is_an_error_in_its_own_words() {
    let _machine = Machine::shared();
    let (_addresses, control) = start();
    let mut client = Client::core(control.xds(), "core-1");
    let name = "shop/first:80";
    let find = || ask(&control).remove("core-1").unwrap_or_default().into_iter().find(|c| c.name == name);
    wait_for("the refused cluster is an error", SOON, || {
        if let Some(Ok(Some(response))) = client.within(Duration::from_millis(200)) {
            client.answer(&response, Some(&format!("{name}: no such thing")));
        }
        match find() {
            Some(config) if config.config_status() == ConfigStatus::Error => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let refused = find().unwrap();
    assert!(refused.error_state.unwrap().details.contains("no such thing"));
    assert!(refused.xds_config.unwrap().type_url.ends_with("config.cluster.v3.Cluster"), "the rejected one is shown");
}

#[test]
fn what_envoys_took_is_synced_and_keys_are_not_shown() {
    let world = World::start("memory");
    let backend = world.backend("b");
    let (certificate, _) = certificate_yaml("shop", "shop.example");
    let gateway = https_gateway_yaml(&[("shop.example", "shop")], &certificate);
    let route = route_yaml("web", "shop.example", "[{backendRefs: [{name: web, port: 80}]}]");
    world.apply(&(gateway + &service_yaml("web", "", &[("core1", &backend)]) + "---\n" + &route));
    let proxies = ask(&world.control);
    assert_eq!(proxies.keys().collect::<Vec<_>>(), ["core1-a", "core2-a", "edge1-a"]);
    for config in proxies.values().flatten() {
        assert_eq!(config.config_status(), ConfigStatus::Synced, "{} {}", config.type_url, config.name);
    }
    let edge = &proxies["edge1-a"];
    assert!(edge.iter().any(|c| c.name == format!("gateway/{HTTPS}")), "{edge:?}");
    let secret = edge.iter().find(|c| c.type_url.ends_with("Secret")).expect("the edge's certificate");
    let text = String::from_utf8_lossy(&secret.xds_config.as_ref().unwrap().value).into_owned();
    assert!(text.contains("BEGIN CERTIFICATE") && text.contains("[redacted]") && !text.contains("PRIVATE"), "{text}");
}

#[test]
fn reflection_names_the_services_of_the_port_and_describes_them() {
    let _machine = Machine::shared();
    let (_addresses, control) = start();
    let reflect = |question: MessageRequest| {
        runtime().block_on(async {
            let channel = Channel::from_shared(control.api()).unwrap().connect().await.unwrap();
            let question = ServerReflectionRequest { message_request: Some(question), ..Default::default() };
            let asked = tokio_stream::once(question);
            let mut answers = ServerReflectionClient::new(channel).server_reflection_info(asked).await.unwrap();
            answers.get_mut().message().await.unwrap().unwrap().message_response.unwrap()
        })
    };
    let MessageResponse::ListServicesResponse(listed) = reflect(MessageRequest::ListServices(String::new())) else {
        panic!("no list")
    };
    let mut services: Vec<_> = listed.service.into_iter().map(|s| s.name).collect();
    services.sort();
    let wanted = [
        "envoy.service.status.v3.ClientStatusDiscoveryService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "tidegate.v1.Operator",
    ];
    assert_eq!(services, wanted);
    for symbol in wanted.into_iter().chain(["envoy.service.status.v3.ClientStatusRequest", "tidegate.v1.ClusterLoad"]) {
        let answer = reflect(MessageRequest::FileContainingSymbol(symbol.to_owned()));
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {answer:?}");
    }
}
