//! `EnvoyResource`: a resource in Envoy's own words, and what it may not be called or lead to.

mod message;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::{
    Mode, selector, text,
    tree::quoted,
    walk::{At, Fields},
};
use crate::{
    model::{EnvoyResourceSpec, Role, SERVICE_HEADER, XDS_CLUSTER},
    xds::{
        ResourceType, TTL_MIN,
        descriptor::message_name,
        json::{from_json, redact_secrets, to_json},
        name::{fault, is_glob, normal},
        references::{binds, references},
    },
};

/// Longest name, in bytes: that of a name in a subscription.
const MAX_NAME: usize = 512;
/// Clusters that lead from an edge to the cores.
const BACKBONE: &str = "backbone/";

pub(super) fn read(at: &At<'_>) -> Option<EnvoyResourceSpec> {
    let fields = at.fields(&["type", "name", "resource", "roles", "sites", "ttl"])?;
    let kind = fields.need("type").and_then(|at| at.parsed(parse_type));
    let roles = read_roles(&fields);
    let sites = fields.get("sites").and_then(|at| at.parsed(selector::parse));
    let ttl = fields.get("ttl").and_then(|at| read_ttl(&at, kind));
    let (resource, kind) = (fields.need("resource")?, kind?);
    let full_name = message_name(kind.url());
    let before = at.report.count();
    let payload = message::read(&resource, full_name)?;
    let name = read_name(&fields, &resource, kind, &payload)?;
    let confidential = names(&resource, kind, full_name, &payload);
    let binds = if kind == ResourceType::Listener { binds(&payload) } else { Vec::new() };
    let type_url = kind.url().to_owned();
    (at.report.count() == before).then_some(EnvoyResourceSpec {
        type_url,
        name,
        payload,
        confidential,
        binds,
        roles,
        sites,
        ttl,
    })
}

/// The type of a manifest's resource, by URL, short name or Envoy's word.
fn parse_type(text: &str) -> Result<ResourceType, String> {
    ResourceType::from_url(text).or_else(|| ResourceType::parse(text)).ok_or_else(|| {
        let words = ResourceType::ALL.map(ResourceType::word);
        let near = words.iter().find(|word| strsim::damerau_levenshtein(word, &text.to_lowercase()) <= 2);
        match near {
            Some(near) => format!("is no type of resource: did you mean `{near}`?"),
            None => format!("is no type of resource (there are {}, their short names and type URLs)", words.join(", ")),
        }
    })
}

fn read_roles(fields: &Fields<'_>) -> BTreeSet<Role> {
    let Some(at) = fields.get("roles") else { return BTreeSet::from([Role::Edge]) };
    let roles: BTreeSet<Role> =
        at.items(2).iter().filter_map(|at| at.word(&[("edge", Role::Edge), ("core", Role::Core)])).collect();
    if roles.is_empty() {
        at.fault("at least one is needed here: edge, core");
    }
    roles
}

/// A time to live that heartbeats can keep, of a type that Envoy lets run out.
fn read_ttl(at: &At<'_>, kind: Option<ResourceType>) -> Option<Duration> {
    let ttl = at.parsed(|text| match text::some_duration(text)? {
        ttl if ttl < TTL_MIN => Err(format!("is too short for heartbeats: write at least {}s", TTL_MIN.as_secs())),
        ttl => Ok(ttl),
    });
    if let Some(kind) = kind.filter(|kind| !kind.expires()) {
        let able = ResourceType::ALL.into_iter().filter(|kind| kind.expires()).map(ResourceType::word);
        at.fault(format!(
            "Envoy lets no {} run out: remove this field (it may stand for {})",
            kind.word(),
            able.collect::<Vec<_>>().join(", ")
        ));
    }
    ttl
}

/// What the wire calls it: the name in the resource. A virtual host is called by its route configuration too, which it
/// does not name itself.
fn read_name(fields: &Fields<'_>, resource: &At<'_>, kind: ResourceType, payload: &Bytes) -> Option<String> {
    let field = if kind == ResourceType::Endpoints { "clusterName" } else { "name" };
    let json = to_json(message_name(kind.url()), payload).ok()?;
    let own = json.get(field).and_then(|name| name.as_str()).unwrap_or_default();
    let place = message::locate(resource, field);
    let name = match (fields.get("name"), kind == ResourceType::VirtualHost) {
        (None, false) => own,
        (Some(at), true) => {
            let name = at.text()?;
            if name.split_once('/').is_none_or(|(routes, host)| routes.is_empty() || host.is_empty()) {
                at.fault(format!("{} is not <route configuration>/<domain>", quoted(name)));
            }
            name
        }
        (None, true) => {
            fields.at.fault("a virtual host needs a `name` beside `type`: <route configuration>/<domain>");
            own
        }
        (Some(at), false) => {
            at.fault("the name stands in the resource: remove this field");
            own
        }
    };
    if name.is_empty() || name.len() > MAX_NAME {
        place.fault(format!("a resource needs a name of at most {MAX_NAME} bytes"));
    } else if let Some(why) = reserved(kind, name) {
        place.fault(format!("{} is reserved: {why}", quoted(name)));
    } else if let Some(why) = unfit(kind, name) {
        // What was accepted before stays as it is.
        let message = format!("{} {why}", quoted(name));
        if place.report.mode() == Mode::Strict { place.fault(message) } else { place.warn(message) }
    }
    Some(name.to_owned())
}

