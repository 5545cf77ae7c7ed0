//! Reads: objects with their status, and waiting for them to be programmed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tonic::Status;

use super::{
    Context,
    apply::{from_rpc, parse_kind, to_rpc},
    store_status,
};
use crate::{
    catalog::accepted,
    compile::{self, Reader, resolve::status::Conflicts},
    manifest::{self, Mode},
    model::{Kind, ObjectRef, Problem, Revision, Severity, StoreKey},
    pipeline::State,
    rpc::{GetRequest, GetResponse, Laggard, Object, WaitRequest, WaitResponse},
    status::{self, Standing},
    store::KeyValue,
};

/// The longest that one `Wait` may take.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How often acknowledgements are looked at while somebody waits.
const POLL: Duration = Duration::from_millis(10);

/// Every object that the request names, as stored, with its status as of now.
pub(super) async fn get(context: &Context, request: GetRequest) -> Result<GetResponse, Status> {
    let kinds = if request.kind.is_empty() { Kind::ALL.to_vec() } else { vec![parse_kind(&request.kind)?] };
    let mut response = GetResponse::default();
    let state = context.state();
    let mut problems = compile::resolve::problems::problems(&state.configuration, &state.runtime);
    problems.extend(state.problems.iter().cloned());
    let conflicts = Conflicts::find(&Reader::new(&state.configuration, &state.runtime));
    for kind in kinds {
        let (revision, entries) = entries(context, kind).await?;
        response.revision = revision.0;
        for (reference, entry) in entries {
            let wanted =
                (request.namespace.is_empty() || !kind.namespaced() || reference.namespace == request.namespace)
                    && (request.name.is_empty() || reference.name == request.name);
            if wanted {
                response.objects.push(object(context, &state, &problems, &conflicts, reference, &entry));
            }
        }
    }
    Ok(response)
}

/// Every object of a kind as its key says; one that is gone while its accepted copy stands as that says.
async fn entries(context: &Context, kind: Kind) -> Result<(Revision, BTreeMap<ObjectRef, KeyValue>), Status> {
    let list = async |room: &str| {
        let prefix = format!("{}{room}/{}/", context.keyspace.watched(), kind.plural());
        context.store.list(&prefix).await.map_err(|e| store_status(&e))
    };
    // In this order: what is created between the two listings is not taken for something that is gone.
    let (accepted, objects) = (list("accepted").await?, list("objects").await?);
    let mut entries = BTreeMap::new();
    for entry in objects.entries {
        let reference = match context.keyspace.parse(&entry.key) {
            Ok(StoreKey::Object(reference)) => reference,
            // A key without a meaning still has to be findable by the person who wrote it.
            _ => ObjectRef { kind, namespace: String::new(), name: entry.key.clone() },
        };
        entries.insert(reference, entry);
    }
    for copy in accepted.entries {
        let Ok(StoreKey::Accepted(reference)) = context.keyspace.parse(&copy.key) else { continue };
        if entries.contains_key(&reference) {
            continue;
        }
        // It may have been deleted together with its object between the two listings.
        let Some(copy) = context.store.get(&copy.key).await.map_err(|e| store_status(&e))? else { continue };
        let (create_revision, value) = accepted::decode(&copy).unwrap_or_default();
        let key = context.keyspace.format(&StoreKey::Object(reference.clone()));
        entries.insert(reference, KeyValue { key, value, create_revision, mod_revision: copy.mod_revision });
    }
    Ok((objects.revision, entries))
}

