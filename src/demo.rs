//! A small edge on this machine: control plane, one edge Envoy, two core Envoys, back ends; one request through it,
//! and one change going live.

mod parts;

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

use crate::{
    app::App,
    cli::DemoArgs,
    rpc::{self, operator_client::OperatorClient},
};
use parts::{Backends, Envoys};

/// The edge's port.
const PORT: u16 = 8080;
/// How long everything may take to come up.
const START: Duration = Duration::from_secs(60);
/// How long one change may take to go live.
const LIVE: Duration = Duration::from_secs(30);

/// Runs the demo until Ctrl-C, or with `once` to the end of its tour.
///
/// # Errors
/// In words: a port that is taken, an Envoy that is not there or does not start, a change that does not go live.
pub async fn run(args: DemoArgs, out: &mut dyn Write) -> Result<()> {
    let envoy = parts::find_envoy(args.envoy)?;
    let (dir, own) = match args.dir {
        Some(dir) => (dir, false),
        None => (std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id())), true),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let told = tour(&dir, envoy, args.once, out).await;
    if own {
        // Left behind it would only be litter; that it cannot be removed is no failure of the demo.
        drop(std::fs::remove_dir_all(&dir));
    }
    told
}

async fn tour(dir: &std::path::Path, envoy: PathBuf, once: bool, out: &mut dyn Write) -> Result<()> {
    parts::make_certificates(dir)?;
    let app = App::start(&parts::serve_args(dir)?).await?;
    let backends = Backends::start().await?;
    let mut client = OperatorClient::connect(format!("http://{}", app.api)).await?;
    writeln!(out, "control plane  http://{} (operators), {} (Envoys)", app.api, app.xds)?;
    apply(&mut client, parts::setup_yaml(&backends, PORT)).await?;
    apply(&mut client, parts::route_yaml("hello", &[("hello", 1)])).await?;
    let mut envoys = Envoys::start(&envoy, dir, app.xds)?;
    for (name, log) in envoys.logs() {
        writeln!(out, "Envoy {name:<8}  log {}", log.display())?;
    }
    let url = format!("http://127.0.0.1:{PORT}/");
    let answer = first_answer(&mut envoys).await?;
    writeln!(out, "\n$ curl -H 'Host: hello.example' {url}\n{answer}")?;

    writeln!(out, "\nThe route now names another service:")?;
    let start = Instant::now();
    let revision = apply(&mut client, parts::route_yaml("hello", &[("goodbye", 1)])).await?;
    let waited = client
        .wait(rpc::WaitRequest {
            objects: vec![parts::route_ref("hello")],
            revision,
            timeout_ms: u32::try_from(LIVE.as_millis())?,
        })
        .await?
        .into_inner();
    if !waited.programmed {
        bail!("the change did not go live within {LIVE:?}: {:?} {:?}", waited.laggards, waited.problems);
    }
    writeln!(out, "live on every proxy in {} ms", start.elapsed().as_millis())?;
    let answer = parts::curl(PORT, "hello.example").await?;
    writeln!(out, "\n$ curl -H 'Host: hello.example' {url}\n{answer}")?;
    if !answer.contains("goodbye") {
        bail!("the proxies acknowledged the change, but the edge still answers {answer:?}");
    }
    if !once {
        writeln!(out, "\nTry: tidegate proxy status. Ctrl-C ends it.")?;
        tokio::signal::ctrl_c().await?;
    }
    drop(envoys);
    app.stop().await
}

/// Applies a manifest and gives the revision of the write.
async fn apply(client: &mut OperatorClient<tonic::transport::Channel>, text: String) -> Result<u64> {
    let source = rpc::ManifestSource { name: "demo".into(), text };
    let answer = client.apply(rpc::ApplyRequest { sources: vec![source], dry_run: false }).await?.into_inner();
    match answer.faults.first() {
        None => Ok(answer.revision),
        Some(fault) => bail!("demo:{}:{}: {}", fault.line, fault.column, fault.message),
    }
}

/// The first answer that came from a back end.
async fn first_answer(envoys: &mut Envoys) -> Result<String> {
    let end = Instant::now() + START;
    loop {
        let last = match parts::curl(PORT, "hello.example").await {
            Ok(answer) if answer.contains("hello from") => return Ok(answer),
            Ok(answer) => answer,
            Err(error) => format!("{error:#}"),
        };
        envoys.check()?;
        if Instant::now() > end {
            bail!("no answer came through within {START:?}; the last try: {last}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
