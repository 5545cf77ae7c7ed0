//! What all manifests share: `apiVersion`, `kind`, `metadata`; then on to the reader of the kind.

use std::collections::BTreeMap;

use super::{
    certificate, gateway, raw, route, selector, service, site, text,
    tree::{Node, Value, quoted},
    walk::At,
};
use crate::model::{Kind, Metadata, NamespaceSpec, Object, Spec};

/// Metadata that a server writes: taken from `get -o yaml`, and ignored.
const SERVER_FIELDS: [&str; 10] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
];

/// Kinds that people bring along, and what to do about them.
const FOREIGN: [(&str, &str); 12] = [
    ("GRPCRoute", "GRPCRoute is not supported yet (feature GRPCRoute)"),
    ("TLSRoute", "TLSRoute is not supported yet (feature TLSRoute)"),
    ("TCPRoute", "TCPRoute is not supported yet (feature TCPRoute)"),
    ("UDPRoute", "UDPRoute is not supported yet (feature UDPRoute)"),
    ("ListenerSet", "ListenerSet is not supported yet (feature ListenerSet): write the listeners into the Gateway"),
    ("XListenerSet", "ListenerSet is not supported yet (feature ListenerSet): write the listeners into the Gateway"),
    ("BackendTLSPolicy", "BackendTLSPolicy is not supported yet (feature BackendTLSPolicy): use `tls` of the Service"),
    ("XBackendTrafficPolicy", "BackendTrafficPolicy is not supported yet: use the fields of the Service"),
    ("GatewayClass", "the GatewayClass `tidegate` is built in: remove this document"),
    ("Secret", "there are no Secrets here: write a Certificate of tidegate.dev/v1alpha1"),
    ("List", "lists are not read: write each item as a document of its own, parted by `---`"),
    ("EndpointSlice", "there are no EndpointSlices here: write an EndpointSet of tidegate.dev/v1alpha1"),
];

/// Reads one document.
pub(super) fn read(at: &At<'_>) -> Option<Object> {
    let kind = read_kind(at)?;
    let fields = at.fields(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    let (metadata, annotations) = read_metadata(kind, &fields.need("metadata")?)?;
    let optional = matches!(kind, Kind::Fleet | Kind::Namespace);
    let spec = if optional { fields.get("spec") } else { Some(fields.need("spec")?) };
    let empty = Node { value: Value::Map(Vec::new()), span: at.node.span };
    let spec = spec.unwrap_or_else(|| At { node: &empty, path: "spec".into(), report: at.report });
    let spec = match kind {
        Kind::Fleet => Spec::Fleet(site::read_fleet(&spec)?),
        Kind::Namespace => {
            spec.fields(&["finalizers"])?;
            Spec::Namespace(NamespaceSpec {})
        }
        Kind::Site => Spec::Site(site::read_site(&spec)?),
        Kind::Certificate => Spec::Certificate(certificate::read(&spec)?),
        Kind::ReferenceGrant => Spec::ReferenceGrant(gateway::read_grant(&spec)?),
        Kind::Service => Spec::Service(service::read_service(&spec)?),
        Kind::EndpointSet => Spec::EndpointSet(service::read_endpoint_set(&spec)?),
        Kind::Gateway => Spec::Gateway(gateway::read_gateway(&spec, &metadata, annotations.as_ref())?),
        Kind::HttpRoute => Spec::HttpRoute(route::read(&spec, &metadata)?),
        Kind::EnvoyResource => Spec::EnvoyResource(raw::read(&spec)?),
    };
    Some(Object { metadata, spec })
}

fn read_kind(at: &At<'_>) -> Option<Kind> {
    let Value::Map(_) = at.node.value else {
        at.fault(format!("expected a manifest (apiVersion, kind, metadata, spec), found {}", at.node.found()));
        return None;
    };
    let field = |name: &'static str| {
        let node = at.node.get(name).filter(|n| n.value != Value::Null);
        if node.is_none() {
            at.report.fault(at.node.span, name, "this field is missing: add it");
        }
        node.map(|node| At { node, path: name.to_owned(), report: at.report })
    };
    let (version, kind) = (field("apiVersion"), field("kind"));
    let (version, kind) = (version?, kind?);
    let (version_text, kind_text) = (version.text(), kind.text());
    let (version_text, kind_text) = (version_text?, kind_text?);
    let Some(found) = Kind::ALL.into_iter().find(|k| k.as_str() == kind_text) else {
        unknown_kind(&kind, kind_text);
        return None;
    };
    let versions = found.api_versions();
    if !versions.contains(&version_text) {
        let wanted = versions.join(" or ");
        version.fault(format!("{found} has the apiVersion {wanted}, not {}", quoted(version_text)));
        return None;
    }
    Some(found)
}

