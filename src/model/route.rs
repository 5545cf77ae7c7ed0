//! Gateway API v1.6: `HTTPRoute`, the features of it that we serve.

use std::time::Duration;

/// Routes of HTTP traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRouteSpec {
    /// Where it attaches.
    pub parents: Vec<ParentRef>,
    /// Lower case; empty: the listeners' own.
    pub hostnames: Vec<String>,
    /// 1 to 16 (a manifest without gives the one default rule).
    pub rules: Vec<RouteRule>,
}

/// A Gateway, or one listener of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct ParentRef {
    pub namespace: String,
    pub name: String,
    pub section_name: Option<String>,
    pub port: Option<u16>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Its section name, if it has one.
    pub name: Option<String>,
    /// Any of these; at least one (default: path prefix `/`).
    pub matches: Vec<RouteMatch>,
    /// In order.
    pub filters: Vec<Filter>,
    /// Weighted; empty: 500, unless a redirect answers.
    pub backends: Vec<BackendRef>,
    /// `timeouts.request`; zero: none.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`; zero: none.
    pub backend_request_timeout: Option<Duration>,
}

/// All of it must match.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct RouteMatch {
    pub path: PathMatch,
    pub headers: Vec<HeaderMatch>,
    pub query_params: Vec<HeaderMatch>,
    pub method: Option<String>,
}

/// How the path matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// By segment; no trailing slash but for `/` itself.
    Prefix(String),
    /// RE2, the whole path.
    Regex(String),
}

/// A header or a query parameter; header names are lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct HeaderMatch {
    pub name: String,
    pub value: StringMatch,
}

/// How a value matches.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub enum StringMatch {
    Exact(String),
    Regex(String),
}

/// What happens to a request or its response on the way.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub enum Filter {
    RequestHeaders(HeaderChange),
    ResponseHeaders(HeaderChange),
    Mirror(MirrorFilter),
    Redirect(RedirectFilter),
    Rewrite(RewriteFilter),
}

/// `RequestHeaderModifier` and `ResponseHeaderModifier`; names are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct HeaderChange {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

/// `RequestMirror`: every request, to one service.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct MirrorFilter {
    pub backend: BackendRef,
}

/// `RequestRedirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct RedirectFilter {
    /// `http` or `https`.
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathRewrite>,
    pub port: Option<u16>,
    /// 301 or 302.
    pub status_code: u16,
}

/// `URLRewrite`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub struct RewriteFilter {
    pub hostname: Option<String>,
    pub path: Option<PathRewrite>,
}

/// How the path changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Gateway API's own names")]
pub enum PathRewrite {
    Full(String),
    /// The rule's matches must all be prefixes then.
    Prefix(String),
}

/// A service and its share.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendRef {
    /// The service's namespace (the route's own by default).
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// `None`: only valid when the kind is not ours; then the reference is invalid.
    pub port: Option<u16>,
    /// Default 1; 0 takes no traffic.
    pub weight: u32,
    /// Of this back end alone: header modifiers only.
    pub filters: Vec<Filter>,
    /// `Some`: group and kind are not ours, e.g. `example.com/Widget`; the share answers 500 (`InvalidKind`).
    pub foreign_kind: Option<String>,
}
