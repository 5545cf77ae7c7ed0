//! `apply` and `wait`: objects in, and the moment when proxies have them.

use std::{io::Write, time::Duration};

use serde_json::json;

use super::{
    ApplyArgs, Failure, Global, Io, Output, WaitArgs,
    client::{Client, call},
    failure::{counted, located},
    output, read_sources, target,
};
use crate::rpc::{self, applied::Outcome};

/// `tidegate apply`.
pub(crate) async fn apply(global: &Global, args: &ApplyArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let sources = read_sources(&args.files, io.input)?;
    let mut client = Client::connect(global).await?;
    let request = rpc::ApplyRequest { sources: sources.into_iter().map(Into::into).collect(), dry_run: args.dry_run };
    let answer = call!(client, global.request_timeout, apply, request)?;
    print_applied(global, args.dry_run, &answer.applied, io.out)?;
    for warning in &answer.warnings {
        writeln!(io.err, "warning: {warning}")?;
    }
    if answer.transactions > 1 {
        writeln!(io.err, "written in {} transactions, what is referred to first", answer.transactions)?;
    }
    if !answer.faults.is_empty() {
        if answer.transactions == 0 {
            return Err(Failure::Faults(answer.faults));
        }
        for fault in &answer.faults {
            writeln!(io.err, "{}", located(fault))?;
        }
        let done = counted(answer.transactions as usize, "transaction");
        return Err(Failure::Failed(format!("stopped after {done}; apply again to go on")));
    }
    if answer.applied.is_empty() {
        writeln!(io.err, "no manifest in the input")?;
    } else if args.wait {
        let objects = answer.applied.into_iter().filter_map(|a| a.object).collect();
        let request = rpc::WaitRequest { objects, revision: answer.revision, timeout_ms: millis(args.timeout) };
        wait_for(global, &mut client, request, io).await?;
    }
    Ok(())
}

fn print_applied(global: &Global, dry_run: bool, applied: &[rpc::Applied], out: &mut dyn Write) -> Result<(), Failure> {
    let word = |a: &rpc::Applied| match a.outcome() {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Unspecified => "applied",
    };
    let object = |a: &rpc::Applied| a.object.clone().unwrap_or_default();
    let rows = || -> Vec<serde_json::Value> {
        applied
            .iter()
            .map(|a| {
                let o = object(a);
                json!({"kind": o.kind, "namespace": o.namespace, "name": o.name, "outcome": word(a)})
            })
            .collect()
    };
    match global.output {
        Some(Output::Json) => output::json(&rows(), out)?,
        Some(Output::Yaml) => out.write_all(output::yaml(&rows())?.as_bytes())?,
        Some(Output::Name) => {
            for a in applied {
                writeln!(out, "{}", target::path(&object(a)))?;
            }
        }
        None | Some(Output::Wide) => {
            let suffix = if dry_run { " (dry run)" } else { "" };
            for a in applied {
                writeln!(out, "{} {}{suffix}", target::path(&object(a)), word(a))?;
            }
        }
    }
    Ok(())
}

/// `tidegate wait`.
pub(crate) async fn wait(global: &Global, args: &WaitArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let objects = target::parse(&args.targets)?
        .iter()
        .map(|target| target.object(&args.namespace.namespace))
        .collect::<Result<_, _>>()?;
    let mut client = Client::connect(global).await?;
    let request = rpc::WaitRequest { objects, revision: 0, timeout_ms: millis(args.timeout) };
    wait_for(global, &mut client, request, io).await
}

async fn wait_for(
    global: &Global,
    client: &mut Client,
    request: rpc::WaitRequest,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let timeout = Duration::from_millis(request.timeout_ms.into());
    // The control plane keeps the time; it has the request time-out on top to say what it saw.
    let answer = call!(client, timeout.saturating_add(global.request_timeout), wait, request)?;
    output::warn(&answer.stale, &answer.unreachable, io.err)?;
    if answer.no_proxies && answer.problems.is_empty() && answer.unreachable.is_empty() {
        writeln!(io.err, "no connected proxy sees it: there is nothing to wait for")?;
        return Ok(());
    }
    if answer.programmed {
        let proxies = match answer.proxies {
            0 => "every proxy that sees it".to_owned(),
            n => counted(n as usize, "proxy"),
        };
        writeln!(io.err, "live on {proxies} in {} ms", answer.elapsed_ms)?;
        return Ok(());
    }
    for problem in &answer.problems {
        writeln!(io.err, "{}", output::plain(problem))?;
    }
    for laggard in &answer.laggards {
        writeln!(io.err, "{}", output::plain(&laggard_line(laggard)))?;
    }
    let out_of_time = u64::from(answer.elapsed_ms) >= timeout.as_millis() as u64;
    let text = format!("not live after {} ms{}", answer.elapsed_ms, laggard_count(&answer.laggards));
    Err(if out_of_time { Failure::Timeout(text) } else { Failure::NotReady(text) })
}

fn laggard_count(laggards: &[rpc::Laggard]) -> String {
    let proxies: std::collections::BTreeSet<&str> = laggards.iter().map(|l| l.proxy.as_str()).collect();
    match proxies.len() {
        0 => String::new(),
        n => format!(" on {}", counted(n, "proxy")),
    }
}

/// `fra1-envoy-1 (fra1): RDS shop/web: refused: …`.
pub(crate) fn laggard_line(laggard: &rpc::Laggard) -> String {
    let mut line = laggard.proxy.clone();
    if !laggard.site.is_empty() {
        line.push_str(&format!(" ({})", laggard.site));
    }
    line.push(':');
    for part in [&laggard.r#type, &laggard.resource] {
        if !part.is_empty() {
            line.push(' ');
            line.push_str(part);
        }
    }
    match laggard.error.as_str() {
        "" => line.push_str(" pending"),
        error => line.push_str(&format!(" refused: {error}")),
    }
    line
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