fn unknown_kind(at: &At<'_>, text: &str) {
    if let Some((_, why)) = FOREIGN.iter().find(|(kind, _)| *kind == text) {
        at.fault(*why);
        return;
    }
    let near = Kind::ALL
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&k.as_str().to_lowercase(), &text.to_lowercase()), k))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let all = Kind::ALL.map(Kind::as_str).join(", ");
    at.fault(match near {
        Some((_, near)) => format!("there is no kind {}: did you mean `{near}`?", quoted(text)),
        None => format!("there is no kind {} (there are {all})", quoted(text)),
    });
}

fn read_metadata<'n>(kind: Kind, at: &At<'n>) -> Option<(Metadata, Option<At<'n>>)> {
    const KNOWN: &[&str] = &[
        "name",
        "namespace",
        "labels",
        "annotations",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "ownerReferences",
        "finalizers",
    ];
    let fields = at.fields_but(KNOWN, &[("generateName", "names are not generated here: write `name`")])?;
    let check = match kind {
        Kind::Site | Kind::Namespace => text::label,
        _ => text::subdomain,
    };
    let name_at = fields.need("name");
    let name = name_at.as_ref().and_then(|at| at.checked(check)).unwrap_or_default();
    if let (Kind::Fleet, Some(at)) = (kind, &name_at)
        && !name.is_empty()
        && name != "fleet"
    {
        at.fault("there is one Fleet, and its name is `fleet`");
    }
    let namespace = match fields.get("namespace") {
        Some(at) if !kind.namespaced() => {
            at.fault(format!("a {kind} belongs to no namespace: remove this field"));
            ""
        }
        Some(at) => at.checked(text::label).unwrap_or_default(),
        None if kind.namespaced() => "default",
        None => "",
    };
    let labels = fields.get("labels").map(|at| selector::read_labels(&at)).unwrap_or_default();
    let annotations_at = fields.get("annotations");
    let annotations = annotations_at.as_ref().map(read_annotations).unwrap_or_default();
    let metadata = Metadata { name: name.to_owned(), namespace: namespace.to_owned(), labels, annotations };
    Some((metadata, annotations_at))
}

fn read_annotations(at: &At<'_>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (key, value) in at.entries() {
        if let Err(why) = text::label_key(&key.to_ascii_lowercase()) {
            value.fault(format!("{key:?} {why}"));
        }
        if key.starts_with("tidegate.dev/") && ![gateway::SITES, gateway::VIRTUAL_HOSTS].contains(&key) {
            value.warn("Tidegate knows no such annotation");
        }
        if let Some(text) = value.text() {
            out.insert(key.to_owned(), text.to_owned());
        }
    }
    out
}

/// The manifest as it is stored.
pub(super) fn stored_form(root: &Node, object: &Object) -> serde_json::Value {
    let mut json = root.to_json();
    if let Some(map) = json.as_object_mut() {
        map.remove("status");
        if let Some(metadata) = map.get_mut("metadata").and_then(|m| m.as_object_mut()) {
            SERVER_FIELDS.iter().for_each(|field| drop(metadata.remove(*field)));
            if object.kind().namespaced() {
                metadata.insert("namespace".into(), object.metadata.namespace.clone().into());
            }
        }
    }
    json
}
