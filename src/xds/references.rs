//! What a resource names, whatever it is: a walk over the message by its descriptors.
//!
//! Envoy's API marks no references, but its names are regular: a text field `cluster` or `…cluster_name` names a
//! cluster, in any extension. A name too many costs nothing, since nothing waits for a cluster that is not there.

use std::{net::IpAddr, sync::Arc};

use envoy_types::pb::envoy::config::{
    core::v3::{Address, address, socket_address},
    listener::v3::Listener,
};
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, ReflectMessage, Value};

use super::{
    ANY_SCOPE, ResourceType,
    descriptor::{ANY, MAX_DEPTH, message_name, pool},
    name::normal,
    walk::Walking,
};

/// All that one resource names.
#[derive(Debug, Default)]
pub struct References {
    /// What must follow it on the wire: assignments, secrets, filters. Names are in their normal form.
    pub children: Vec<(ResourceType, Arc<str>)>,
    /// What it leads to: clusters, filters, scopes, route configurations.
    pub requires: Vec<(ResourceType, Arc<str>)>,
    /// Each cluster that it names, and where.
    pub clusters: Vec<ClusterName>,
    /// Where a client chooses the cluster: by a header of its request, or by the name in its TLS handshake.
    pub chosen_by_client: Vec<String>,
    /// Where the header that was asked about may get another value than a fixed and valid one.
    pub forged: Vec<String>,
}

/// A cluster, as one place names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName {
    /// Where in the message, as in its JSON form.
    pub path: String,
    /// Its name.
    pub name: String,
    /// A fixed value of the header that was asked about overwrites the client's on the way there.
    pub fixed: bool,
}

/// Walks the encoded `full_name`. `header`, with a value of which `valid` holds, is what a route may fix
/// ([`ClusterName::fixed`]). What cannot be decoded names nothing.
pub fn references(full_name: &str, bytes: &[u8], header: &str, valid: fn(&str) -> bool) -> References {
    let mut walk = Walk { header, valid, path: String::new(), depth: 0, fixed: false, found: References::default() };
    walk.encoded(full_name, bytes);
    let mut found = walk.found;
    for list in [&mut found.children, &mut found.requires] {
        list.sort();
        list.dedup();
    }
    found
}

struct Walk<'a> {
    header: &'a str,
    valid: fn(&str) -> bool,
    path: String,
    depth: usize,
    fixed: bool,
    found: References,
}

impl Walking for Walk<'_> {
    fn path(&mut self) -> &mut String {
        &mut self.path
    }
}

