//! Filters of an HTTPRoute's rules and back ends.

use super::{
    route::read_backend,
    text,
    tree::quoted,
    walk::{At, distinct},
};
use crate::model::{Filter, HeaderChange, Metadata, MirrorFilter, PathRewrite, RedirectFilter, RewriteFilter};

/// The field of each supported type.
const TYPES: [(&str, &str); 5] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
];

/// Types that are refused, and why.
const REFUSED: [(&str, &str); 3] = [
    ("CORS", "CORS filters are not supported yet (feature HTTPRouteCORS)"),
    ("ExtensionRef", "ExtensionRef filters are not supported: there is no extension to refer to"),
    ("ExternalAuth", "external authorisation is not supported yet (feature HTTPRouteExternalAuth)"),
];

/// Where filters stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// `rules[].filters`
    Rule,
    /// `rules[].backendRefs[].filters`
    Backend,
}

/// The filters of a rule or a back end: each type once, redirect and rewrite apart.
pub(super) fn read_all(items: &[At<'_>], place: Place, metadata: &Metadata) -> Vec<Filter> {
    let mut filters = Vec::new();
    let mut types = Vec::new();
    for at in items {
        let Some((name, filter)) = read(at, place, metadata) else { continue };
        types.push((name, at.clone()));
        filters.extend(filter);
    }
    let mirrors = types.iter().filter(|(name, _)| *name == "RequestMirror").skip(1);
    for (_, at) in mirrors {
        at.fault("several mirrors are not supported yet (feature HTTPRouteRequestMultipleMirrors): keep one");
    }
    let others = types.iter().filter(|(name, _)| *name != "RequestMirror");
    distinct(others.map(|(name, at)| (*name, at.clone())), "a filter of this type");
    let has = |wanted| types.iter().any(|(name, _)| *name == wanted);
    if let Some((_, at)) = types.iter().find(|(name, _)| *name == "URLRewrite")
        && has("RequestRedirect")
    {
        at.fault("URLRewrite and RequestRedirect exclude each other: keep one");
    }
    filters
}

fn read(at: &At<'_>, place: Place, metadata: &Metadata) -> Option<(&'static str, Option<Filter>)> {
    let fields = at.fields(&[
        "type",
        "requestHeaderModifier",
        "responseHeaderModifier",
        "requestMirror",
        "requestRedirect",
        "urlRewrite",
        "cors",
        "extensionRef",
        "externalAuth",
    ])?;
    let kind = fields.need("type")?;
    let text = kind.text()?;
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == text) {
        kind.fault(*why);
        return None;
    }
    let Some((name, field)) = TYPES.into_iter().find(|(name, _)| *name == text) else {
        let known = TYPES.map(|(name, _)| (name, ()));
        kind.word(&known);
        return None;
    };
    for (other_name, other) in TYPES {
        if let Some(other_at) = fields.get(other).filter(|_| other != field) {
            other_at.fault(format!("the filter's type is {name}: remove this field, or write the type {other_name}"));
        }
    }
    let body = fields.need(field)?;
    if place == Place::Backend && !matches!(name, "RequestHeaderModifier" | "ResponseHeaderModifier") {
        kind.fault(format!("a filter {name} on a single back end is not supported yet: put it on the rule"));
        return Some((name, None));
    }
    let filter = match name {
        "RequestHeaderModifier" => read_headers(&body).map(Filter::RequestHeaders),
        "ResponseHeaderModifier" => read_headers(&body).map(Filter::ResponseHeaders),
        "RequestMirror" => read_mirror(&body, metadata).map(Filter::Mirror),
        "RequestRedirect" => read_redirect(&body).map(Filter::Redirect),
        _ => read_rewrite(&body).map(Filter::Rewrite),
    };
    Some((name, filter))
}

