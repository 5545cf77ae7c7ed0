//! References out of an object: back ends, certificates, and the grants that they need across namespaces.

use crate::{
    compile::{plan::ServiceTarget, reader::Reader},
    model::{AppProtocol, BackendRef, ObjectRef},
};

use super::backbone::reached;

/// The API group of Gateways and routes.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Why a reference leads nowhere: Gateway API's reason, and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadReference {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

fn bad<T>(reason: &'static str, message: String) -> Result<T, BadReference> {
    Err(BadReference { reason, message })
}

/// Whether an object `from` may name `kinds` (all words for one kind of ours) `name` in another namespace: within its
/// own it always may (Gateway API, `ReferenceGrant`).
fn granted(from: &ObjectRef, namespace: &str, kinds: &[&str], name: &str, reader: &Reader) -> bool {
    from.namespace == namespace
        || reader.grants(namespace).any(|grant| {
            let may = |who: &crate::model::GrantFrom| {
                who.group == GATEWAY_GROUP && who.kind == from.kind.as_str() && who.namespace == from.namespace
            };
            let what = |to: &crate::model::GrantTo| {
                matches!(to.group.as_str(), "" | "tidegate.dev")
                    && kinds.contains(&to.kind.as_str())
                    && to.name.as_ref().is_none_or(|only| only == name)
            };
            grant.from.iter().any(may) && grant.to.iter().any(what)
        })
}

/// The service port that a back end names.
pub(crate) fn backend(route: &ObjectRef, backend: &BackendRef, reader: &Reader) -> Result<ServiceTarget, BadReference> {
    let BackendRef { namespace, name, .. } = backend;
    if let Some(foreign) = &backend.foreign_kind {
        return bad("InvalidKind", format!("{foreign} {name} is no Service; only those can be back ends"));
    }
    // Asked before existence, so that a refusal tells nothing about other namespaces.
    if !granted(route, namespace, &["Service"], name, reader) {
        return bad(
            "RefNotPermitted",
            format!(
                "no ReferenceGrant in namespace {namespace} lets an HTTPRoute of {} name Service {name}",
                route.namespace
            ),
        );
    }
    let Some((stored, spec)) = reader.service(namespace, name) else {
        return bad("BackendNotFound", format!("there is no Service {namespace}/{name}"));
    };
    let Some(number) = backend.port else {
        return bad("BackendNotFound", format!("the reference to Service {namespace}/{name} lacks a port"));
    };
    let Some(port) = spec.ports.iter().find(|port| port.port == number) else {
        let ports: Vec<String> = spec.ports.iter().map(|port| port.port.to_string()).collect();
        return bad(
            "BackendNotFound",
            format!("Service {namespace}/{name} has no port {number}; it has {}", ports.join(", ")),
        );
    };
    if port.app_protocol == AppProtocol::H2c {
        return bad(
            "UnsupportedProtocol",
            format!("port {number} of Service {namespace}/{name} speaks h2c, which no route serves yet"),
        );
    }
    let (group, sites) = reached(stored, reader);
    Ok(ServiceTarget {
        source: (*stored.reference).clone(),
        service: format!("{namespace}/{name}:{number}"),
        group,
        sites,
        traffic_class: spec.traffic_class,
        request_timeout: spec.request_timeout,
    })
}

/// The Secret that a certificate reference of a Gateway names: `<namespace>/<certificate>`.
pub(crate) fn certificate(
    gateway: &ObjectRef,
    (namespace, name): &(String, String),
    reader: &Reader,
) -> Result<String, BadReference> {
    if !granted(gateway, namespace, &["Secret", "Certificate"], name, reader) {
        return bad(
            "RefNotPermitted",
            format!(
                "no ReferenceGrant in namespace {namespace} lets a Gateway of {} name Certificate {name}",
                gateway.namespace
            ),
        );
    }
    match reader.certificate(namespace, name) {
        Some(_) => Ok(format!("{namespace}/{name}")),
        None => bad("InvalidCertificateRef", format!("there is no Certificate {namespace}/{name}")),
    }
}
