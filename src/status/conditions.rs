//! The JSON shapes of status: Gateway API's own for its kinds, and beside it the fleet summary for every kind.

use serde_json::{Value, json};

use super::{Judged, Standing};
use crate::{
    compile::{
        Reader,
        resolve::status::{Condition, ListenerStatus, RouteParent, gateway_listeners, route_parents},
    },
    model::{Kind, ObjectRef, Problem, Severity},
    pipeline::State,
};

/// `controllerName` of every route status that we write.
const CONTROLLER: &str = "tidegate.dev/control-plane";
/// The Gateway API's group.
const GROUP: &str = "gateway.networking.k8s.io";

/// What a standing leaves out: then it cannot say that an object is programmed everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Replicas that it says nothing of.
    pub unreachable: Vec<String>,
    /// `<replica>: <why>`, joined, for those whose own sight is old; empty while all are fresh.
    pub stale: String,
    /// Who has not compiled the object as it stands, in words; empty if nobody.
    pub behind: String,
}

impl Gaps {
    /// The standing is the whole truth.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// The status of one object whose key is `key`, as far as `standing` tells, with these gaps.
pub fn to_json(
    (object, key): (&ObjectRef, &str),
    state: &State,
    judged: &Judged,
    standing: &Standing,
    gaps: &Gaps,
) -> Value {
    let problems: Vec<&Problem> = judged.problems(object, key).collect();
    let programmed = programmed(standing, &problems, gaps);
    let laggards: Vec<Value> = standing
        .laggards
        .iter()
        .map(|l| {
            json!({ "proxy": l.proxy, "site": l.site, "type": l.kind.short(), "resource": l.resource, "error": l.error })
        })
        .collect();
    let mut status = json!({
        "conditions": [accepted(&problems), programmed],
        "proxies": {
            "total": standing.total,
            "acked": standing.acked,
            "nacked": standing.nacked,
            "pending": standing.pending,
        },
        "laggards": laggards,
    });
    if !gaps.unreachable.is_empty() {
        status["unreachable"] = json!(gaps.unreachable);
    }
    let conflicts = &judged.judgement.conflicts;
    let reader = Reader::new(&state.configuration, &state.runtime);
    let stored = state.configuration.get(object);
    match object.kind {
        Kind::HttpRoute => {
            let parents = stored.map(|route| route_parents(route, conflicts, &reader)).unwrap_or_default();
            status["parents"] = parents.iter().map(|parent| route_parent(parent, &programmed)).collect();
        }
        Kind::Gateway => {
            let listeners = stored.map(|gateway| gateway_listeners(gateway, conflicts, &reader)).unwrap_or_default();
            status["listeners"] = listeners.iter().map(listener).collect();
        }
        _ => {}
    }
    status
}

fn route_parent(parent: &RouteParent, programmed: &Value) -> Value {
    let mut reference = json!({ "name": parent.parent.name, "namespace": parent.parent.namespace });
    if let Some(section) = &parent.parent.section_name {
        reference["sectionName"] = json!(section);
    }
    if let Some(port) = parent.parent.port {
        reference["port"] = json!(port);
    }
    let mut conditions: Vec<Value> = parent.conditions.iter().map(condition).collect();
    conditions.push(programmed.clone());
    json!({ "parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions })
}

fn listener(listener: &ListenerStatus) -> Value {
    let kinds: Vec<Value> =
        listener.supported_kinds.iter().map(|kind| json!({ "group": GROUP, "kind": kind })).collect();
    json!({
        "name": listener.name,
        "attachedRoutes": listener.attached_routes,
        "supportedKinds": kinds,
        "conditions": listener.conditions.iter().map(condition).collect::<Vec<_>>(),
    })
}

fn condition(condition: &Condition) -> Value {
    let status = if condition.status { "True" } else { "False" };
    words(condition.kind, status, condition.reason, &condition.message)
}

fn words(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message })
}

fn accepted(problems: &[&Problem]) -> Value {
    match problems.iter().find(|p| p.severity == Severity::Error) {
        Some(problem) => words("Accepted", "False", &problem.reason, &problem.message),
        None => words("Accepted", "True", "Accepted", ""),
    }
}

/// True only after every connected proxy of every replica that sees the object has acknowledged all that carries it.
fn programmed(standing: &Standing, problems: &[&Problem], gaps: &Gaps) -> Value {
    let told = |status, reason, message: &str| words("Programmed", status, reason, message);
    let of = |count: u32, what: &str| format!("{count} of {} proxies {what}", standing.total);
    if let Some(problem) = problems.iter().find(|p| p.severity == Severity::Error && p.reason == "Invalid") {
        told("False", "Invalid", &problem.message)
    } else if standing.nacked > 0 {
        told("False", "Refused", &of(standing.nacked, "refused it"))
    } else if standing.pending > 0 {
        told("False", "Pending", &of(standing.pending, "have not acknowledged it"))
    } else if !gaps.unreachable.is_empty() {
        let message = format!("nothing is known of the proxies of {}", gaps.unreachable.join(", "));
        told("Unknown", "ReplicaUnreachable", &message)
    } else if !gaps.stale.is_empty() {
        told("Unknown", "ReplicaStale", &format!("its proxies may serve an older state: {}", gaps.stale))
    } else if !gaps.behind.is_empty() {
        told("False", "Pending", &gaps.behind)
    } else if standing.total == 0 {
        told("Unknown", "NoProxies", "no connected proxy sees it")
    } else {
        told("True", "Programmed", &of(standing.acked, "serve it"))
    }
}