fn object(
    context: &Context,
    state: &State,
    problems: &[Problem],
    conflicts: &Conflicts,
    reference: ObjectRef,
    entry: &KeyValue,
) -> Object {
    let text = String::from_utf8_lossy(&entry.value);
    let parsed = manifest::parse(&entry.key, &text, Mode::Tolerant);
    let manifest_json = match parsed.objects.into_iter().next() {
        Some(located) if parsed.faults.is_empty() => {
            let mut json = located.json;
            manifest::redact(&mut json);
            json.to_string()
        }
        _ => String::new(),
    };
    let own: Vec<Problem> =
        problems.iter().filter(|p| p.object.as_ref() == Some(&reference) || p.key == entry.key).cloned().collect();
    let standing = status::standing(&reference, &context.views, &context.feedback);
    let json = status::to_json(&reference, state, conflicts, &standing, &own);
    Object {
        r#ref: Some(to_rpc(&reference)),
        manifest_json,
        status_json: json.to_string(),
        create_revision: entry.create_revision.0,
        mod_revision: entry.mod_revision.0,
        key: entry.key.clone(),
        problems: own.iter().map(|p| format!("{}: {}", p.reason, p.message)).collect(),
    }
}

/// Answers when every object is programmed at `revision` or later, or names the laggards when the time is over.
pub(super) async fn wait(context: &Context, request: WaitRequest) -> Result<WaitResponse, Status> {
    let start = Instant::now();
    let limit = Duration::from_millis(u64::from(request.timeout_ms)).min(WAIT_MAX);
    let references = request.objects.iter().map(from_rpc).collect::<Result<Vec<_>, _>>()?;
    let revision = Revision(request.revision);
    let Ok(_) = tokio::time::timeout(limit, context.reach(revision)).await else {
        let problems = vec![format!("this replica has not compiled revision {revision} yet")];
        return Ok(WaitResponse { problems, elapsed_ms: elapsed(start), ..WaitResponse::default() });
    };
    loop {
        let standing = merged(context, &references);
        let mut problems = blocking_problems(context, &references);
        if standing.total == 0 {
            problems.extend(unattached(context, &references));
        }
        let done = standing.pending == 0 && standing.nacked == 0 && problems.is_empty();
        let refused_only = standing.pending == 0 && standing.nacked > 0;
        if done || refused_only || !problems.is_empty() || start.elapsed() >= limit {
            return Ok(WaitResponse {
                programmed: done,
                no_proxies: standing.total == 0,
                proxies: standing.total,
                laggards: standing.laggards.into_iter().map(laggard).collect(),
                problems,
                elapsed_ms: elapsed(start),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One standing over all objects: a proxy counts once, by the worst of its answers.
fn merged(context: &Context, references: &[ObjectRef]) -> Standing {
    let all = references.iter().map(|r| status::standing(r, &context.views, &context.feedback));
    status::merge(all)
}

/// Errors that keep an object out of service for good: waiting would not help.
fn blocking_problems(context: &Context, references: &[ObjectRef]) -> Vec<String> {
    let state = context.state();
    let mut problems: Vec<String> = references
        .iter()
        .filter(|r| state.configuration.get(r).is_none())
        .map(|r| format!("{r} does not exist, or its stored manifest is invalid"))
        .collect();
    problems.extend(
        state
            .problems
            .iter()
            .filter(|p| p.severity == Severity::Error && p.object.as_ref().is_some_and(|o| references.contains(o)))
            .map(|p| p.message.clone()),
    );
    problems
}

/// Why no proxy will ever see an object, as far as the objects themselves say so.
fn unattached(context: &Context, references: &[ObjectRef]) -> Vec<String> {
    const REASONS: [&str; 5] = [
        "NoMatchingParent",
        "NotAllowedByListeners",
        "NoMatchingListenerHostname",
        "HostnameConflict",
        "ProtocolConflict",
    ];
    let state = context.state();
    let all = compile::resolve::problems::problems(&state.configuration, &state.runtime);
    let ours = all.into_iter().filter(|p| p.object.as_ref().is_some_and(|object| references.contains(object)));
    ours.filter(|p| REASONS.contains(&p.reason.as_str())).map(|p| p.message).collect()
}

fn laggard(laggard: status::Laggard) -> Laggard {
    Laggard {
        proxy: laggard.proxy,
        site: laggard.site,
        r#type: laggard.kind.short().to_owned(),
        resource: laggard.resource,
        error: laggard.error,
    }
}

fn elapsed(start: Instant) -> u32 {
    u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX)
}
