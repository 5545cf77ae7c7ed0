//! `proxy status` and `proxy config`: what proxies have, and what they said about it.

use serde_json::{Value, json};

use super::{
    Failure, Global, Io, Output, ProxyConfigArgs, ProxyStatusArgs,
    client::{Client, call},
    output::{self, Table, warn},
};
use crate::{rpc, xds::ResourceType};

/// `tidegate proxy status`.
pub(crate) async fn status(global: &Global, args: &ProxyStatusArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut client = Client::connect(global).await?;
    let answer = call!(client, global.request_timeout, proxy_status, rpc::ProxyStatusRequest {})?;
    warn(&answer.stale, &answer.unreachable, io.err)?;
    let rpc::ProxyStatusResponse { proxies: mut rows, unreachable, stale, watermarks, standings, .. } = answer;
    let shown = |row: &rpc::ProxyRow| row_json(row, types(row, &standings));
    if let Some(missing) = args.names.iter().find(|name| rows.iter().all(|row| &row.id != *name)) {
        let known = if unreachable.is_empty() { "" } else { " to a replica that answered" };
        return Err(Failure::Failed(format!("no proxy {missing} is connected{known}")));
    }
    rows.retain(|row| args.names.is_empty() || args.names.contains(&row.id));
    match global.output {
        Some(format @ (Output::Json | Output::Yaml)) => {
            let whole = json!({
                "proxies": rows.iter().map(shown).collect::<Vec<_>>(),
                "watermarks": watermarks.iter().map(watermark_json).collect::<Vec<_>>(),
                "unreachable": unreachable,
                "stale": stale,
            });
            match format {
                Output::Json => output::json(&whole, io.out)?,
                _ => io.out.write_all(output::yaml(&whole)?.as_bytes())?,
            }
        }
        Some(Output::Name) => {
            for row in &rows {
                writeln!(io.out, "{}", row.id)?;
            }
        }
        format => {
            if rows.is_empty() {
                writeln!(io.err, "no proxy is connected")?;
            } else {
                status_table(&rows, &standings, format == Some(Output::Wide), io)?;
            }
            if args.names.is_empty() {
                watermark_table(&watermarks, !rows.is_empty(), io)?;
            }
        }
    }
    Ok(())
}

/// How far each site has come, by what the leader has written.
fn watermark_table(watermarks: &[rpc::SiteWatermark], below: bool, io: &mut Io<'_>) -> Result<(), Failure> {
    if watermarks.is_empty() {
        return Ok(());
    }
    if below {
        writeln!(io.out)?;
    }
    let mut table = Table::new(&["SITE", "ACKNOWLEDGED", "BEHIND", "EXCEPT"]);
    for mark in watermarks {
        let behind = match mark.behind {
            _ if !mark.connected => "no gateway".to_owned(),
            0 => "-".to_owned(),
            1 => "1 object".to_owned(),
            n => format!("{n} objects"),
        };
        table.row(vec![mark.site.clone(), mark.revision.to_string(), behind, mark.except.join(",")]);
    }
    Ok(table.print(io.out)?)
}

fn watermark_json(mark: &rpc::SiteWatermark) -> Value {
    json!({
        "site": mark.site, "revision": mark.revision, "except": mark.except, "connected": mark.connected,
        "behind": mark.behind,
    })
}

/// What a proxy has of each type.
fn types<'a>(row: &rpc::ProxyRow, standings: &'a [rpc::ProxyStanding]) -> &'a [rpc::TypeStatus] {
    standings.get(row.standing as usize).map_or(&[], |standing| &standing.types)
}

