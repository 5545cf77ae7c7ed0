//! Connections that say nothing, or too little, or come in too great a number, or with the wrong certificate.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use tempfile::TempDir;
use tokio::{net::TcpSocket, time::timeout};
use tokio_stream::StreamExt;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Error, Identity};

use super::{SLACK, Target, rest};
use crate::{
    harness::wait_for,
    hostile::{CLUSTER, ask, node},
    world::Machine,
};

/// The xDS port gives up on a silent connection after this.
const SILENCE: Duration = Duration::from_secs(5);

#[test]
fn five_thousand_silent_connections_are_gone_in_five_seconds() {
    let _machine = Machine::shared();
    let mut target = Target::start(&["--max-connections-per-address", "6000"]);
    let base = target.open_files();
    let mut sockets: Vec<_> = (0..5_000).map(|_| target.connect()).collect();
    let last = Instant::now();
    target.still_serves("meanwhile");
    let alive = sockets.iter_mut().filter_map(|socket| (!rest(socket, last + SILENCE + SLACK).1).then_some(())).count();
    assert_eq!(alive, 0, "{:?} after the last came", last.elapsed());
    wait_for("nothing is left of them", SLACK, || match target.open_files() {
        now if now <= base + 5 => Ok(()),
        now => Err(format!("{now} open files, {base} before")),
    });
}

#[test]
fn one_address_gets_no_more_than_its_share() {
    let _machine = Machine::shared();
    let target = Target::start(&["--max-connections-per-address", "3"]);
    let held: Vec<_> = (0..3).map(|_| target.connect()).collect();
    assert_eq!(rest(&mut target.connect(), Instant::now() + SLACK), (vec![], true), "the fourth is closed at once");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 99], 0))).unwrap();
        let socket = socket.connect(target.control.xds()).await.unwrap();
        h2::client::handshake(socket).await.is_ok()
    });
    assert!(served, "another address has its own");
    drop(held);
    wait_for("the places are free again", SLACK, || {
        let (_, ended) = rest(&mut target.connect(), Instant::now() + Duration::from_millis(200));
        if ended { Err("closed") } else { Ok(()) }
    });
}

#[test]
fn half_a_handshake_and_a_byte_now_and_then_are_cut_off() {
    let _machine = Machine::shared();
    let authority = Authority::new();
    let (dir, plain) = (TempDir::new().unwrap(), Target::start(&[]));
    let secure = authority.target(dir.path());
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and no more of it";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // Who, what it sends at once, what it sends byte by byte.
    let cases: [(&Target, &[u8], &[u8]); 5] = [
        (&secure, b"", b""),
        (&secure, hello, b""),
        (&secure, &hello[..5], &hello[5..]),
        (&plain, &preface[..23], b""),
        (&plain, b"", &preface[..23]),
    ];
    std::thread::scope(|scope| {
        for (target, head, rest_of_it) in cases {
            scope.spawn(move || {
                let (mut socket, begin) = (target.connect(), Instant::now());
                socket.write_all(head).unwrap();
                for byte in rest_of_it {
                    std::thread::sleep(Duration::from_millis(400));
                    if socket.write_all(&[*byte]).is_err() {
                        break;
                    }
                }
                let (_, ended) = rest(&mut socket, begin + SILENCE + SLACK);
                assert!(ended, "{:?} then {:?}", head, rest_of_it);
            });
        }
    });
    plain.still_serves("after");
}

