//! `HTTPRoute` (Gateway API v1.6): parents, hostnames, rules, matches, back ends.

use std::time::Duration;

use super::{
    filter::{self, Place},
    gateway::{self, GROUP},
    regex, text,
    tree::{Value, quoted},
    walk::{At, Fields, distinct},
};
use crate::model::{
    BackendRef, Filter, HeaderMatch, HttpRouteSpec, Metadata, ParentRef, PathMatch, PathRewrite, RouteMatch, RouteRule,
    StringMatch,
};

/// Matches of all rules together (Gateway API: "must be less than 128", and its rule allows 128).
const MAX_MATCHES: usize = 128;

pub(super) fn read(at: &At<'_>, metadata: &Metadata) -> Option<HttpRouteSpec> {
    let fields = at.fields_but(
        &["parentRefs", "hostnames", "rules"],
        &[("useDefaultGateways", "default Gateways are not supported: name the Gateway in parentRefs")],
    )?;
    let parents = read_parents(&fields, metadata);
    let hostnames: Vec<_> = fields
        .items("hostnames", 16)
        .into_iter()
        .filter_map(|at| Some((at.checked(text::hostname)?.to_owned(), at)))
        .collect();
    distinct(hostnames.iter().map(|(name, at)| (name, at.clone())), "this hostname");
    let rules = match fields.get("rules") {
        None => vec![default_rule()],
        Some(at) => {
            let items = at.items(16);
            if items.is_empty() && matches!(at.node.value, Value::List(_)) {
                at.fault("at least one rule is needed here (or remove the field for the default one)");
            }
            let rules: Vec<_> = items.iter().filter_map(|item| Some((read_rule(item, metadata)?, item))).collect();
            distinct(rules.iter().filter_map(|(r, at)| Some((r.name.as_ref()?, (*at).clone()))), "this rule's name");
            let matches: usize = rules.iter().map(|(rule, _)| rule.matches.len()).sum();
            if matches > MAX_MATCHES {
                at.fault(format!("the rules have {matches} matches together, at most {MAX_MATCHES} are allowed"));
            }
            rules.into_iter().map(|(rule, _)| rule).collect()
        }
    };
    Some(HttpRouteSpec { parents, hostnames: hostnames.into_iter().map(|(name, _)| name).collect(), rules })
}

fn default_match() -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix("/".into()), headers: Vec::new(), query_params: Vec::new(), method: None }
}

/// What a route without rules says: everything, to no back end.
fn default_rule() -> RouteRule {
    RouteRule {
        name: None,
        matches: vec![default_match()],
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout: None,
        backend_request_timeout: None,
    }
}

fn read_parents(fields: &Fields<'_>, metadata: &Metadata) -> Vec<ParentRef> {
    let items = fields.items("parentRefs", 32);
    if items.is_empty() {
        fields.at.warn("without `parentRefs` the route attaches to no Gateway");
    }
    let mut parents = Vec::new();
    for at in items {
        let Some(fields) = at.fields(&["group", "kind", "namespace", "name", "sectionName", "port"]) else { continue };
        let (group, kind) = (fields.text("group").unwrap_or(GROUP), fields.text("kind").unwrap_or("Gateway"));
        let name = fields.need("name").and_then(|at| at.checked(text::subdomain));
        let namespace = match fields.get("namespace") {
            Some(at) => at.checked(text::label),
            None => Some(metadata.namespace.as_str()),
        };
        let section_name = fields.get("sectionName").and_then(|at| at.checked(text::subdomain)).map(str::to_owned);
        let port = fields.get("port").and_then(|at| at.port());
        match (group, kind) {
            (GROUP, "Gateway") => {}
            (_, "ListenerSet" | "XListenerSet") => {
                at.fault("ListenerSets are not supported yet (feature ListenerSet): name the Gateway");
                continue;
            }
            (group, kind) => {
                at.warn(format!("Tidegate ignores this parent: {kind:?} of the group {group:?} is not a Gateway"));
                continue;
            }
        }
        if let (Some(name), Some(namespace)) = (name, namespace) {
            let parent = ParentRef { namespace: namespace.to_owned(), name: name.to_owned(), section_name, port };
            parents.push((at, parent));
        }
    }
    let same = |a: &ParentRef, b: &ParentRef| (&a.namespace, &a.name) == (&b.namespace, &b.name);
    let key = |p: &ParentRef| (p.namespace.clone(), p.name.clone(), p.section_name.clone(), p.port);
    distinct(parents.iter().map(|(at, p)| (key(p), at.clone())), "this parent");
    for (at, parent) in parents.iter().filter(|(_, p)| p.section_name.is_none() && p.port.is_none()) {
        let others = parents.iter().filter(|(_, p)| same(p, parent) && key(p) != key(parent)).count();
        if others > 0 {
            at.fault("the same Gateway stands here more than once: each needs a `sectionName` or `port` then");
        }
    }
    parents.into_iter().map(|(_, parent)| parent).collect()
}

