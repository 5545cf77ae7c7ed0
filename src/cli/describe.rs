//! `describe`: one object for a person who wants to know why it is not live.

use std::io::Write;

use serde_json::Value;

use super::{
    DescribeArgs, Failure, Global, Io, Output,
    apply::laggard_line,
    client::{Client, call},
    output::{self, Table},
    summary::{self, Summary, text},
    target,
};
use crate::rpc;

/// `tidegate describe`.
pub(crate) async fn describe(global: &Global, args: &DescribeArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let targets = target::parse(&args.targets)?;
    let mut client = Client::connect(global).await?;
    for (n, target) in targets.iter().enumerate() {
        let who = target.object(&args.namespace.namespace)?;
        let request =
            rpc::GetRequest { kind: who.kind.clone(), namespace: who.namespace.clone(), name: who.name.clone() };
        let answer = call!(client, global.request_timeout, get, request)?;
        output::warn(&answer.stale, &answer.unreachable, io.err)?;
        let Some(object) = answer.objects.first() else {
            return Err(Failure::Failed(format!("{} not found", target::path(&who))));
        };
        if n > 0 {
            writeln!(io.out)?;
        }
        match global.output {
            Some(Output::Json) => output::json(&summary::with_status(object), io.out)?,
            Some(Output::Yaml) => io.out.write_all(output::yaml(&summary::with_status(object))?.as_bytes())?,
            Some(Output::Name) => writeln!(io.out, "{}", target::path(&who))?,
            None | Some(Output::Wide) => print(object, io.out)?,
        }
    }
    Ok(())
}

fn print(object: &rpc::Object, out: &mut dyn Write) -> Result<(), Failure> {
    let who = object.r#ref.clone().unwrap_or_default();
    let manifest = summary::manifest(object);
    let summary = Summary::of(object);
    field(out, "Name", &who.name)?;
    if !who.namespace.is_empty() {
        field(out, "Namespace", &who.namespace)?;
    }
    field(out, "Kind", &who.kind)?;
    pairs(out, "Labels", &manifest["metadata"]["labels"])?;
    pairs(out, "Annotations", &manifest["metadata"]["annotations"])?;
    field(out, "Key", &object.key)?;
    field(out, "Revision", &format!("{} (created at {})", object.mod_revision, object.create_revision))?;
    match summary.proxies {
        Some(p) if p.total > 0 => {
            let counts =
                format!("{} in all, {} acknowledged, {} refused, {} pending", p.total, p.acked, p.nacked, p.pending);
            field(out, "Proxies", &counts)?;
        }
        Some(_) => field(out, "Proxies", "none that is connected sees it")?,
        None => {}
    }
    if manifest["spec"].is_object() {
        block(out, "Spec", &output::yaml(&manifest["spec"])?)?;
    }
    if !summary.conditions.is_empty() {
        let mut table = Table::new(&["TYPE", "STATUS", "REASON", "ABOUT", "MESSAGE"]);
        for c in summary.conditions {
            table.row(vec![c.kind, c.status, c.reason, c.part, c.message]);
        }
        let mut text = Vec::new();
        table.print(&mut text)?;
        block(out, "Conditions", &String::from_utf8_lossy(&text))?;
    }
    if !summary.laggards.is_empty() {
        let lines: Vec<String> = summary.laggards.iter().map(laggard_line).collect();
        block(out, "Laggards", &lines.join("\n"))?;
    }
    if !object.problems.is_empty() {
        block(out, "Problems", &object.problems.join("\n"))?;
    }
    Ok(())
}

fn field(out: &mut dyn Write, name: &str, value: &str) -> Result<(), Failure> {
    let name = format!("{name}:");
    Ok(writeln!(out, "{name:<13}{}", output::plain(value))?)
}

fn pairs(out: &mut dyn Write, name: &str, map: &Value) -> Result<(), Failure> {
    let Some(map) = map.as_object() else { return Ok(()) };
    let whole = Value::Object(map.clone());
    let mut label = name;
    for key in map.keys() {
        let line = format!("{key}={}", text(&whole, key));
        if label.is_empty() {
            writeln!(out, "{:13}{}", "", output::plain(&line))?
        } else {
            field(out, label, &line)?
        }
        label = "";
    }
    Ok(())
}

fn block(out: &mut dyn Write, name: &str, text: &str) -> Result<(), Failure> {
    writeln!(out, "{name}:")?;
    for line in text.lines() {
        writeln!(out, "  {}", output::plain(line))?;
    }
    Ok(())
}
