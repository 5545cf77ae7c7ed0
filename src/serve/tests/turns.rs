//! Whose turns a connection's large responses take: those of the site that it is of, not of one that it names.

use http_body_util::BodyExt;
use prost::Message;
use tonic::codegen::Service as _;

use super::*;
use crate::{identity::Peer, serve::intake::Arrival};

/// What is known of a connection once it has sent its first request.
async fn arrives(known: &[&str], spiffe: Option<&str>, claim: &str) -> Arrival {
    let locality = Some(Locality { sub_zone: claim.into(), ..Locality::default() });
    let node = Some(Node { id: "envoy-1".into(), locality, ..Node::default() });
    let first = DeltaDiscoveryRequest { node, ..DeltaDiscoveryRequest::default() }.encode_to_vec();
    let prefix = [&[0][..], &u32::try_from(first.len()).unwrap().to_be_bytes()].concat();
    let requests =
        futures::stream::iter([Ok::<_, tonic::Status>(http_body::Frame::data([prefix, first].concat().into()))]);
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(requests));
    let path = "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters";
    let mut request = http::Request::post(path).body(body).unwrap();
    let arrival = Arrival::default();
    request.extensions_mut().insert(arrival.clone());
    request.extensions_mut().insert(Peer { spiffe: spiffe.map(Into::into), loopback: true });
    let (_watched, sites) = watch::channel(sites(known));
    let (_said, watermarks) = watch::channel(Arc::default());
    let (_freshness, fresh) = watch::channel(true);
    let mut routes = service::routes(Shared {
        views: Arc::default(),
        feedback: Arc::default(),
        fleet: Fleet { sites, watermarks, fresh },
        identifier: "replica-1".into(),
        allow_unproven: false,
        cancel: CancellationToken::new(),
    });
    let mut response = routes.call(request).await.unwrap();
    // The stream runs in its response, up to the end of its requests.
    timeout(SOON, response.frame()).await.expect("in time");
    arrival
}

#[tokio::test]
async fn turns_are_of_the_site_that_is_proven_or_believed_and_a_mere_claim_takes_none() {
    let own = Some("spiffe://tidegate.local/edge/fra");
    for (spiffe, claim, site) in [(own, "fra", "fra"), (own, "ams", ""), (None, "ams", "ams"), (None, "gone", "")] {
        let arrival = arrives(&["fra", "ams"], spiffe, claim).await;
        assert_eq!(&*arrival.site(), site, "{spiffe:?} claims {claim}");
    }
}