impl Walk<'_> {
    fn encoded(&mut self, full_name: &str, bytes: &[u8]) {
        let descriptor = pool().get_message_by_name(full_name);
        if let Some(message) = descriptor.and_then(|descriptor| DynamicMessage::decode(descriptor, bytes).ok()) {
            self.message(&message);
        }
    }

    fn message(&mut self, message: &DynamicMessage) {
        if self.depth >= MAX_DEPTH {
            return;
        }
        self.depth += 1;
        let descriptor = message.descriptor();
        let outer = self.fixed;
        match descriptor.full_name() {
            ANY => self.any(message),
            // Their `cluster` is their own name.
            "envoy.config.endpoint.v3.ClusterLoadAssignment" | "envoy.config.core.v3.Node" => {}
            full_name => {
                self.own(full_name, message);
                for (field, value) in message.fields() {
                    self.under(field.json_name(), |walk| walk.field(&field, value));
                }
            }
        }
        self.fixed = outer;
        self.depth -= 1;
    }

    fn any(&mut self, message: &DynamicMessage) {
        let url = text(message, "type_url");
        let value = message.get_field_by_name("value");
        let bytes = value.as_ref().and_then(|value| value.as_bytes()).cloned().unwrap_or_default();
        self.encoded(message_name(&url), &bytes);
    }

    /// What a message names by what it is.
    fn own(&mut self, full_name: &str, message: &DynamicMessage) {
        let has = |field: &str| message.has_field_by_name(field);
        match full_name {
            "envoy.config.cluster.v3.Cluster" if has("eds_cluster_config") => {
                let eds = message.get_field_by_name("eds_cluster_config");
                let service = eds.as_ref().and_then(|eds| eds.as_message()).map(|eds| text(eds, "service_name"));
                let name = service.filter(|name| !name.is_empty()).unwrap_or_else(|| text(message, "name"));
                self.child(ResourceType::Endpoints, &name);
            }
            "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig" if has("sds_config") => {
                self.child(ResourceType::Secret, &text(message, "name"));
            }
            "envoy.extensions.filters.network.http_connection_manager.v3.Rds" => {
                self.require(ResourceType::Route, &text(message, "route_config_name"));
            }
            "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRds" => {
                self.require(ResourceType::ScopedRoute, ANY_SCOPE);
            }
            "envoy.config.route.v3.ScopedRouteConfiguration" => {
                self.require(ResourceType::Route, &text(message, "route_configuration_name"));
            }
            "envoy.config.route.v3.Route" => self.fixed = self.fixes(message),
            // Also that of a virtual host or of all of a route configuration: it would be set after the route's own.
            "envoy.config.core.v3.HeaderValueOption" if self.fixed_by(message) == Some(false) => {
                self.found.forged.push(self.path.clone());
            }
            name if CHOOSERS.contains(&name) => self.found.chosen_by_client.push(self.path.clone()),
            _ if has("config_discovery") && has("name") => {
                let name = text(message, "name");
                self.child(ResourceType::Extension, &name);
                self.require(ResourceType::Extension, &name);
            }
            _ => {}
        }
    }

    /// Whether a route overwrites the header with a value that no client has a say in.
    fn fixes(&self, route: &DynamicMessage) -> bool {
        let added = route.get_field_by_name("request_headers_to_add");
        let added = added.as_ref().and_then(|added| added.as_list()).unwrap_or_default();
        let mut fixed =
            added.iter().filter_map(Value::as_message).filter_map(|option| self.fixed_by(option)).peekable();
        fixed.peek().is_some() && fixed.all(|fixed| fixed)
    }

    /// Whether the header that was asked about gets a fixed value; `None`: it is another one.
    fn fixed_by(&self, option: &DynamicMessage) -> Option<bool> {
        let header = option.get_field_by_name("header")?;
        let header = header.as_message()?;
        if !text(header, "key").eq_ignore_ascii_case(self.header) {
            return None;
        }
        let action = option.get_field_by_name("append_action").and_then(|action| action.as_enum_number());
        Some(action == Some(OVERWRITE_IF_EXISTS_OR_ADD) && (self.valid)(&text(header, "value")))
    }

    fn child(&mut self, kind: ResourceType, name: &str) {
        self.found.children.push((kind, normal(name).into()));
    }

    fn require(&mut self, kind: ResourceType, name: &str) {
        if !name.is_empty() {
            self.found.requires.push((kind, normal(name).into()));
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value) {
        match value {
            Value::Message(message) => self.message(message),
            Value::String(text) => self.text(field, text),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.under(&format!("[{index}]"), |walk| walk.field(field, item));
                }
            }
            Value::Map(entries) => {
                let mut entries: Vec<_> = entries.iter().filter_map(|(k, v)| Some((k, v.as_message()?))).collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                for (key, value) in entries {
                    let key = match key {
                        MapKey::String(text) => format!("[{text:?}]"),
                        other => format!("[{other:?}]"),
                    };
                    self.under(&key, |walk| walk.message(value));
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, field: &FieldDescriptor, text: &str) {
        let name = field.name();
        if name == "cluster_header" || text == TCP_PROXY_CLUSTER {
            self.found.chosen_by_client.push(self.path.clone());
        }
        let names = ["cluster", "clusters", "cluster_name", "cluster_names"].iter().any(|end| name.ends_with(end))
            || (name == "name" && field.parent_message().name().ends_with("ClusterWeight"));
        if names && !text.is_empty() {
            self.require(ResourceType::Cluster, text);
            let (path, name) = (self.path.clone(), text.to_owned());
            self.found.clusters.push(ClusterName { path, name, fixed: self.fixed });
        }
    }
}

/// The TCP addresses of an encoded listener.
pub fn binds(payload: &[u8]) -> Vec<(IpAddr, u16)> {
    let Ok(listener) = Listener::decode(payload) else { return Vec::new() };
    let others = listener.additional_addresses.into_iter().filter_map(|other| other.address);
    let socket = |address: Address| match address.address? {
        address::Address::SocketAddress(socket) if socket.protocol == socket_address::Protocol::Tcp as i32 => {
            let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
            Some((socket.address.parse().ok()?, u16::try_from(port).ok()?))
        }
        _ => None,
    };
    listener.address.into_iter().chain(others).filter_map(socket).collect()
}

/// Filters and specifiers that take the name of a cluster from what a client sends.
const CHOOSERS: [&str; 2] = [
    "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
    "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig",
];

/// The filter state by which a TCP proxy is told another cluster.
const TCP_PROXY_CLUSTER: &str = "envoy.tcp_proxy.cluster";

/// `envoy.config.core.v3.HeaderValueOption.HeaderAppendAction`.
const OVERWRITE_IF_EXISTS_OR_ADD: i32 = 2;

/// A text field of a message; empty if it has none.
fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::json::from_json;
    use ResourceType::{Cluster, Endpoints, Extension, Listener, Route, ScopedRoute, Secret};
    use serde_json::json;

    fn of(kind: ResourceType, value: &serde_json::Value) -> References {
        let name = message_name(kind.url());
        references(name, &from_json(name, value).unwrap(), "x-service", |value| value == "a/b:80")
    }

    fn names(list: &[(ResourceType, Arc<str>)]) -> Vec<String> {
        list.iter().map(|(kind, name)| format!("{} {name}", kind.short())).collect()
    }

    #[test]
    fn a_listener_names_its_filters_scopes_routes_secrets_and_clusters() {
        let hcm = |rest: serde_json::Value| {
            let mut hcm = json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "statPrefix": "x",
                "httpFilters": [{"name": "lua", "configDiscovery": {"configSource": {"ads": {}}, "typeUrls": ["t"]}}],
            });
            hcm.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!({"name": "hcm", "typedConfig": hcm})
        };
        let tcp = json!({"name": "tcp", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "statPrefix": "x", "weightedClusters": {"clusters": [{"name": "c1", "weight": 1}]}}});
        let tls = json!({"name": "tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "commonTlsContext": {"tlsCertificateSdsSecretConfigs": [{"name": "s", "sdsConfig": {"ads": {}}}, {"name": "static"}]}}});
        let found = of(
            Listener,
            &json!({"name": "l", "filterChains": [
                {"filters": [hcm(json!({"rds": {"routeConfigName": "r", "configSource": {"ads": {}}}}))], "transportSocket": tls},
                {"filters": [hcm(json!({"scopedRoutes": {"name": "x", "scopedRds": {"scopedRdsConfigSource": {"ads": {}}}}}))]},
                {"filters": [tcp]},
            ]}),
        );
        assert_eq!(names(&found.children), ["SDS s", "ECDS lua"]);
        assert_eq!(names(&found.requires), ["CDS c1", "ECDS lua", "SRDS *", "RDS r"]);
        assert_eq!(found.clusters[0].path, "filterChains[2].filters[0].typedConfig.weightedClusters.clusters[0].name");
    }

    #[test]
    fn a_cluster_names_its_assignment_and_an_assignment_nothing() {
        let eds = |service: &str| {
            let found = of(Cluster, &json!({"name": "c", "type": "EDS", "edsClusterConfig": {"serviceName": service}}));
            names(&found.children)
        };
        assert_eq!((eds(""), eds("other")), (vec!["EDS c".to_owned()], vec!["EDS other".to_owned()]));
        let named = |id: &str| format!("xdstp://a/envoy.config.endpoint.v3.ClusterLoadAssignment/{id}");
        assert_eq!(eds(&named("%78?b=2&a=1")), [format!("EDS {}", named("x?a=1&b=2"))], "as it is looked up");
        assert!(of(Endpoints, &json!({"clusterName": "c"})).requires.is_empty());
        let found = of(ScopedRoute, &json!({"name": "s", "routeConfigurationName": "r"}));
        assert_eq!(names(&found.requires), ["RDS r"]);
        assert!(of(Secret, &json!({"name": "s"})).children.is_empty());
        let authz = json!({"name": "x", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "grpcService": {"envoyGrpc": {"clusterName": "authz"}}}});
        assert_eq!(names(&of(Extension, &authz).requires), ["CDS authz"]);
    }

    #[test]
    fn a_fixed_header_is_told_from_one_that_a_client_may_set() {
        let route = |headers: serde_json::Value, action: serde_json::Value| {
            let hosts = json!([{"name": "h", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": action, "requestHeadersToAdd": headers}]}]);
            of(Route, &json!({"name": "r", "virtualHosts": hosts}))
        };
        let header = |value: &str, action: &str| json!([{"header": {"key": "X-Service", "value": value}, "appendAction": action}]);
        let fixed = |headers| route(headers, json!({"cluster": "c"})).clusters[0].fixed;
        assert!(fixed(header("a/b:80", "OVERWRITE_IF_EXISTS_OR_ADD")));
        assert!(!fixed(header("a/b:80", "ADD_IF_ABSENT")));
        assert!(!fixed(header("%REQ(x)%", "OVERWRITE_IF_EXISTS_OR_ADD")));
        assert!(!fixed(json!([])));
        let twice = |second: &str| {
            json!([header("a/b:80", "OVERWRITE_IF_EXISTS_OR_ADD")[0], header(second, "OVERWRITE_IF_EXISTS_OR_ADD")[0]])
        };
        assert!(fixed(twice("a/b:80")) && !fixed(twice("%REQ(x)%")), "the last one wins");
        let forged = route(header("%REQ(x)%", "OVERWRITE_IF_EXISTS_OR_ADD"), json!({"cluster": "c"})).forged;
        assert_eq!(forged, ["virtualHosts[0].routes[0].requestHeadersToAdd[0]"]);
        let chosen = route(json!([]), json!({"clusterHeader": "x"}));
        assert_eq!(chosen.chosen_by_client, ["virtualHosts[0].routes[0].route.clusterHeader"]);
    }
}