/// An authority of our own, for certificates that `dev-certs` would not make.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, names: &[&str], (from, to): (i32, i32)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        for name in names {
            params.subject_alt_names.push(match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A control plane that demands certificates of this authority.
    fn target(&self, dir: &Path) -> Target {
        let (cert, key) = self.issue(&["localhost"], (2020, 2100));
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (cert, key, ca) = (write("tls.crt", &cert), write("tls.key", &key), write("ca.crt", &self.pem));
        Target::start(&["--xds-cert", &cert, "--xds-key", &key, "--xds-ca", &ca])
    }

    /// A connection with that certificate, as far as the client can tell.
    async fn channel(&self, target: &Target, identity: Option<(String, String)>) -> Result<Channel, Error> {
        let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.pem)).domain_name("localhost");
        let tls = match identity {
            Some((cert, key)) => trust.identity(Identity::from_pem(cert, key)),
            None => trust,
        };
        let endpoint = Channel::from_shared(format!("https://{}", target.control.xds())).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await
    }

    /// Whether a handshake with that certificate leads to a connection that can be used.
    fn admits(&self, target: &Target, identity: Option<(String, String)>) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // TLS 1.3 tells a client late that its certificate is not taken: at the first call.
            let Ok(channel) = self.channel(target, identity).await else { return false };
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.is_ok()
                && client
                    .unary(
                        tonic::Request::new(()),
                        "/no.Such/Method".parse().unwrap(),
                        tonic_prost::ProstCodec::<(), ()>::default(),
                    )
                    .await
                    .is_err_and(|status| status.code() == tonic::Code::Unimplemented)
        })
    }
}

#[test]
fn a_wrong_certificate_gets_no_connection() {
    let _machine = Machine::shared();
    let (dir, authority, other) = (TempDir::new().unwrap(), Authority::new(), Authority::new());
    let target = authority.target(dir.path());
    let core = ["spiffe://tidegate.local/core/core1"];
    let always = (2020, 2100);
    assert!(authority.admits(&target, Some(authority.issue(&core, always))), "a right one does");
    for (what, identity) in [
        ("none", None),
        ("another authority's", Some(other.issue(&core, always))),
        ("expired", Some(authority.issue(&core, (2020, 2021)))),
        ("not valid yet", Some(authority.issue(&core, (2090, 2100)))),
    ] {
        assert!(!authority.admits(&target, identity), "{what}");
    }
    let listed = target.control.run(&["proxy", "status"]);
    assert!(listed.stdout.is_empty(), "nobody came as far as a name: {listed:?}");
}

#[test]
fn a_certificate_with_a_wrong_name_gets_silence_and_is_named() {
    let _machine = Machine::shared();
    let (dir, authority) = (TempDir::new().unwrap(), Authority::new());
    let target = authority.target(dir.path());
    let names: [&[&str]; 9] = [
        &["core1"],
        &["spiffe://tidegate.local/core/core1", "spiffe://tidegate.local/core/core2"],
        &["spiffe://tidegate.localhost/core/core1"],
        &["spiffe://TIDEGATE.local/core/core1"],
        &["spiffe://tidegate%2Elocal/core/core1"],
        &["spiffe://*/core/core1"],
        &["spiffe://tidegate.local/core/../core/core1"],
        &["spiffe://tidegate.local/edge/core1"],
        &["spiffe://tidegate.local/operator/ann"],
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut streams: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, names)| {
            runtime.block_on(async {
                let channel = authority.channel(&target, Some(authority.issue(names, (2020, 2100)))).await.unwrap();
                let first = DeltaDiscoveryRequest { node: node("core1", &format!("proxy-{n}")), ..ask(CLUSTER, &[]) };
                let requests = tokio_stream::once(first).chain(tokio_stream::pending());
                let mut ads = AggregatedDiscoveryServiceClient::new(channel);
                ads.delta_aggregated_resources(requests).await.unwrap().into_inner()
            })
        })
        .collect();
    wait_for("every one is named, with the reason", SLACK, || {
        let status = target.control.run(&["proxy", "status"]).stdout;
        match status.matches(": refused: ").count() {
            count if count == names.len() => Ok(()),
            _ => Err(status),
        }
    });
    for (names, stream) in names.iter().zip(&mut streams) {
        let heard = runtime.block_on(async { timeout(Duration::from_millis(100), stream.message()).await });
        assert!(heard.is_err(), "{names:?} is told {heard:?}");
    }
}
