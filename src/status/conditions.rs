//! The JSON shapes of status: Gateway API's own for its kinds, and beside it the fleet summary for every kind.

use serde_json::{Value, json};

use super::Standing;
use crate::{
    compile::{self, Condition},
    model::{Kind, ObjectRef, Problem, Severity},
    pipeline::State,
};

/// The status of one object.
pub fn to_json(object: &ObjectRef, state: &State, standing: &Standing, problems: &[Problem]) -> Value {
    let programmed = programmed(standing, problems);
    let mut status = json!({
        "fleet": {
            "proxies": {
                "total": standing.total,
                "acked": standing.acked,
                "nacked": standing.nacked,
                "pending": standing.pending,
            },
        },
    });
    if let Some(first) = standing.laggards.iter().find(|l| !l.error.is_empty()) {
        status["fleet"]["lastError"] = json!({
            "proxy": first.proxy,
            "site": first.site,
            "resource": format!("{} {}", first.kind.short(), first.resource),
            "detail": first.error,
        });
    }
    match object.kind {
        Kind::HttpRoute => {
            let parents: Vec<Value> = compile::route_parents(object, &state.configuration)
                .into_iter()
                .map(|parent| {
                    let mut conditions: Vec<Value> = parent.conditions.iter().map(condition).collect();
                    conditions.push(condition(&programmed));
                    json!({
                        "parentRef": parent.parent_ref,
                        "controllerName": "tidegate.dev/control-plane",
                        "conditions": conditions,
                    })
                })
                .collect();
            status["parents"] = Value::Array(parents);
        }
        Kind::Gateway => {
            let listeners: Vec<Value> = compile::gateway_listeners(object, &state.configuration)
                .into_iter()
                .map(|listener| {
                    json!({
                        "name": listener.name,
                        "attachedRoutes": listener.attached_routes,
                        "supportedKinds": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute" }],
                        "conditions": listener.conditions.iter().map(condition).collect::<Vec<_>>(),
                    })
                })
                .collect();
            status["listeners"] = Value::Array(listeners);
            status["conditions"] = json!([condition(&accepted(problems)), condition(&programmed)]);
        }
        _ => status["conditions"] = json!([condition(&accepted(problems)), condition(&programmed)]),
    }
    status
}

fn condition(condition: &Condition) -> Value {
    json!({
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
    })
}

fn accepted(problems: &[Problem]) -> Condition {
    match problems.iter().find(|p| p.severity == Severity::Error) {
        Some(problem) => Condition::new("Accepted", "False", &problem.reason, &problem.message),
        None => Condition::new("Accepted", "True", "Accepted", ""),
    }
}

/// True only after every connected proxy that sees the object has acknowledged all that carries it.
fn programmed(standing: &Standing, problems: &[Problem]) -> Condition {
    let new = |status, reason, message: String| Condition::new("Programmed", status, reason, &message);
    if let Some(problem) = problems.iter().find(|p| p.severity == Severity::Error && p.reason == "Invalid") {
        new("False", "Invalid", problem.message.clone())
    } else if standing.nacked > 0 {
        new("False", "Refused", format!("{} of {} proxies refused it", standing.nacked, standing.total))
    } else if standing.pending > 0 {
        new("False", "Pending", format!("{} of {} proxies have not acknowledged it", standing.pending, standing.total))
    } else if standing.total == 0 {
        new("Unknown", "NoProxies", "no connected proxy sees it".into())
    } else {
        new("True", "Programmed", format!("{} proxies serve it", standing.total))
    }
}
