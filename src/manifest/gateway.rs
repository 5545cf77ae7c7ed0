//! `Gateway` and `ReferenceGrant` (Gateway API v1.6).

use super::{
    selector, text,
    tree::quoted,
    walk::{At, distinct},
};
use crate::model::{
    AllowedKinds, AllowedNamespaces, GatewaySpec, GrantFrom, GrantTo, LabelSelector, Listener, ListenerProtocol,
    Metadata, ReferenceGrantSpec, VirtualHosts,
};

/// The group of the Gateway API.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";
/// Which sites a Gateway stands at.
pub(super) const SITES: &str = "tidegate.dev/sites";
/// How its virtual hosts are served.
pub(super) const VIRTUAL_HOSTS: &str = "tidegate.dev/virtual-hosts";

pub(super) fn read_gateway(at: &At<'_>, metadata: &Metadata, annotations: Option<&At<'_>>) -> Option<GatewaySpec> {
    let fields = at.fields_but(
        &["gatewayClassName", "listeners"],
        &[
            ("addresses", "addresses are not supported (feature GatewayStaticAddresses): sites bind their own"),
            ("infrastructure", "infrastructure is not supported (feature GatewayInfrastructurePropagation)"),
            ("backendTLS", "client certificates for back ends are not supported yet (feature GatewayBackendClientCertificate)"),
            ("tls", "validation of client certificates is not supported yet (feature GatewayFrontendClientCertificateValidation)"),
            ("allowedListeners", "ListenerSets are not supported yet (feature ListenerSet)"),
            ("defaultScope", "default Gateways are not supported: name the Gateway in parentRefs"),
        ],
    )?;
    let class_at = fields.need("gatewayClassName");
    let class = class_at.as_ref().and_then(|at| at.checked(text::subdomain)).unwrap_or_default();
    if let Some(at) = class_at.filter(|_| !class.is_empty() && class != "tidegate") {
        at.warn(format!("Tidegate ignores this Gateway: its class is {}, not `tidegate`", quoted(class)));
    }
    let listeners: Vec<_> = fields
        .need_items("listeners", 64)
        .into_iter()
        .filter_map(|at| Some((read_listener(&at, &metadata.namespace)?, at)))
        .collect();
    distinct(listeners.iter().map(|(l, at)| (&l.name, at.clone())), "this listener's name");
    let protocol = |l: &Listener| matches!(l.protocol, ListenerProtocol::Https { .. });
    distinct(
        listeners.iter().map(|(l, at)| ((l.port, protocol(l), &l.hostname), at.clone())),
        "this combination of port, protocol and hostname",
    );
    let (sites, virtual_hosts) = annotations.map(read_annotations).unwrap_or_default();
    let listeners = listeners.into_iter().map(|(listener, _)| listener).collect();
    Some(GatewaySpec { class: class.to_owned(), listeners, sites, virtual_hosts })
}

fn read_annotations(at: &At<'_>) -> (Option<LabelSelector>, VirtualHosts) {
    let (mut sites, mut virtual_hosts) = (None, VirtualHosts::Whole);
    for (key, value) in at.entries() {
        if key == SITES {
            sites = value.parsed(selector::parse);
        } else if key == VIRTUAL_HOSTS {
            match value.text() {
                Some("streamed") => virtual_hosts = VirtualHosts::Streamed,
                Some(_) => value.fault("the one value of this annotation is `streamed`"),
                None => {}
            }
        }
    }
    (sites, virtual_hosts)
}

fn read_listener(at: &At<'_>, namespace: &str) -> Option<Listener> {
    let fields = at.fields(&["name", "hostname", "port", "protocol", "tls", "allowedRoutes"])?;
    let name = fields.need("name").and_then(|at| at.checked(text::subdomain));
    let hostname = fields.get("hostname").and_then(|at| at.checked(text::hostname)).map(str::to_owned);
    let port = fields.need("port").and_then(|at| at.port());
    let tls = fields.get("tls");
    let protocol_at = fields.need("protocol");
    let protocol = match protocol_at.as_ref().and_then(At::text) {
        Some("HTTP") => {
            if let Some(tls) = &tls {
                tls.fault("a listener of protocol HTTP has no `tls`: write the protocol HTTPS, or remove this field");
            }
            Some(ListenerProtocol::Http)
        }
        Some("HTTPS") => match tls {
            Some(tls) => read_tls(&tls, namespace),
            None => {
                at.fault("a listener of protocol HTTPS needs `tls` with `certificateRefs`");
                None
            }
        },
        Some(other @ ("TCP" | "UDP" | "TLS")) => {
            if let Some(at) = &protocol_at {
                at.fault(format!("listeners of protocol {other} are not supported yet (feature {other}Route)"));
            }
            None
        }
        Some(other) => {
            if let Some(at) = &protocol_at {
                at.fault(format!("{} is none of HTTP, HTTPS", quoted(other)));
            }
            None
        }
        None => None,
    };
    let (mut allowed_namespaces, mut allowed_kinds) = Default::default();
    if let Some(fields) = fields.get("allowedRoutes").and_then(|at| at.fields(&["namespaces", "kinds"])) {
        if let Some(at) = fields.get("namespaces") {
            allowed_namespaces = read_namespaces(&at).unwrap_or_default();
        }
        allowed_kinds = read_kinds(&fields.items("kinds", 8));
    }
    let name = name?.to_owned();
    Some(Listener { name, hostname, port: port?, protocol: protocol?, allowed_namespaces, allowed_kinds })
}

