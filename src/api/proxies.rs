//! `proxy status` and `proxy config`, over all replicas.

use std::{collections::BTreeMap, sync::Arc};

use tonic::{Code, Status};

use super::{Context, watermarks};
use crate::{
    replicas::{self, reason},
    rpc::{
        ConfigResource, ProxiesRequest, ProxyConfigRequest, ProxyConfigResponse, ProxyRow, ProxyStanding,
        ProxyStatusResponse, TypeStatus,
    },
    status,
    xds::{ResourceType, descriptor, json},
};

/// One row for each proxy that is connected to a replica, or was refused by it.
pub(super) async fn status(context: &Context) -> ProxyStatusResponse {
    let asked = context.replicas.ask(|mut client| async move { client.proxies(ProxiesRequest {}).await });
    let asked = asked.await;
    let mut whole = own(context);
    let mut stale = vec![(context.replica.to_string(), std::mem::take(&mut whole.stale))];
    for (name, answer) in asked {
        match answer {
            Ok(answer) => {
                let first = u32::try_from(whole.standings.len()).unwrap_or(u32::MAX);
                let row = |row: ProxyRow| ProxyRow { standing: row.standing.saturating_add(first), ..row };
                whole.proxies.extend(answer.proxies.into_iter().map(row));
                whole.standings.extend(answer.standings);
                stale.push((name.to_string(), answer.stale));
            }
            Err(status) => whole.unreachable.push(format!("{name}: {}", reason(&status))),
        }
    }
    whole.proxies.sort_by(|a, b| (&a.site, &a.id, &a.replica).cmp(&(&b.site, &b.id, &b.replica)));
    whole.stale = replicas::stale(stale.iter().map(|(name, why)| (name.as_str(), why.as_str())));
    whole.watermarks = watermarks::sites(context);
    whole
}

/// The rows of this replica alone.
pub(super) fn own(context: &Context) -> ProxyStatusResponse {
    let mut standings = Vec::new();
    let mut known: BTreeMap<_, (Arc<_>, u32)> = BTreeMap::new();
    let row = |row: status::Row| ProxyRow {
        id: row.id,
        site: row.site,
        role: row.role,
        proven: row.proven,
        // The standing is kept beside its address, which is its own for as long.
        standing: known
            .entry(Arc::as_ptr(&row.types))
            .or_insert_with(|| {
                standings.push(ProxyStanding { types: row.types.iter().map(type_status).collect() });
                (Arc::clone(&row.types), u32::try_from(standings.len() - 1).unwrap_or(u32::MAX))
            })
            .1,
        connected_seconds: row.connected_seconds,
        refused: row.refused,
        replica: context.replica.to_string(),
    };
    let proxies = status::proxies(&context.views, &context.feedback).into_iter().map(row).collect();
    ProxyStatusResponse {
        proxies,
        standings,
        revision: context.state().revision.0,
        stale: context.stale(),
        ..ProxyStatusResponse::default()
    }
}

fn type_status(row: &status::TypeRow) -> TypeStatus {
    TypeStatus {
        r#type: row.kind.short().to_owned(),
        state: row.state.to_owned(),
        resources: row.resources,
        errors: row.errors.clone(),
    }
}

/// The resources of a proxy's view, by the replica that it is connected to.
pub(super) async fn config(context: &Context, request: &ProxyConfigRequest) -> Result<ProxyConfigResponse, Status> {
    let missing = match own_config(context, request) {
        Err(missing) if missing.code() == Code::NotFound => missing,
        answer => return answer,
    };
    let asked = context.replicas.ask(|mut client| {
        let request = request.clone();
        async move { client.config(request).await }
    });
    let mut unreachable = Vec::new();
    for (name, answer) in asked.await {
        match answer {
            Ok(mut answer) => {
                answer.stale = replicas::stale([(&*name, answer.stale.as_str())].into_iter());
                return Ok(answer);
            }
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => unreachable.push(format!("{name}: {}", reason(&status))),
        }
    }
    if unreachable.is_empty() {
        return Err(missing);
    }
    let text = format!("{}; not all replicas answered: {}", missing.message(), unreachable.join("; "));
    Err(Status::not_found(text))
}

/// The resources of the view of a proxy of this replica, secrets redacted.
pub(super) fn own_config(context: &Context, request: &ProxyConfigRequest) -> Result<ProxyConfigResponse, Status> {
    let kinds = if request.r#type.is_empty() {
        ResourceType::ALL.to_vec()
    } else {
        let kind = ResourceType::parse(&request.r#type).ok_or_else(|| {
            Status::invalid_argument(format!(
                "there is no type {:?}; types are {}",
                request.r#type,
                ResourceType::ALL.map(|kind| kind.short().to_ascii_lowercase()).join(", ")
            ))
        })?;
        vec![kind]
    };
    let audience = status::audience(&context.feedback, &request.proxy).ok_or_else(|| {
        Status::not_found(format!("no proxy {:?} is connected; see `tidegate proxy status`", request.proxy))
    })?;
    let mut resources = Vec::new();
    if let Some(view) = context.views.get(&audience) {
        for kind in kinds {
            let message = descriptor::message_name(kind.url());
            let held: Vec<_> = view.read().entries(kind).map(|(_, e)| Arc::clone(&e.resource)).collect();
            for resource in held {
                let mut value = json::to_json(message, &resource.payload)
                    .map_err(|error| Status::internal(format!("{resource:?}: {error}")))?;
                json::redact_secrets(message, &mut value);
                resources.push(ConfigResource {
                    r#type: kind.short().to_owned(),
                    name: resource.name.to_string(),
                    version: resource.version.to_string(),
                    json: value.to_string(),
                });
            }
        }
    }
    let (stale, replica) = (context.stale(), context.replica.to_string());
    Ok(ProxyConfigResponse { resources, stale, replica, unreachable: Vec::new() })
}