fn read_headers(at: &At<'_>) -> Option<HeaderChange> {
    let fields = at.fields(&["set", "add", "remove"])?;
    let list = |field| {
        let mut changes = Vec::new();
        for at in fields.items(field, 16) {
            let Some(fields) = at.fields(&["name", "value"]) else { continue };
            let name = fields.need("name").and_then(|at| at.checked(text::free_header_name));
            let value = fields.need("value").and_then(|at| at.checked(text::header_value));
            if let (Some(name), Some(value)) = (name, value) {
                changes.push((at, (name.to_ascii_lowercase(), value.to_owned())));
            }
        }
        distinct(changes.iter().map(|(at, (name, _))| (name, at.clone())), "this header");
        changes.into_iter().map(|(_, change)| change).collect()
    };
    let mut remove = Vec::new();
    for at in fields.items("remove", 16) {
        if let Some(name) = at.checked(text::free_header_name) {
            remove.push((at.clone(), name.to_ascii_lowercase()));
        }
    }
    distinct(remove.iter().map(|(at, name)| (name, at.clone())), "this header");
    let remove = remove.into_iter().map(|(_, name)| name).collect();
    Some(HeaderChange { set: list("set"), add: list("add"), remove })
}

fn read_mirror(at: &At<'_>, metadata: &Metadata) -> Option<MirrorFilter> {
    let why = "mirrors of a share of the requests are not supported yet (feature HTTPRouteRequestPercentageMirror): remove this field";
    let fields = at.fields_but(&["backendRef"], &[("percent", why), ("fraction", why)])?;
    let backend = read_backend(&fields.need("backendRef")?, metadata, true)?;
    Some(MirrorFilter { backend })
}

fn read_redirect(at: &At<'_>) -> Option<RedirectFilter> {
    let fields = at.fields(&["scheme", "hostname", "path", "port", "statusCode"])?;
    let scheme = fields.get("scheme").and_then(|at| at.word(&[("http", "http"), ("https", "https")]));
    let hostname = fields.get("hostname").and_then(|at| at.checked(text::precise_hostname));
    let path = fields.get("path").and_then(|at| read_path(&at));
    let port = fields.get("port").and_then(|at| at.port());
    let status_code = match fields.get("statusCode") {
        None => 302,
        Some(at) => match at.whole(100, 999)? {
            301 => 301,
            302 => 302,
            code @ (303 | 307 | 308) => {
                at.fault(format!(
                    "redirects by {code} are not supported yet (feature HTTPRoute{code}RedirectStatusCode): write 301 or 302"
                ));
                return None;
            }
            code => {
                at.fault(format!("{code} is no status of a redirect: write 301 or 302"));
                return None;
            }
        },
    };
    let text = |t: Option<&str>| t.map(str::to_owned);
    Some(RedirectFilter { scheme: text(scheme), hostname: text(hostname), path, port, status_code })
}

fn read_rewrite(at: &At<'_>) -> Option<RewriteFilter> {
    let fields = at.fields(&["hostname", "path"])?;
    let hostname = fields.get("hostname").and_then(|at| at.checked(text::precise_hostname)).map(str::to_owned);
    let path = fields.get("path").and_then(|at| read_path(&at));
    Some(RewriteFilter { hostname, path })
}

/// `HTTPPathModifier`: the field that `type` names, and only that.
fn read_path(at: &At<'_>) -> Option<PathRewrite> {
    let fields = at.fields(&["type", "replaceFullPath", "replacePrefixMatch"])?;
    let (full, prefix) = (fields.get("replaceFullPath"), fields.get("replacePrefixMatch"));
    let only = |other: Option<At<'_>>, name: &str| {
        if let Some(other) = other {
            other.fault(format!("the type is {name}: remove this field"));
        }
    };
    let kind = fields.need("type")?;
    match kind.text()? {
        name @ "ReplaceFullPath" => {
            only(prefix, name);
            let path = fields.need("replaceFullPath")?.checked(text::full_path)?;
            Some(PathRewrite::Full(path.to_owned()))
        }
        name @ "ReplacePrefixMatch" => {
            only(full, name);
            let path = fields.need("replacePrefixMatch")?.checked(text::new_path)?;
            Some(PathRewrite::Prefix(path.to_owned()))
        }
        other => {
            kind.fault(format!("{} is none of ReplaceFullPath, ReplacePrefixMatch", quoted(other)));
            None
        }
    }
}