fn read_rule(at: &At<'_>, metadata: &Metadata) -> Option<RouteRule> {
    let fields = at.fields_but(
        &["name", "matches", "filters", "backendRefs", "timeouts"],
        &[
            ("retry", "retries are not supported yet (feature HTTPRouteRetry): remove this field"),
            (
                "sessionPersistence",
                "session persistence is not supported yet (feature HTTPRouteSessionPersistence): remove this field",
            ),
        ],
    )?;
    let name = fields.get("name").and_then(|at| at.checked(text::subdomain)).map(str::to_owned);
    let mut matches: Vec<_> = fields.items("matches", 64).iter().filter_map(read_match).collect();
    if matches.is_empty() {
        matches.push(default_match());
    }
    let filter_items = fields.items("filters", 16);
    let filters = filter::read_all(&filter_items, Place::Rule, metadata);
    let backend_items = fields.items("backendRefs", 16);
    let backends: Vec<_> = backend_items.iter().filter_map(|at| read_backend(at, metadata, false)).collect();
    let redirects = filters.iter().any(|f| matches!(f, Filter::Redirect(_)));
    if let (true, Some(first)) = (redirects, backend_items.first()) {
        first.fault("a rule with RequestRedirect has no back ends: remove them, or the filter");
    }
    let replaces_prefix = |f: &&Filter| match f {
        Filter::Redirect(r) => matches!(r.path, Some(PathRewrite::Prefix(_))),
        Filter::Rewrite(r) => matches!(r.path, Some(PathRewrite::Prefix(_))),
        _ => false,
    };
    if filters.iter().find(replaces_prefix).is_some() && !matches.iter().all(|m| matches!(m.path, PathMatch::Prefix(_)))
    {
        at.fault("ReplacePrefixMatch needs matches of type PathPrefix only: move the others to a rule of their own");
    }
    let timeouts = fields.get("timeouts").and_then(|at| read_timeouts(&at));
    let (request_timeout, backend_request_timeout) = timeouts.unwrap_or_default();
    Some(RouteRule { name, matches, filters, backends, request_timeout, backend_request_timeout })
}

fn read_timeouts(at: &At<'_>) -> Option<(Option<Duration>, Option<Duration>)> {
    let fields = at.fields(&["request", "backendRequest"])?;
    let request = fields.get("request").and_then(|at| at.parsed(text::duration));
    let backend_at = fields.get("backendRequest");
    let backend = backend_at.as_ref().and_then(|at| at.parsed(text::duration));
    if let (Some(at), Some(request), Some(backend)) = (backend_at, request, backend)
        && !request.is_zero()
        && backend > request
    {
        at.fault("`backendRequest` must not be longer than `request`");
    }
    Some((request, backend))
}

