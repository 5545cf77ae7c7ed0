//! `get`, `delete`, `version`.

use serde_json::{Value, json};

use super::{
    DeleteArgs, Failure, GetArgs, Global, Io, Output,
    client::{Client, call},
    local, output,
    output::Table,
    read_sources,
    summary::{self, Summary, items, text},
    target,
};
use crate::rpc;

/// `tidegate get`.
pub(crate) async fn get(global: &Global, args: &GetArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let targets = target::parse(&args.targets)?;
    let namespace = if args.all_namespaces { "" } else { args.namespace.namespace.as_str() };
    let single = matches!(targets.as_slice(), [one] if !one.name.is_empty());
    if args.all_namespaces && targets.iter().any(|t| !t.name.is_empty()) {
        return Err(Failure::Usage("a name belongs to one namespace: leave -A out".to_owned()));
    }
    let mut client = Client::connect(global).await?;
    let mut objects = Vec::new();
    for target in &targets {
        let request = rpc::GetRequest {
            kind: target.kind.map(|k| k.to_string()).unwrap_or_default(),
            namespace: target.namespace_or(namespace).to_owned(),
            name: target.name.clone(),
        };
        let answer = call!(client, global.request_timeout, get, request)?;
        output::warn(&answer.stale, &answer.unreachable, io.err)?;
        let found = answer.objects;
        if found.is_empty() && !target.name.is_empty() {
            let missing = target::path(&target.object(namespace)?);
            return Err(Failure::Failed(format!("{missing} not found")));
        }
        objects.extend(found);
    }
    match global.output {
        Some(Output::Json) if single => {
            for object in &objects {
                output::json(&summary::with_status(object), io.out)?;
            }
        }
        Some(Output::Json) => {
            let items: Vec<Value> = objects.iter().map(summary::with_status).collect();
            output::json(&json!({"apiVersion": "v1", "kind": "List", "items": items}), io.out)?;
        }
        Some(Output::Yaml) => {
            let items: Vec<Value> = objects.iter().map(summary::with_status).collect();
            output::yaml_documents(&items, io.out)?;
        }
        Some(Output::Name) => {
            for object in &objects {
                writeln!(io.out, "{}", target::path(&object.r#ref.clone().unwrap_or_default()))?;
            }
        }
        wide => {
            let table = table(&objects, targets.iter().any(|t| t.kind.is_none()), namespace.is_empty(), wide.is_some());
            if table.is_empty() {
                let place = match namespace {
                    "" => String::new(),
                    name if targets.iter().any(|t| t.kind.is_none_or(|k| k.namespaced())) => {
                        format!(" in the namespace {name} (-A looks in all)")
                    }
                    _ => String::new(),
                };
                writeln!(io.err, "no objects found{place}")?;
            } else {
                table.print(io.out)?;
            }
        }
    }
    Ok(())
}

fn table(objects: &[rpc::Object], kinds: bool, namespaces: bool, wide: bool) -> Table {
    let namespaces = namespaces && objects.iter().any(|o| o.r#ref.as_ref().is_some_and(|r| !r.namespace.is_empty()));
    let mut headings = Vec::new();
    if namespaces {
        headings.push("NAMESPACE");
    }
    headings.extend(["NAME", "DETAILS", "PROGRAMMED", "PROXIES", "PROBLEMS"]);
    if wide {
        headings.extend(["REVISION", "KEY"]);
    }
    let mut table = Table::new(&headings);
    for object in objects {
        let who = object.r#ref.clone().unwrap_or_default();
        let summary = Summary::of(object);
        let mut cells = Vec::new();
        if namespaces {
            cells.push(who.namespace.clone());
        }
        cells.push(if kinds { format!("{}/{}", who.kind.to_lowercase(), who.name) } else { who.name.clone() });
        cells.push(details(&who.kind, &summary::manifest(object)["spec"]));
        cells.push(summary.programmed());
        cells.push(summary.proxies.map(|p| format!("{}/{}", p.acked, p.total)).unwrap_or_default());
        cells.push(if object.problems.is_empty() { String::new() } else { object.problems.len().to_string() });
        if wide {
            cells.extend([object.mod_revision.to_string(), object.key.clone()]);
        }
        table.row(cells);
    }
    table
}

/// What tells one object of a kind from another at a glance.
fn details(kind: &str, spec: &Value) -> String {
    let join = |field: &str, inner: &str| {
        let texts: Vec<String> = items(spec, field)
            .iter()
            .map(|item| if inner.is_empty() { item.as_str().unwrap_or_default().to_owned() } else { text(item, inner) })
            .collect();
        texts.join(",")
    };
    match kind {
        "Site" => [text(spec, "role"), text(spec, "region")].join(" ").trim().to_owned(),
        "Service" => join("ports", "port"),
        "Gateway" => join("listeners", "port"),
        "HTTPRoute" => join("hostnames", ""),
        "EnvoyResource" => text(spec, "type"),
        "EndpointSet" => {
            let service = match spec.get("service") {
                Some(Value::Object(_)) => text(&spec["service"], "name"),
                _ => text(spec, "service"),
            };
            format!("{service} {}", text(spec, "site")).trim().to_owned()
        }
        _ => String::new(),
    }
}

/// `tidegate delete`.
pub(crate) async fn delete(global: &Global, args: &DeleteArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let objects: Vec<rpc::ObjectRef> = if args.files.is_empty() {
        target::parse(&args.targets)?
            .iter()
            .map(|target| target.object(&args.namespace.namespace))
            .collect::<Result<_, _>>()?
    } else {
        let sources = read_sources(&args.files, io.input)?;
        local::documents(&sources)?.into_iter().map(|document| document.object).collect()
    };
    if objects.is_empty() {
        return Err(Failure::Failed("no manifest in the input".to_owned()));
    }
    let mut client = Client::connect(global).await?;
    let answer = call!(client, global.request_timeout, delete, rpc::DeleteRequest { objects })?;
    for object in &answer.deleted {
        let suffix = if global.output == Some(Output::Name) { "" } else { " deleted" };
        writeln!(io.out, "{}{suffix}", target::path(object))?;
    }
    if answer.missing.is_empty() || args.ignore_not_found {
        return Ok(());
    }
    let missing: Vec<String> = answer.missing.iter().map(target::path).collect();
    Err(Failure::Failed(format!("not found: {}", missing.join(", "))))
}

/// `tidegate version`: this program's always, the control plane's when it answers.
pub(crate) async fn version(global: &Global, io: &mut Io<'_>) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let answer = match Client::connect(global).await {
        Ok(mut client) => call!(client, global.request_timeout, version, rpc::VersionRequest {}),
        Err(failure) => Err(failure),
    };
    match global.output {
        Some(format @ (Output::Json | Output::Yaml)) => {
            let mut value = json!({"client": own});
            if let Ok(answer) = &answer {
                value["server"] = json!({"version": answer.version, "replica": answer.replica});
                if !answer.stale.is_empty() {
                    value["server"]["stale"] = json!(answer.stale);
                }
            }
            match format {
                Output::Json => output::json(&value, io.out)?,
                _ => io.out.write_all(output::yaml(&value)?.as_bytes())?,
            }
        }
        _ => {
            writeln!(io.out, "tidegate {own}")?;
            if let Ok(answer) = &answer {
                writeln!(io.out, "control plane {} ({}) at {}", answer.version, answer.replica, global.server)?;
            }
        }
    }
    match answer {
        Ok(answer) => output::warn(&answer.stale, &[], io.err)?,
        Err(failure) => writeln!(io.err, "{failure}")?,
    }
    Ok(())
}
