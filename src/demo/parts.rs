//! What the demo is made of.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use axum::{Router, routing::any};
use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

use crate::{
    cli::{Cli, Command as CliCommand, ServeArgs},
    model::Role,
    rpc,
};

/// (site, role, address of its listeners), one Envoy each.
const SITES: [(&str, Role, &str); 3] =
    [("edge1", Role::Edge, "127.0.0.1"), ("core1", Role::Core, "127.0.0.2"), ("core2", Role::Core, "127.0.0.3")];
/// Services, each with a back end at both cores.
const SERVICES: [&str; 2] = ["hello", "goodbye"];

/// The Envoy to run: the one named, the project's own, or the first on the PATH.
pub(super) fn find_envoy(named: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path);
    }
    let own = std::env::current_dir()?.join(".tools/bin/envoy");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(own).chain(std::env::split_paths(&paths).map(|dir| dir.join("envoy")));
    found
        .into_iter()
        .find(|path| path.is_file())
        .context("no Envoy: run `make setup` in the project's folder, or name one with --envoy")
}

/// Certificates of the sites and the control plane below `dir/certs`.
pub(super) fn make_certificates(dir: &Path) -> Result<()> {
    let sites: Vec<(Role, String)> = SITES.iter().map(|(name, role, _)| (*role, (*name).to_owned())).collect();
    crate::certs::dev_certs(
        &dir.join("certs"),
        "tidegate.local",
        &sites,
        &[],
        &[("cp1".to_owned(), vec!["127.0.0.1".to_owned()])],
    )?;
    Ok(())
}

/// The control plane's settings, as the command line would give them.
pub(super) fn serve_args(dir: &Path) -> Result<ServeArgs> {
    let identity = dir.join("certs/control-plane/cp1");
    let store = format!("embedded:{}", dir.join("store.redb").display());
    let file = |name: &str| identity.join(name).display().to_string();
    let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
    let line = ["tidegate", "serve", "--replica", "cp1", "--store", &store];
    let tls = ["--xds-cert", &cert, "--xds-key", &key, "--xds-ca", &ca];
    match Cli::try_parse_from(line.into_iter().chain(tls))?.command {
        CliCommand::Serve(args) => Ok(*args),
        _ => bail!("`serve` was read as another command"),
    }
}

/// Back ends in this process.
pub(super) struct Backends {
    /// (service, site, address).
    addresses: Vec<(&'static str, &'static str, SocketAddr)>,
    _tasks: JoinSet<()>,
}

impl Backends {
    /// Starts one for each service at each core.
    pub(super) async fn start() -> Result<Self> {
        let mut addresses = Vec::new();
        let mut tasks = JoinSet::new();
        for (site, _, _) in SITES.iter().filter(|(_, role, _)| *role == Role::Core) {
            for service in SERVICES {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                addresses.push((service, *site, listener.local_addr()?));
                let answer = format!("{service} from {site}\n");
                let router = Router::new().fallback(any(move || async move { answer }));
                tasks.spawn(async move {
                    // It ends with the demo; a connection that fails is the client's to notice.
                    drop(axum::serve(listener, router).await);
                });
            }
        }
        Ok(Self { addresses, _tasks: tasks })
    }
}

/// Sites, services, endpoints and the Gateway.
pub(super) fn setup_yaml(backends: &Backends, port: u16) -> String {
    let mut yaml = String::new();
    for (index, (name, role, ip)) in SITES.iter().enumerate() {
        let gateways = if *role == Role::Core { format!(", gateways: ['{ip}:15443']") } else { String::new() };
        yaml.push_str(&format!(
            "apiVersion: tidegate.dev/v1alpha1\nkind: Site\nmetadata: {{name: {name}}}\nspec: {{role: {}, region: demo, \
             coordinates: {{latitude: 50.1, longitude: {index}}}, bindAddress: {ip}{gateways}}}\n---\n",
            role.as_str()
        ));
    }
    for service in SERVICES {
        yaml.push_str(&format!(
            "apiVersion: tidegate.dev/v1alpha1\nkind: Service\nmetadata: {{name: {service}}}\n\
             spec: {{ports: [{{port: 80}}]}}\n---\n"
        ));
    }
    for (service, site, address) in &backends.addresses {
        yaml.push_str(&format!(
            "apiVersion: tidegate.dev/v1alpha1\nkind: EndpointSet\nmetadata: {{name: {service}-{site}}}\n\
             spec: {{service: {service}, site: {site}, endpoints: [{{address: '{address}'}}]}}\n---\n"
        ));
    }
    yaml.push_str(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: web}}\n\
         spec: {{gatewayClassName: tidegate, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}\n"
    ));
    yaml
}

/// The route `name` of host `name.example` to these services, by weight.
pub(super) fn route_yaml(name: &str, services: &[(&str, u32)]) -> String {
    let backends: Vec<String> =
        services.iter().map(|(service, weight)| format!("{{name: {service}, port: 80, weight: {weight}}}")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{name: web}}], hostnames: [{name}.example], rules: [{{backendRefs: [{}]}}]}}\n",
        backends.join(", ")
    )
}

/// Names the route on the wire.
pub(super) fn route_ref(name: &str) -> rpc::ObjectRef {
    rpc::ObjectRef { kind: "HTTPRoute".into(), namespace: "default".into(), name: name.into() }
}

/// The Envoys; they die with this.
pub(super) struct Envoys {
    children: Vec<(&'static str, Child, PathBuf)>,
}

impl Envoys {
    /// Starts one for each site.
    pub(super) fn start(envoy: &Path, dir: &Path, xds: SocketAddr) -> Result<Self> {
        let mut children = Vec::new();
        for (site, role, _) in SITES {
            let home = dir.join("certs").join(role.as_str()).join(site);
            let line = [
                "tidegate",
                "proxy",
                "bootstrap",
                "--site",
                site,
                "--id",
                site,
                "--server",
                &xds.to_string(),
                "--role",
                role.as_str(),
                "--ca",
                "ca.crt",
                "--cert",
                "tls.crt",
                "--key",
                "tls.key",
                "--admin-port",
                "0",
            ];
            let CliCommand::Proxy(crate::cli::ProxyCommand::Bootstrap(args)) = Cli::try_parse_from(line)?.command
            else {
                bail!("`proxy bootstrap` was read as another command");
            };
            std::fs::write(home.join("envoy.yaml"), crate::app::bootstrap_yaml(&args)?)?;
            let log = dir.join(format!("{site}.log"));
            let file = File::create(&log)?;
            let child = Command::new(envoy)
                .args(["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "10"])
                .args(["-l", "warning"])
                .current_dir(&home)
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("cannot start {}", envoy.display()))?;
            children.push((site, child, log));
        }
        Ok(Self { children })
    }

    /// The site of each and the file that it logs to.
    pub(super) fn logs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.children.iter().map(|(site, _, log)| (*site, log.as_path()))
    }

    /// Fails when one has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        for (site, child, log) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(3).collect();
                bail!("the Envoy of {site} ended with {status}: {}", last.join(" | "));
            }
        }
        Ok(())
    }
}

/// What the edge answers to a GET of `/` for `host`: the body, or the status line of a refusal.
pub(super) async fn curl(port: u16, host: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await.context("no answer within 5 s")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    Ok(if status.contains(" 200 ") { body.trim().to_owned() } else { status.to_owned() })
}
