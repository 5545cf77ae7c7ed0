//! Plain HTTP: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State as Extract},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::Context;
use crate::{
    model::{Freshness, Problem, Severity},
    store::{CopyMade, CopyStatus},
};

/// What the pages read.
#[derive(Clone)]
pub struct HttpState {
    /// The replica.
    pub context: Context,
    /// The metrics in OpenMetrics text, as of now.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// 200 once a full listing is compiled; `?verbose` says what is wrong, key by key.
async fn ready(Extract(state): Extract<HttpState>, RawQuery(query): RawQuery) -> Response {
    let now = state.context.state();
    let (code, word) = match &now.freshness {
        Freshness::Starting { .. } => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Freshness::Fresh => (StatusCode::OK, "ok"),
        Freshness::Stale { .. } => (StatusCode::OK, "ok (stale: the store is away)"),
        Freshness::Frozen { .. } => (StatusCode::OK, "ok (frozen: the store is not the one it was)"),
    };
    let mut text = format!("{word}\n");
    if query.is_some_and(|q| q.contains("verbose")) {
        let reason = match &now.freshness {
            Freshness::Starting { reason } => reason.clone().unwrap_or_else(|| "the first listing is awaited".into()),
            Freshness::Fresh => "fresh".into(),
            Freshness::Stale { reason } | Freshness::Frozen { reason } => reason.clone(),
        };
        line(&mut text, &format!("store: {reason}"));
        line(&mut text, &format!("revision: {}", now.revision));
        copy(&mut text, state.context.control.copy());
        if let Some(complaint) = state.context.replicas.complaint() {
            line(&mut text, &format!("replica: {complaint}"));
        }
        if let Some(caution) = state.context.replicas.caution() {
            line(&mut text, &format!("replica: {caution}"));
        }
        for problem in now.problems.iter().filter(|p| p.severity == Severity::Error) {
            let object = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
            let Problem { key, reason, message, .. } = problem;
            line(&mut text, &format!("problem: {key} {object}: {reason}: {message}"));
        }
    }
    (code, text).into_response()
}

/// How the last-known-good copy stands, where one is kept.
fn copy(text: &mut String, status: Option<CopyStatus>) {
    let Some(CopyStatus { newest, refused, trouble, .. }) = status else { return };
    let stands = newest.map_or("none yet".to_owned(), |CopyMade { revision, written }| {
        format!("revision {revision}, {} s old", written.elapsed().unwrap_or_default().as_secs())
    });
    line(text, &format!("last-known-good copy: {stands}"));
    for why in refused {
        line(text, &format!("last-known-good copy: not used at the start: {why}"));
    }
    if let Some(trouble) = trouble {
        line(text, &format!("last-known-good copy: {trouble}; it is tried again, and older copies stay"));
    }
}

/// One line, whatever stands in it: a key is whatever somebody has put, and must do nothing to a terminal.
fn line(text: &mut String, line: &str) {
    for c in line.chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text.push('\n');
}

async fn metrics(Extract(state): Extract<HttpState>) -> Response {
    let headers = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (headers, (state.metrics)()).into_response()
}
