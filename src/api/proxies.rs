//! `proxy status` and `proxy config`.

use std::sync::Arc;

use tonic::Status;

use super::Context;
use crate::{
    rpc::{ConfigResource, ProxyConfigRequest, ProxyConfigResponse, ProxyRow, ProxyStatusResponse, TypeStatus},
    status,
    xds::{ResourceType, descriptor, json},
};

/// One row for each proxy that is connected, or was refused.
pub(super) fn status(context: &Context) -> ProxyStatusResponse {
    let proxies = status::proxies(&context.views, &context.feedback)
        .into_iter()
        .map(|row| ProxyRow {
            id: row.id,
            site: row.site,
            role: row.role,
            proven: row.proven,
            types: row
                .types
                .into_iter()
                .map(|t| TypeStatus {
                    r#type: t.kind.short().to_owned(),
                    state: t.state.to_owned(),
                    resources: t.resources,
                    errors: t.errors,
                })
                .collect(),
            connected_seconds: row.connected_seconds,
            refused: row.refused,
        })
        .collect();
    ProxyStatusResponse { proxies, revision: context.state().revision.0 }
}

/// The resources of a proxy's view, secrets redacted.
pub(super) fn config(context: &Context, request: &ProxyConfigRequest) -> Result<ProxyConfigResponse, Status> {
    let kinds = if request.r#type.is_empty() {
        ResourceType::ALL.to_vec()
    } else {
        let kind = ResourceType::parse(&request.r#type).ok_or_else(|| {
            Status::invalid_argument(format!(
                "there is no type {:?}; types are cds, eds, sds, lds, rds",
                request.r#type
            ))
        })?;
        vec![kind]
    };
    let audience = status::audience(&context.feedback, &request.proxy).ok_or_else(|| {
        Status::not_found(format!("no proxy {:?} is connected here; see `tidegate proxy status`", request.proxy))
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
    Ok(ProxyConfigResponse { resources })
}
