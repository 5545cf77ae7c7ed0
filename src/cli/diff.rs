//! `diff`: what `apply` would change, without changing it.

use std::collections::BTreeMap;

use serde_json::Value;
use similar::TextDiff;

use super::{
    DiffArgs, Failure, Global, Io,
    client::{Client, call},
    local::{self, Document},
    output, read_sources, summary, target,
};
use crate::rpc::{self, applied::Outcome};

/// `tidegate diff`. The control plane checks the manifests first and says which ones it would write; those are
/// compared with what is stored. Fails with an empty [`Failure::NotReady`] when something differs.
pub(crate) async fn diff(global: &Global, args: &DiffArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let sources = read_sources(&args.files, io.input)?;
    let mut client = Client::connect(global).await?;
    let request = rpc::ApplyRequest { sources: sources.iter().cloned().map(Into::into).collect(), dry_run: true };
    let answer = call!(client, global.request_timeout, apply, request)?;
    if !answer.faults.is_empty() {
        return Err(Failure::Faults(answer.faults));
    }
    let outcomes: BTreeMap<String, Outcome> =
        answer.applied.iter().map(|a| (target::path(&a.object.clone().unwrap_or_default()), a.outcome())).collect();
    let mut differs = false;
    for Document { object, value } in local::documents(&sources)? {
        let path = target::path(&object);
        let outcome = outcomes.get(&path).copied().unwrap_or_default();
        if outcome == Outcome::Unchanged {
            continue;
        }
        differs = true;
        let request = rpc::GetRequest { kind: object.kind, namespace: object.namespace.clone(), name: object.name };
        let stored = call!(client, global.request_timeout, get, request)?.objects.into_iter().next();
        let is_new = stored.is_none();
        let old = match stored {
            Some(stored) => output::yaml(&comparable(summary::manifest(&stored), &object.namespace))?,
            None => String::new(),
        };
        let new = output::yaml(&comparable(value, &object.namespace))?;
        let before = if is_new { "/dev/null".to_owned() } else { format!("stored/{path}") };
        let text = TextDiff::from_lines(old.as_str(), new.as_str())
            .unified_diff()
            .context_radius(3)
            .header(&before, &format!("applied/{path}"))
            .to_string();
        if text.is_empty() {
            writeln!(io.err, "{path}: differs in its form or in a private key only, neither is shown")?;
        }
        io.out.write_all(text.as_bytes())?;
    }
    if differs { Err(Failure::NotReady(String::new())) } else { Ok(()) }
}

/// What counts in a comparison: the namespace filled in, no status, private keys hidden on both sides.
fn comparable(mut manifest: Value, namespace: &str) -> Value {
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut)
        && !namespace.is_empty()
    {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    // The answers of the control plane are redacted already; the file is not.
    if manifest["kind"] == "EnvoyResource" {
        crate::manifest::redact(&mut manifest);
    }
    if manifest["kind"] == "Certificate"
        && let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut)
    {
        for (_, value) in spec.iter_mut().filter(|(name, _)| name.to_lowercase().contains("key")) {
            *value = "[redacted]".into();
        }
    }
    manifest
}