fn read_tls(at: &At<'_>, namespace: &str) -> Option<ListenerProtocol> {
    let fields = at.fields_but(
        &["mode", "certificateRefs"],
        &[
            ("options", "TLS options are not supported: remove this field"),
            (
                "frontendValidation",
                "validation of client certificates is not supported yet (feature GatewayFrontendClientCertificateValidation)",
            ),
        ],
    )?;
    if let Some(mode) = fields.get("mode") {
        match mode.text() {
            Some("Terminate") | None => {}
            Some("Passthrough") => {
                mode.fault("TLS passthrough is not supported yet (feature TLSRoute): write Terminate");
            }
            Some(other) => mode.fault(format!("{} is none of Terminate, Passthrough", quoted(other))),
        }
    }
    let mut certificates = Vec::new();
    for at in fields.need_items("certificateRefs", 64) {
        let Some(fields) = at.fields(&["group", "kind", "namespace", "name"]) else { continue };
        let (group, kind) = (fields.text("group").unwrap_or(""), fields.text("kind").unwrap_or("Secret"));
        if !matches!((group, kind), ("", "Secret") | ("tidegate.dev" | "", "Certificate")) {
            at.fault(format!(
                "{kind:?} of the group {group:?} holds no certificate: name a Certificate of tidegate.dev"
            ));
        }
        let name = fields.need("name").and_then(|at| at.checked(text::subdomain));
        let space = fields.get("namespace").map_or(Some(namespace), |at| at.checked(text::label));
        if let (Some(name), Some(space)) = (name, space) {
            certificates.push((space.to_owned(), name.to_owned()));
        }
    }
    Some(ListenerProtocol::Https { certificates })
}

fn read_namespaces(at: &At<'_>) -> Option<AllowedNamespaces> {
    #[derive(Clone, Copy)]
    enum From {
        All,
        Same,
        Selector,
    }
    let fields = at.fields(&["from", "selector"])?;
    let words = [("All", From::All), ("Same", From::Same), ("Selector", From::Selector)];
    let from = fields.get("from").map_or(Some(From::Same), |at| at.word(&words));
    let selector = fields.get("selector").map(|at| selector::read(&at));
    match (from?, selector) {
        (From::All, _) => Some(AllowedNamespaces::All),
        (From::Same, _) => Some(AllowedNamespaces::Same),
        (From::Selector, Some(selector)) => Some(AllowedNamespaces::Selector(selector)),
        (From::Selector, None) => {
            at.fault("`from: Selector` needs a `selector`");
            None
        }
    }
}

fn read_kinds(items: &[At<'_>]) -> AllowedKinds {
    let mut ours = items.is_empty();
    for at in items {
        let Some(fields) = at.fields(&["group", "kind"]) else { continue };
        let kind = fields.need("kind").and_then(|at| at.text());
        let group = fields.text("group").unwrap_or(GROUP);
        ours |= group == GROUP && kind == Some("HTTPRoute");
    }
    if ours { AllowedKinds::HttpRoute } else { AllowedKinds::None }
}

pub(super) fn read_grant(at: &At<'_>) -> Option<ReferenceGrantSpec> {
    let fields = at.fields(&["from", "to"])?;
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for at in fields.need_items("from", 16) {
        let Some(fields) = at.fields(&["group", "kind", "namespace"]) else { continue };
        let group = fields.need("group").and_then(|at| read_group(&at));
        let kind = fields.need("kind").and_then(|at| at.text());
        let namespace = fields.need("namespace").and_then(|at| at.checked(text::label));
        if let (Some(group), Some(kind), Some(namespace)) = (group, kind, namespace) {
            from.push(GrantFrom { group, kind: kind.to_owned(), namespace: namespace.to_owned() });
        }
    }
    for at in fields.need_items("to", 16) {
        let Some(fields) = at.fields(&["group", "kind", "name"]) else { continue };
        let group = fields.need("group").and_then(|at| read_group(&at));
        let kind = fields.need("kind").and_then(|at| at.text());
        let name = fields.get("name").and_then(|at| at.checked(text::subdomain)).map(str::to_owned);
        if let (Some(group), Some(kind)) = (group, kind) {
            to.push(GrantTo { group, kind: kind.to_owned(), name });
        }
    }
    Some(ReferenceGrantSpec { from, to })
}

/// An API group: empty for the core group, else a DNS name.
pub(super) fn read_group(at: &At<'_>) -> Option<String> {
    at.checked(|t| if t.is_empty() { Ok(()) } else { text::subdomain(t) }).map(str::to_owned)
}