fn read_match(at: &At<'_>) -> Option<RouteMatch> {
    let fields = at.fields(&["path", "headers", "queryParams", "method"])?;
    let mut out = default_match();
    if let Some(path) = fields.get("path").and_then(|at| read_path(&at)) {
        out.path = path;
    }
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].map(|m| (m, m));
    out.method = fields.get("method").and_then(|at| at.word(&methods)).map(str::to_owned);

    // Names that differ only in case are one header, of which the first counts (HTTPHeaderMatch).
    for at in fields.items("headers", 16) {
        let Some(mut header) = read_header(&at, 4096) else { continue };
        let written = header.name.clone();
        header.name.make_ascii_lowercase();
        if out.headers.iter().any(|h: &HeaderMatch| h.name == header.name) {
            at.fault(format!("the header {} is matched twice: keep one", quoted(&written)));
        }
        out.headers.push(header);
    }
    let mut params = Vec::new();
    for at in fields.items("queryParams", 16) {
        if let Some(param) = read_header(&at, 1024) {
            params.push((at, param));
        }
    }
    distinct(params.iter().map(|(at, p)| (&p.name, at.clone())), "this query parameter");
    out.query_params = params.into_iter().map(|(_, param)| param).collect();
    Some(out)
}

fn read_path(at: &At<'_>) -> Option<PathMatch> {
    let fields = at.fields(&["type", "value"])?;
    let kind = match fields.get("type") {
        None => "PathPrefix",
        Some(at) => at.word(&["Exact", "PathPrefix", "RegularExpression"].map(|w| (w, w)))?,
    };
    let Some(value) = fields.get("value") else {
        if kind == "PathPrefix" {
            return Some(PathMatch::Prefix("/".into()));
        }
        fields.need("value");
        return None;
    };
    match kind {
        "Exact" => Some(PathMatch::Exact(value.checked(text::match_path)?.to_owned())),
        "PathPrefix" => {
            let path = value.checked(text::match_path)?;
            let trimmed = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
            Some(PathMatch::Prefix(trimmed.to_owned()))
        }
        _ => Some(PathMatch::Regex(value.checked(regex::check)?.to_owned())),
    }
}

fn read_header(at: &At<'_>, longest: usize) -> Option<HeaderMatch> {
    let fields = at.fields(&["type", "name", "value"])?;
    let name = fields.need("name").and_then(|at| at.checked(text::header_name));
    let regular = match fields.get("type") {
        None => Some(false),
        Some(at) => at.word(&[("Exact", false), ("RegularExpression", true)]),
    };
    let value = fields.need("value");
    let value = match (regular?, value?) {
        (true, at) => StringMatch::Regex(at.checked(regex::check)?.to_owned()),
        (false, at) => StringMatch::Exact(at.checked(|t| exact_value(t, longest))?.to_owned()),
    };
    Some(HeaderMatch { name: name?.to_owned(), value })
}

fn exact_value(text: &str, longest: usize) -> Result<(), String> {
    if text.is_empty() || text.len() > longest {
        return Err(format!("is not 1 to {longest} bytes long"));
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character, which no request carries".into());
    }
    Ok(())
}

/// A back end of a rule, or (`mirror`) of a mirror, which has neither weight nor filters.
pub(super) fn read_backend(at: &At<'_>, metadata: &Metadata, mirror: bool) -> Option<BackendRef> {
    let fields = if mirror {
        at.fields(&["group", "kind", "namespace", "name", "port"])?
    } else {
        at.fields(&["group", "kind", "namespace", "name", "port", "weight", "filters"])?
    };
    let group = fields.get("group").map_or(Some(String::new()), |at| gateway::read_group(&at));
    let kind = fields.get("kind").map_or(Some("Service"), |at| at.text());
    let name = fields.need("name").and_then(|at| at.checked(text::subdomain));
    let namespace = match fields.get("namespace") {
        Some(at) => at.checked(text::label),
        None => Some(metadata.namespace.as_str()),
    };
    let port = fields.get("port").and_then(|at| at.port());
    let (mut weight, mut filters) = (1, Vec::new());
    if !mirror {
        weight = fields.get("weight").and_then(|at| at.count(0, 1_000_000)).unwrap_or(1);
        filters = filter::read_all(&fields.items("filters", 16), Place::Backend, metadata);
    }
    let (group, kind) = (group?, kind?);
    let ours = kind == "Service" && matches!(group.as_str(), "" | "tidegate.dev");
    if ours && fields.get("port").is_none() {
        at.fault("a reference to a Service needs a `port`");
    }
    let foreign_kind = (!ours).then(|| if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") });
    let (namespace, name) = (namespace?.to_owned(), name?.to_owned());
    Some(BackendRef { namespace, name, port, weight, filters, foreign_kind })
}