/// Why nobody could ask for a resource of this name: names are looked up in their normal form.
fn unfit(kind: ResourceType, name: &str) -> Option<String> {
    if let Some(fault) = fault(kind, name) {
        return Some(format!("can be the name of no {}: {fault}", kind.word()));
    }
    if is_glob(name) {
        return Some("is the name of a whole collection: give this one a name of its own".to_owned());
    }
    let normal = normal(name);
    (normal != name).then(|| format!("is not the normal form of this name: write {normal:?}"))
}

/// Names that generated resources bear, or may come to bear.
fn reserved(kind: ResourceType, name: &str) -> Option<&'static str> {
    const OURS: &str = "Tidegate names its own resources so";
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if name == "*" || starts(&["tidegate:", "tidegate/"]) {
        return Some(OURS);
    }
    match kind {
        ResourceType::Cluster | ResourceType::Endpoints if name == XDS_CLUSTER => {
            Some("the cluster of the control plane stands in the bootstrap")
        }
        ResourceType::Cluster | ResourceType::Endpoints if is_service(name) => {
            Some("at a core edges reach every cluster of such a name (<namespace>/<service>:<port>)")
        }
        ResourceType::Cluster | ResourceType::Endpoints => starts(&[BACKBONE]).then_some(OURS),
        ResourceType::Listener => (name == "backbone" || starts(&["gateway/"])).then_some(OURS),
        ResourceType::Route | ResourceType::VirtualHost => {
            (name == "backbone" || starts(&["backbone/", "http/", "https/", "streamed/"])).then_some(OURS)
        }
        ResourceType::Secret => name.contains('/').then_some("Certificates are served under <namespace>/<name>"),
        ResourceType::Extension | ResourceType::ScopedRoute | ResourceType::Runtime => None,
    }
}

/// `<namespace>/<service>:<port>`, as a core's route matches the header that names a service.
fn is_service(name: &str) -> bool {
    let Some((namespace, rest)) = name.split_once('/') else { return false };
    let Some((service, port)) = rest.rsplit_once(':') else { return false };
    let plain = |text: &str, also: &[u8]| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || also.contains(&b);
        !text.is_empty() && text.bytes().all(fits)
    };
    plain(namespace, b"") && plain(service, b".") && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Checks what it leads to; answers whether it holds a secret or asks for one.
fn names(at: &At<'_>, kind: ResourceType, full_name: &str, payload: &Bytes) -> bool {
    let found = references(full_name, payload, SERVICE_HEADER, is_service);
    for path in &found.chosen_by_client {
        message::locate(at, path)
            .fault("a client could choose any cluster by this, the control plane's own too: name the clusters");
    }
    for path in &found.forged {
        message::locate(at, path).fault(format!(
            "a client could choose the service behind a backbone group: {SERVICE_HEADER} may only be set to \
             <namespace>/<service>:<port>, with appendAction OVERWRITE_IF_EXISTS_OR_ADD"
        ));
    }
    if found.requires.iter().any(|(kind, name)| *kind == ResourceType::Route && &**name == "backbone") {
        at.fault("the route configuration \"backbone\" is for edges alone: whoever comes to it chooses his service");
    }
    if found.children.iter().any(|(kind, name)| *kind == ResourceType::Endpoints && name.starts_with(BACKBONE)) {
        at.fault(format!("endpoints under {BACKBONE} are gateways of cores: name the backbone group in a route"));
    }
    for cluster in &found.clusters {
        let place = || message::locate(at, &cluster.path);
        if cluster.name == XDS_CLUSTER {
            place().fault("this cluster leads to the control plane and is not for traffic");
        } else if cluster.name.starts_with(BACKBONE) && !cluster.fixed && found.forged.is_empty() {
            place().fault(format!(
                "a client could choose the service behind a backbone group: only a route may lead there, one that \
                 sets the header {SERVICE_HEADER} to <namespace>/<service>:<port> in its requestHeadersToAdd, with \
                 appendAction OVERWRITE_IF_EXISTS_OR_ADD"
            ));
        }
    }
    let asks = found.children.iter().any(|(kind, _)| *kind == ResourceType::Secret);
    kind == ResourceType::Secret || asks || holds_secret(full_name, payload)
}

fn holds_secret(full_name: &str, payload: &Bytes) -> bool {
    // What cannot be shown may be one.
    let Ok(json) = to_json(full_name, payload) else { return true };
    let mut redacted = json.clone();
    redact_secrets(full_name, &mut redacted);
    redacted != json
}

/// Hides the secrets of a manifest's resource; all of it where it cannot be told what is one.
pub(super) fn redact(spec: &mut serde_json::Map<String, serde_json::Value>) {
    let kind = spec.get("type").and_then(|kind| kind.as_str()).and_then(|kind| parse_type(kind).ok());
    let Some(resource) = spec.get_mut("resource") else { return };
    match kind.map(|kind| message_name(kind.url())) {
        Some(full_name) if from_json(full_name, resource).is_ok() => redact_secrets(full_name, resource),
        _ => *resource = super::yaml::REDACTED.into(),
    }
}
