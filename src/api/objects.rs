//! Reads: objects with their status, and waiting for them to be programmed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;
use tonic::Status;

use super::{
    Context,
    apply::{from_rpc, parse_kind, to_rpc},
    store_status,
};
use crate::{
    catalog::accepted,
    manifest::{self, Mode},
    model::{Kind, ObjectRef, Revision, Severity, StoreKey},
    replicas::{self, Report},
    rpc::{GetRequest, GetResponse, Object, WaitRequest, WaitResponse},
    status,
    store::KeyValue,
};

/// The longest that one `Wait` may take.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How soon acknowledgements are looked at again while somebody waits; it grows.
const POLL_FIRST: Duration = Duration::from_millis(10);
/// How often they are looked at in a long wait.
const POLL_MAX: Duration = Duration::from_millis(100);

/// Every object that the request names, as stored, with its status as of now.
pub(super) async fn get(context: &Context, request: GetRequest) -> Result<GetResponse, Status> {
    let kinds = if request.kind.is_empty() { Kind::ALL.to_vec() } else { vec![parse_kind(&request.kind)?] };
    let mut response = GetResponse::default();
    let state = context.state();
    let mut found = Vec::new();
    for kind in kinds {
        let (revision, entries) = entries(context, kind).await?;
        response.revision = revision.0;
        for (reference, entry) in entries {
            let wanted =
                (request.namespace.is_empty() || !kind.namespaced() || reference.namespace == request.namespace)
                    && (request.name.is_empty() || reference.name == request.name);
            if wanted {
                found.push((reference, entry));
            }
        }
    }
    let references: Vec<ObjectRef> = found.iter().map(|(reference, _)| reference.clone()).collect();
    let fleet = context.replicas.standings(&references, report(context, &references)).await;
    let judged = context.judged(&state).await?;
    for ((reference, entry), standing) in found.iter().zip(&fleet.standings) {
        let gaps = fleet.gaps(entry.mod_revision);
        let json = status::to_json((reference, &entry.key), &state, &judged, standing, &gaps);
        let problems = judged.problems(reference, &entry.key).map(|p| format!("{}: {}", p.reason, p.message));
        response.objects.push(object(reference, entry, &json, problems.collect()));
    }
    response.unreachable = fleet.unreachable();
    response.stale = fleet.stale;
    Ok(response)
}

/// How far objects have come among the proxies of this replica.
pub(super) fn report(context: &Context, references: &[ObjectRef]) -> Report {
    // The revision first: what is counted after it is of it, or of a later one.
    let revision = context.state().revision;
    let standings = status::standings(references, &context.views, &context.feedback);
    Report { standings, revision, stale: context.stale() }
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

fn object(reference: &ObjectRef, entry: &KeyValue, status: &Value, problems: Vec<String>) -> Object {
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
    Object {
        r#ref: Some(to_rpc(reference)),
        manifest_json,
        status_json: status.to_string(),
        create_revision: entry.create_revision.0,
        mod_revision: entry.mod_revision.0,
        key: entry.key.clone(),
        problems,
    }
}

/// Answers when every object is programmed at `revision` or later on every replica, or names the laggards when the time
/// is over.
pub(super) async fn wait(context: &Context, request: WaitRequest) -> Result<WaitResponse, Status> {
    let start = Instant::now();
    let limit = Duration::from_millis(u64::from(request.timeout_ms)).min(WAIT_MAX);
    let references = request.objects.iter().map(from_rpc).collect::<Result<Vec<_>, _>>()?;
    let revision = Revision(request.revision);
    let Ok(_) = tokio::time::timeout(limit, context.reach(revision)).await else {
        let problems = vec![replicas::not_compiled(&context.replica, revision)];
        let stale = replicas::stale([(&*context.replica, context.stale().as_str())].into_iter());
        return Ok(WaitResponse { problems, stale, elapsed_ms: elapsed(start), ..WaitResponse::default() });
    };
    let mut pause = POLL_FIRST;
    loop {
        let fleet = context.replicas.standings(&references, report(context, &references)).await;
        let late = start.elapsed() >= limit;
        let standing = status::merge(fleet.standings.iter().cloned());
        let mut problems = blocking_problems(context, &references);
        if standing.total == 0 {
            problems.extend(unattached(context, &references).await?);
        }
        let blocked = !problems.is_empty();
        // An answer of a replica that has not read the change says nothing of it.
        let (slowest, compiled) = &fleet.slowest;
        let known = fleet.unreachable.is_empty() && *compiled >= revision;
        if late && *compiled < revision {
            problems.push(replicas::not_compiled(slowest, revision));
        }
        let answered = known && standing.pending == 0;
        if answered || blocked || late {
            return Ok(WaitResponse {
                programmed: answered && standing.nacked == 0 && !blocked,
                no_proxies: standing.total == 0,
                proxies: standing.total,
                laggards: standing.laggards.into_iter().map(replicas::laggard).collect(),
                problems,
                elapsed_ms: elapsed(start),
                unreachable: fleet.unreachable(),
                stale: fleet.stale,
            });
        }
        tokio::time::sleep(pause.min(limit.saturating_sub(start.elapsed()))).await;
        pause = POLL_MAX.min(pause.mul_f64(1.5));
    }
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
async fn unattached(context: &Context, references: &[ObjectRef]) -> Result<Vec<String>, Status> {
    const REASONS: [&str; 5] = [
        "NoMatchingParent",
        "NotAllowedByListeners",
        "NoMatchingListenerHostname",
        "HostnameConflict",
        "ProtocolConflict",
    ];
    let judged = context.judged(&context.state()).await?;
    let all = references.iter().flat_map(|reference| judged.problems(reference, ""));
    Ok(all.filter(|p| REASONS.contains(&p.reason.as_str())).map(|p| p.message.clone()).collect())
}

fn elapsed(start: Instant) -> u32 {
    u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX)
}
