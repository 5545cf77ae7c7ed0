//! `top`: the load that proxies report.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Failure, Global, Io, Output, TopArgs,
    client::{Client, call},
    output::{self, Table},
};
use crate::rpc;

/// `tidegate top`.
pub(crate) async fn top(global: &Global, args: &TopArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut client = Client::connect(global).await?;
    loop {
        let request = rpc::LoadRequest { site: args.site.clone().unwrap_or_default() };
        let answer = call!(client, global.request_timeout, load, request)?;
        print(global.output, &answer.clusters, io)?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(answer.interval_ms.max(1_000).into())).await;
        if !matches!(global.output, Some(Output::Json | Output::Yaml)) {
            writeln!(io.out)?;
        }
    }
}

fn print(format: Option<Output>, clusters: &[rpc::ClusterLoad], io: &mut Io<'_>) -> Result<(), Failure> {
    match format {
        Some(Output::Json) => output::json(&clusters.iter().map(to_json).collect::<Vec<_>>(), io.out)?,
        Some(Output::Yaml) => {
            output::yaml_documents(&[clusters.iter().map(to_json).collect::<Vec<_>>()], io.out)?;
        }
        Some(Output::Name) => {
            for cluster in clusters {
                writeln!(io.out, "{}", output::plain(&format!("{}/{}", cluster.site, cluster.cluster)))?;
            }
        }
        _ if clusters.is_empty() => writeln!(io.err, "no proxy has reported load yet")?,
        Some(Output::Wide) => by_destination(clusters).print(io.out)?,
        None => by_cluster(clusters).print(io.out)?,
    }
    Ok(())
}

fn by_cluster(clusters: &[rpc::ClusterLoad]) -> Table {
    let mut table = Table::new(&["SITE", "CLUSTER", "REQ/S", "ERR/S", "DROP/S", "ACTIVE", "REQUESTS", "PROXIES"]);
    for cluster in clusters {
        let sum = |value: fn(&rpc::DestinationLoad) -> f64| rate(cluster.destinations.iter().map(value).sum());
        let count = |value: fn(&rpc::DestinationLoad) -> u64| {
            cluster.destinations.iter().map(value).fold(0, u64::saturating_add).to_string()
        };
        table.row(vec![
            cluster.site.clone(),
            cluster.cluster.clone(),
            sum(|d| d.requests_per_second),
            sum(|d| d.errors_per_second),
            rate(cluster.dropped_per_second),
            count(|d| d.in_progress),
            count(|d| d.requests),
            cluster.proxies.to_string(),
        ]);
    }
    table
}

fn by_destination(clusters: &[rpc::ClusterLoad]) -> Table {
    let mut table = Table::new(&["SITE", "ROLE", "CLUSTER", "TO", "REQ/S", "ERR/S", "ACTIVE", "REQUESTS", "ERRORS"]);
    for cluster in clusters {
        for to in &cluster.destinations {
            let place = [&to.region, &to.zone, &to.site].into_iter().filter(|name| !name.is_empty());
            table.row(vec![
                cluster.site.clone(),
                cluster.role.clone(),
                cluster.cluster.clone(),
                place.cloned().collect::<Vec<_>>().join("/"),
                rate(to.requests_per_second),
                rate(to.errors_per_second),
                to.in_progress.to_string(),
                to.requests.to_string(),
                to.errors.to_string(),
            ]);
        }
    }
    table
}

/// Small rates with a digit more.
fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn to_json(cluster: &rpc::ClusterLoad) -> Value {
    let destination = |to: &rpc::DestinationLoad| {
        json!({
            "region": to.region, "zone": to.zone, "site": to.site, "requests": to.requests, "errors": to.errors,
            "inProgress": to.in_progress, "requestsPerSecond": to.requests_per_second,
            "errorsPerSecond": to.errors_per_second,
        })
    };
    json!({
        "site": cluster.site, "role": cluster.role, "cluster": cluster.cluster, "dropped": cluster.dropped,
        "droppedPerSecond": cluster.dropped_per_second, "proxies": cluster.proxies,
        "destinations": cluster.destinations.iter().map(destination).collect::<Vec<_>>(),
    })
}
