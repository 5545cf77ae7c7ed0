//! Keeps an endpoint's leased key for as long as its stream sends, and gives it up when the stream ends cleanly.

use std::{net::SocketAddr, time::Duration};

use futures::{Stream, StreamExt};
use serde_json::json;
use tonic::{Status, Streaming};

use super::{Context, store_status};
use crate::{
    model::StoreKey,
    rpc::{RegisterRequest, RegisterResponse},
    store::{LeaseId, Op, Transaction, TxnOutcome},
};

/// Shorter leases would end between two beats of a busy host.
const TTL_MIN: Duration = Duration::from_secs(2);
/// Longer ones would keep a dead endpoint in service for too long.
const TTL_MAX: Duration = Duration::from_secs(300);

/// What the stream holds.
struct Registration {
    lease: LeaseId,
    request: RegisterRequest,
}

/// One answer for each message: the first writes the key, equal ones renew, a different one writes again.
pub(super) fn register(
    context: Context,
    requests: Streaming<RegisterRequest>,
) -> impl Stream<Item = Result<RegisterResponse, Status>> + Send {
    let start = (context, requests, None::<Registration>);
    futures::stream::unfold(Some(start), |state| async move {
        let (context, mut requests, held) = state?;
        match requests.next().await {
            Some(Ok(request)) => match beat(&context, held, request).await {
                Ok((registration, response)) => Some((Ok(response), Some((context, requests, Some(registration))))),
                Err(status) => Some((Err(status), None)),
            },
            // The connection broke: the lease runs out by itself, so a short break costs nothing.
            Some(Err(_)) => None,
            None => {
                if let Some(held) = held {
                    // Best effort: if it fails, the lease runs out.
                    drop(context.store.revoke(held.lease).await);
                }
                None
            }
        }
    })
}

async fn beat(
    context: &Context,
    held: Option<Registration>,
    request: RegisterRequest,
) -> Result<(Registration, RegisterResponse), Status> {
    if let Some(held) = held.filter(|h| h.request == request)
        && context.store.keep_alive(held.lease).await.is_ok()
    {
        let revision = context.state().revision.0;
        return Ok((held, RegisterResponse { revision }));
    }
    let (key, value) = entry(context, &request)?;
    let ttl = Duration::from_secs(u64::from(request.ttl_seconds)).clamp(TTL_MIN, TTL_MAX);
    let lease = context.store.grant(ttl).await.map_err(|e| store_status(&e))?;
    let ops = vec![Op::Put { key, value: value.into(), lease: Some(lease) }];
    let outcome = context.store.txn(Transaction { compares: vec![], ops }).await.map_err(|e| store_status(&e))?;
    let (TxnOutcome::Committed(revision) | TxnOutcome::Conflict(revision)) = outcome;
    Ok((Registration { lease, request }, RegisterResponse { revision: revision.0 }))
}

fn entry(context: &Context, request: &RegisterRequest) -> Result<(String, String), Status> {
    let address: SocketAddr = request
        .address
        .parse()
        .map_err(|_| Status::invalid_argument(format!("{:?} is no IP:port address", request.address)))?;
    let parts = [&request.site, &request.namespace, &request.service, &request.id];
    if parts.iter().any(|p| p.is_empty() || p.contains('/')) {
        return Err(Status::invalid_argument("site, namespace, service and id must be given, without '/'"));
    }
    let key = context.keyspace.format(&StoreKey::Endpoint {
        site: request.site.clone(),
        namespace: request.namespace.clone(),
        service: request.service.clone(),
        id: request.id.clone(),
    });
    let value = json!({ "address": address.to_string(), "weight": request.weight.max(1) });
    Ok((key, value.to_string()))
}