fn status_table(
    rows: &[rpc::ProxyRow],
    standings: &[rpc::ProxyStanding],
    wide: bool,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let shown = |kind: &ResourceType| {
        let told = |row| types(row, standings).iter().any(|t| t.r#type == kind.short());
        kind.common() || rows.iter().any(told)
    };
    let shown: Vec<_> = ResourceType::ALL.into_iter().filter(shown).map(ResourceType::short).collect();
    let mut headings = vec!["NAME", "SITE", "ROLE", "REPLICA"];
    headings.extend(&shown);
    headings.extend(["CONNECTED", "ERROR"]);
    if wide {
        headings.push("PROVEN");
    }
    let mut table = Table::new(&headings);
    let mut told = Vec::new();
    for row in rows {
        let mut cells = vec![row.id.clone(), row.site.clone(), row.role.clone(), row.replica.clone()];
        let mut faulty = Vec::new();
        for name in shown.iter().copied() {
            let Some(status) = types(row, standings).iter().find(|t| t.r#type == name) else {
                cells.push(String::new());
                continue;
            };
            cells.push(match status.state.as_str() {
                "NOT_SUBSCRIBED" => String::new(),
                state if wide => format!("{state} {}", status.resources),
                state => state.to_owned(),
            });
            if !status.errors.is_empty() {
                faulty.push(name);
            }
            told.extend(status.errors.iter().map(|error| format!("{}: {name}: {}", row.id, error.trim())));
        }
        if row.refused.is_empty() {
            cells.extend([age(row.connected_seconds), faulty.join(",")]);
        } else {
            cells.extend([String::new(), "refused".to_owned()]);
            told.push(format!("{}: refused: {}", row.id, row.refused));
        }
        if wide {
            cells.push(if row.proven { "yes" } else { "no" }.to_owned());
        }
        table.row(cells);
    }
    table.print(io.out)?;
    if !told.is_empty() {
        writeln!(io.out)?;
    }
    for line in told {
        writeln!(io.out, "{}", output::plain(&line))?;
    }
    Ok(())
}

fn row_json(row: &rpc::ProxyRow, types: &[rpc::TypeStatus]) -> Value {
    let types: Vec<Value> = types
        .iter()
        .map(|t| json!({"type": t.r#type, "state": t.state, "resources": t.resources, "errors": t.errors}))
        .collect();
    let mut value = json!({
        "id": row.id, "site": row.site, "role": row.role, "proven": row.proven,
        "connectedSeconds": row.connected_seconds, "types": types, "replica": row.replica,
    });
    if !row.refused.is_empty() {
        value["refused"] = row.refused.clone().into();
    }
    value
}

/// `42s`, `7m`, `5h12m`, `3d4h`: the two greatest units that say something.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if minutes < 2 => format!("{seconds}s"),
        () if hours < 2 => format!("{minutes}m"),
        () if days < 2 => format!("{hours}h{}m", minutes % 60),
        () => format!("{days}d{}h", hours % 24),
    }
}

/// `tidegate proxy config`.
pub(crate) async fn config(global: &Global, args: &ProxyConfigArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let kind = args.kind.as_deref().map(type_name).transpose()?.unwrap_or_default();
    let mut client = Client::connect(global).await?;
    let request = rpc::ProxyConfigRequest { proxy: args.name.clone(), r#type: kind.to_owned() };
    let answer = call!(client, global.request_timeout, proxy_config, request)?;
    warn(&answer.stale, &answer.unreachable, io.err)?;
    let resources = answer.resources;
    match global.output {
        Some(Output::Json) => output::json(&resources.iter().map(resource_json).collect::<Vec<_>>(), io.out)?,
        Some(Output::Yaml) => {
            let documents: Vec<Value> = resources.iter().map(resource_json).collect();
            output::yaml_documents(&documents, io.out)?;
        }
        Some(Output::Name) => {
            for resource in &resources {
                writeln!(io.out, "{}", resource.name)?;
            }
        }
        _ if resources.is_empty() => writeln!(io.err, "{} is served nothing of it", args.name)?,
        _ => {
            let mut table = Table::new(&["TYPE", "NAME", "VERSION"]);
            for resource in resources {
                table.row(vec![resource.r#type, resource.name, resource.version]);
            }
            table.print(io.out)?;
        }
    }
    Ok(())
}

fn resource_json(resource: &rpc::ConfigResource) -> Value {
    let body: Value = serde_json::from_str(&resource.json).unwrap_or_else(|_| resource.json.clone().into());
    json!({"type": resource.r#type, "name": resource.name, "version": resource.version, "resource": body})
}

fn type_name(word: &str) -> Result<&'static str, Failure> {
    if word.eq_ignore_ascii_case("all") {
        return Ok("");
    }
    let known = || ResourceType::ALL.map(|kind| kind.short().to_ascii_lowercase()).join(", ");
    let kind = ResourceType::parse(word);
    kind.map(ResourceType::short)
        .ok_or_else(|| Failure::Usage(format!("{word:?} is no type; there are {} and all", known())))
}
