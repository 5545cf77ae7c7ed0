//! scratch
use envoy_types::pb::envoy::service::discovery::v3::{aggregated_discovery_service_server::*, *};
use envoy_types::pb::google::protobuf::Any;
use futures::Stream;
use std::{collections::HashMap, net::SocketAddr, pin::Pin, time::Duration};
use tidegate::{
    compile::{emit, plan::*},
    model::*,
    xds::{Resource, ResourceType},
};
use tonic::{Request, Response, Status, Streaming};
struct Ads(Vec<Resource>);
type S<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = S<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = S<DeltaDiscoveryResponse>;
    async fn stream_aggregated_resources(
        &self,
        r: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let all = self.0.clone();
        let mut input = r.into_inner();
        let (tx, rx) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let mut sent: HashMap<String, Vec<String>> = HashMap::new();
            while let Ok(Some(req)) = input.message().await {
                if let Some(e) = req.error_detail {
                    println!("NACK {} {}", req.type_url, e.message);
                    continue;
                }
                let mut names = req.resource_names.clone();
                names.sort();
                if sent.get(&req.type_url) == Some(&names) {
                    continue;
                }
                sent.insert(req.type_url.clone(), names.clone());
                let resources: Vec<Any> = all
                    .iter()
                    .filter(|x| {
                        x.kind.url() == req.type_url && (names.is_empty() || names.contains(&x.name.to_string()))
                    })
                    .map(|x| Any { type_url: req.type_url.clone(), value: x.payload.to_vec() })
                    .collect();
                let _ = tx
                    .send(Ok(DiscoveryResponse {
                        version_info: "1".into(),
                        nonce: "n".into(),
                        resources,
                        type_url: req.type_url,
                        ..Default::default()
                    }))
                    .await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(rx))))
    }
    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
