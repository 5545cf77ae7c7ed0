//! Certificates that change on disk: new handshakes use the new ones, streams live on, what is broken changes nothing.

use std::{fs, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::PrivateKeyDer, pki_types::pem::PemObject,
};
use tempfile::TempDir;
use tokio::{net::TcpStream, runtime::Runtime};
use tokio_rustls::TlsConnector;
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};
use tonic_prost::ProstCodec;

use crate::{
    harness::{Addresses, Tidegate, tidegate, wait_for},
    world::{Machine, SOON},
};

/// The certificate that the xDS port shows to a proxy with an identity of `dir`, or why there is none.
fn shown(control: &Tidegate, ca: &Path, identity: &Path) -> Result<Vec<u8>, String> {
    let pem = |path: &Path| CertificateDer::from_pem_file(path).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(pem(ca)).unwrap();
    let key = PrivateKeyDer::from_pem_file(identity.join("tls.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_client_auth_cert(vec![pem(&identity.join("tls.crt"))], key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = TcpStream::connect(control.xds()).await.map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), socket).await.map_err(|e| e.to_string())?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        // A client learns late whether its own certificate is taken: from HTTP/2's first answer.
        let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
        let request = http::Request::post("https://localhost/").body(()).unwrap();
        let call = async {
            let (response, _) = sender.send_request(request, true).map_err(|error| error.to_string())?;
            response.await.map(|_| certificate).map_err(|error| error.to_string())
        };
        tokio::select! {
            called = call => called,
            ended = connection => Err(format!("{ended:?}")),
        }
    })
}

/// A connection that stands: one that has to be made anew would need a certificate that is trusted then.
struct Standing {
    runtime: Runtime,
    channel: Channel,
}

impl Standing {
    fn open(control: &Tidegate, identity: &Path) -> Self {
        let file = |name: &str| fs::read(identity.join(name)).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(file("ca.crt")))
            .identity(Identity::from_pem(file("tls.crt"), file("tls.key")))
            .domain_name("localhost");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let endpoint = Channel::from_shared(format!("https://{}", control.xds())).unwrap();
        let channel = runtime.block_on(endpoint.tls_config(tls).unwrap().connect()).unwrap();
        Self { runtime, channel }
    }

    fn works(&self) -> bool {
        self.runtime.block_on(async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.unwrap();
            let (path, codec) = ("/no.Such/Method".parse().unwrap(), ProstCodec::<(), ()>::default());
            let answer = client.unary(tonic::Request::new(()), path, codec).await;
            answer.is_err_and(|status| status.code() == Code::Unimplemented)
        })
    }
}

fn certificates(dir: &Path) {
    let dir = dir.to_str().unwrap();
    tidegate(&["dev-certs", dir, "--site", "core1:core", "--control-plane", "cp1"]).ok();
}

/// Replaces a file at once, as whoever rotates certificates should.
fn replace(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    fs::copy(from, &beside).unwrap();
    fs::rename(beside, to).unwrap();
}

#[test]
fn changed_certificates_are_used_within_ten_seconds_and_broken_ones_never() {
    let _machine = Machine::shared();
    let (old, new, live) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    certificates(old.path());
    certificates(new.path());
    let file = |dir: &TempDir, name: &str| dir.path().join("control-plane/cp1").join(name);
    let own = |name: &str| live.path().join(name);
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        fs::copy(file(&old, name), own(name)).unwrap();
    }
    let addresses = Addresses::next();
    let path = |name: &str| own(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    let mut control =
        Tidegate::serve(addresses.take(), "memory", &["--xds-cert", &cert, "--xds-key", &key, "--xds-ca", &ca]);
    let show = |control: &Tidegate, dir: &TempDir| shown(control, &file(dir, "ca.crt"), &dir.path().join("core/core1"));
    let before = show(&control, &old).unwrap();
    let standing = Standing::open(&control, &old.path().join("core/core1"));
    assert!(standing.works());
    assert!(show(&control, &new).is_err(), "an authority that is not trusted yet");

    // Half a file, then a certificate without its key: both are told, neither is used.
    for (broken, word) in [
        (&b"-----BEGIN CERTIFICATE-----\nMIIB"[..], "no certificate"),
        (&fs::read(file(&new, "tls.crt")).unwrap(), "make no TLS"),
    ] {
        fs::write(own("tls.crt"), broken).unwrap();
        wait_for("the log says what is wrong", SOON, || {
            let log = control.process().log();
            if log.contains(word) { Ok(()) } else { Err(log) }
        });
        assert_eq!(show(&control, &old), Ok(before.clone()), "the old one serves on");
    }
    for name in ["tls.key", "ca.crt", "tls.crt"] {
        replace(&file(&new, name), &own(name));
    }
    let after = wait_for("the new certificate and the new authority are used", Duration::from_secs(10), || {
        show(&control, &new)
    });
    assert_ne!(after, before);
    assert!(standing.works(), "connections live on");
    assert!(show(&control, &old).is_err(), "the old authority's proxies are out");
}