fn o(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, "shop", name)
}
fn target(n: &str, class: TrafficClass) -> ServiceTarget {
    ServiceTarget {
        source: o(Kind::Service, n),
        service: format!("shop/{n}:80"),
        group: "backbone/-/ams+fra".into(),
        traffic_class: class,
        request_timeout: None,
    }
}
fn hc(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderChange {
    let p = |x: &[(&str, &str)]| x.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    HeaderChange { set: p(set), add: p(add), remove: remove.iter().map(|s| s.to_string()).collect() }
}
fn rt(path: PathMatch, filters: Vec<Filter>, backs: &[(&str, u32)]) -> RoutePlan {
    RoutePlan {
        source: o(Kind::HttpRoute, "web"),
        contribution: 7,
        section: "rule-0".into(),
        matching: RouteMatch { path, headers: vec![], query_params: vec![], method: None },
        filters,
        mirrors: vec![],
        backends: backs
            .iter()
            .map(|(n, w)| BackendPlan {
                weight: *w,
                request_headers: vec![],
                response_headers: vec![],
                target: (!n.is_empty()).then(|| target(n, TrafficClass::Api)),
            })
            .collect(),
        request_timeout: None,
        backend_request_timeout: None,
    }
}
fn spec() -> ServiceSpec {
    ServiceSpec {
        ports: vec![],
        traffic_class: TrafficClass::Web,
        load_balancing: LbPolicy::LeastRequest,
        health_check: None,
        outlier_detection: None,
        circuit_breakers: Default::default(),
        connect_timeout: Duration::from_secs(1),
        idle_connection_timeout: Duration::from_secs(4),
        request_timeout: None,
        tls: None,
    }
}
fn svc(n: &str, s: ServiceSpec, p: AppProtocol) -> Resource {
    emit::service_cluster(&ServiceClusterPlan {
        name: format!("shop/{n}:80"),
        source: o(Kind::Service, n),
        spec: s,
        port: ServicePort { name: "".into(), port: 80, app_protocol: p },
    })
}
fn eps(n: &str, site: &str, at: &[&str]) -> Resource {
    emit::service_endpoints(&EndpointsPlan {
        name: format!("shop/{n}:80"),
        region: "eu".into(),
        zone: "".into(),
        site: site.into(),
        endpoints: at.iter().map(|a| (a.parse().unwrap(), 1)).collect(),
        sources: vec![],
    })
}
fn pre(s: &str) -> PathMatch {
    PathMatch::Prefix(s.into())
}
#[tokio::main]
async fn main() {
    let redirect = |scheme: Option<&str>, hostname: Option<&str>, path: Option<PathRewrite>, port, status_code| {
        vec![Filter::Redirect(RedirectFilter {
            scheme: scheme.map(Into::into),
            hostname: hostname.map(Into::into),
            path,
            port,
            status_code,
        })]
    };
    let rw = |hostname: Option<&str>, path| {
        vec![Filter::Rewrite(RewriteFilter { hostname: hostname.map(Into::into), path })]
    };
    let mut mirrored = rt(pre("/mirror"), vec![], &[("web", 1)]);
    mirrored.mirrors.push(target("mirror", TrafficClass::Web));
    let mut hdr = rt(
        pre("/hdr"),
        vec![
            Filter::RequestHeaders(hc(
                &[("x-a", "100%REQ(:path)%"), ("x-tidegate-service", "other/secret:80")],
                &[("x-b", "2")],
                &["x-c"],
            )),
            Filter::ResponseHeaders(hc(&[("x-r", "50%")], &[], &["x-backend"])),
        ],
        &[("web", 1)],
    );
    hdr.backends[0].request_headers.push(hc(&[], &[], &["x-a"]));
    hdr.backends[0].response_headers.push(hc(&[("x-r2", "b")], &[], &[]));
    let mut hm = rt(pre("/match"), vec![], &[("web", 1)]);
    hm.matching.method = Some("POST".into());
    hm.matching.headers.push(HeaderMatch { name: "x-v".into(), value: StringMatch::Regex("[0-9]+".into()) });
    hm.matching.query_params.push(HeaderMatch { name: "q".into(), value: StringMatch::Exact("1".into()) });
    let mut slow = rt(pre("/slow"), vec![], &[("web", 1)]);
    slow.request_timeout = Some(Duration::from_millis(300));
    slow.backend_request_timeout = Some(Duration::from_millis(200));
    let routes = vec![
        mirrored,
        hdr,
        hm,
        slow,
        rt(
            PathMatch::Exact("/exact".into()),
            rw(Some("new.host"), Some(PathRewrite::Full("/full\\1".into()))),
            &[("web", 1)],
        ),
        rt(PathMatch::Regex("/re[x]+".into()), vec![], &[("web", 1)]),
        rt(pre("/strip.x"), rw(None, Some(PathRewrite::Prefix("/".into()))), &[("web", 1)]),
        rt(pre("/xyz"), rw(None, Some(PathRewrite::Prefix("/abc/".into()))), &[("web", 1)]),
        rt(pre("/onlyb"), vec![], &[("onlyb", 1)]),
        rt(pre("/nocluster"), vec![], &[("nocluster", 1)]),
        rt(pre("/down"), vec![], &[("down", 1)]),
        rt(pre("/dead"), vec![], &[("dead", 1)]),
        rt(pre("/zero"), vec![], &[("web", 0)]),
        rt(pre("/half"), vec![], &[("web", 1), ("", 1)]),
        rt(pre("/none"), vec![], &[]),
        rt(pre("/r1"), redirect(Some("https"), None, None, None, 301), &[]),
        rt(pre("/r2"), redirect(None, Some("other.example"), Some(PathRewrite::Full("/new".into())), None, 302), &[]),
        rt(pre("/r3"), redirect(None, None, Some(PathRewrite::Prefix("/".into())), None, 302), &[]),
        rt(pre("/r4"), redirect(Some("http"), None, Some(PathRewrite::Prefix("/p".into())), Some(8443), 302), &[]),
        rt(pre("/"), vec![], &[("web", 1)]),
    ];
    let entry = emit::Entry { port: 18080, tls: false };
    let h1 = emit::virtual_host(
        &VirtualHostPlan {
            name: "shop.example".into(),
            domains: vec!["shop.example".into()],
            answer: HostAnswer::Routes(routes.clone()),
        },
        entry,
    );
    let h2 = emit::virtual_host(
        &VirtualHostPlan {
            name: "*.wild.example".into(),
            domains: vec!["*.wild.example".into()],
            answer: HostAnswer::Routes(routes),
        },
        entry,
    );
    let h3 = emit::virtual_host(
        &VirtualHostPlan {
            name: "mis.example".into(),
            domains: vec!["mis.example".into()],
            answer: HostAnswer::Misdirected,
        },
        entry,
    );
    let site = |n: &str, gw: &str, km| GroupSite {
        source: ObjectRef::new(Kind::Site, "", n),
        region: "eu".into(),
        zone: "".into(),
        gateways: vec![gw.parse().unwrap()],
        km: Some(km),
        health_check_interval: Duration::from_secs(1),
    };
    let group = GroupPlan {
        name: "backbone/-/ams+fra".into(),
        sites: vec![site("fra", "127.0.0.2:18443", 500), site("ams", "127.0.0.3:18443", 700)],
    };
    let none = GroupPlan { name: "backbone/-/none".into(), sites: vec![] };
    let cert = CertificateSpec {
        certificate_chain: std::fs::read_to_string(".tools/run/site.pem").unwrap(),
        private_key: Redacted::new(std::fs::read_to_string(".tools/run/site.key").unwrap()),
    };
    let edge = vec![
        emit::edge_listener(&ListenerPlan {
            name: "gateway/18080".into(),
            bind: "127.0.0.1".parse().unwrap(),
            port: 18080,
            shape: ListenerShape::Http { route_configuration: "http/18080".into() },
            sources: vec![],
        }),
        emit::edge_listener(&ListenerPlan {
            name: "gateway/18444".into(),
            bind: "127.0.0.1".parse().unwrap(),
            port: 18444,
            shape: ListenerShape::Https {
                chains: vec![
                    ChainPlan {
                        hostname: Some("shop.example".into()),
                        secrets: vec!["shop/cert".into()],
                        route_configuration: "http/18080".into(),
                    },
                    ChainPlan {
                        hostname: None,
                        secrets: vec!["shop/cert".into()],
                        route_configuration: "http/18080".into(),
                    },
                ],
            },
            sources: vec![],
        }),
        emit::route_configuration("http/18080", &[h1, h2, h3]),
        emit::group_cluster(&group, "tidegate.local"),
        emit::group_endpoints(&group),
        emit::group_cluster(&none, "tidegate.local"),
        emit::group_endpoints(&none),
        emit::secret("shop/cert", &cert, &o(Kind::Certificate, "cert")),
    ];
    let full = ServiceSpec {
        health_check: Some(HealthCheck {
            path: "/h".into(),
            host: "".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }),
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
        }),
        tls: Some(UpstreamTls {
            server_name: "b.example".into(),
            ca_certificates: std::fs::read_to_string(".tools/run/ca.pem").unwrap(),
        }),
        load_balancing: LbPolicy::Random,
        ..spec()
    };
    let sys = ServiceSpec {
        tls: Some(UpstreamTls { server_name: "b.example".into(), ca_certificates: "".into() }),
        load_balancing: LbPolicy::RoundRobin,
        ..spec()
    };
    let core = |site: &str, bind: &str, back: &str| {
        let a = site == "fra";
        let mut r = vec![
            emit::core_listener(&CoreListenerPlan {
                source: ObjectRef::new(Kind::Site, "", site),
                bind: bind.parse().unwrap(),
                port: 18443,
                trust_domain: "tidegate.local".into(),
            }),
            emit::core_route_configuration(),
        ];
        for n in ["web", "mirror", "onlyb", "down", "dead"] {
            r.push(svc(n, spec(), AppProtocol::Http));
        }
        r.push(svc("full", full.clone(), AppProtocol::H2c));
        r.push(eps("full", site, &[back]));
        r.push(svc("sys", sys.clone(), AppProtocol::Http));
        r.push(eps("sys", site, &[]));
        if !a {
            r.push(svc("nocluster", spec(), AppProtocol::Http));
            r.push(eps("nocluster", site, &[back]));
        }
        r.push(eps("web", site, &[back]));
        r.push(eps("mirror", site, &["127.0.0.1:18091"]));
        r.push(eps("onlyb", site, if a { &[] } else { std::slice::from_ref(&back) }));
        r.push(eps("down", site, if a { &["127.0.0.1:1"] } else { std::slice::from_ref(&back) }));
        r.push(eps("dead", site, &["127.0.0.1:1"]));
        r
    };
    for r in &edge {
        assert!(r.name.len() > 0);
        if r.kind == ResourceType::Route {
            println!("{r:?} requires {:?} sources {:?}", r.requires, r.sources);
        }
    }
    let serve = |at: &str, r: Vec<Resource>| {
        tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(Ads(r)))
            .serve(at.parse::<SocketAddr>().unwrap())
    };
    let _ = tokio::join!(
        serve("127.0.0.1:19000", edge),
        serve("127.0.0.1:19001", core("fra", "127.0.0.2", "127.0.0.1:18090")),
        serve("127.0.0.1:19002", core("ams", "127.0.0.3", "127.0.0.1:18092"))
    );
}
