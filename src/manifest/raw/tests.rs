//! What is taken as a raw resource, and where each mistake is told.

use std::time::Duration;

use crate::{
    manifest::{Mode, parse, redact, to_yaml},
    model::{EnvoyResourceSpec, Role, Spec},
    xds::{ResourceType, Version},
};

/// A manifest; `resource` is indented below `spec`.
fn manifest(kind: &str, rest: &str, resource: &str) -> String {
    let resource: String = resource.trim_matches('\n').lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: EnvoyResource\nmetadata: {{name: x}}\n\
         spec:\n  type: {kind}\n{rest}  resource:\n{resource}"
    )
}

fn good(text: &str) -> EnvoyResourceSpec {
    let parsed = parse("t", text, Mode::Strict);
    assert!(parsed.faults.is_empty() && parsed.warnings.is_empty(), "{:?}", parsed.faults);
    match parsed.objects.into_iter().next().unwrap().object.spec {
        Spec::EnvoyResource(spec) => spec,
        other => panic!("{other:?}"),
    }
}

/// The one fault.
#[track_caller]
fn fault(kind: &str, resource: &str) -> String {
    let faults = parse("t", &manifest(kind, "", resource), Mode::Strict).faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].to_string()
}

#[test]
fn both_spellings_of_a_field_give_the_same_bytes_and_maps_are_sorted() {
    let bytes = |text: &str| good(&manifest("cluster", "", text)).payload;
    let one = bytes("name: a\nconnect_timeout: 1s\nmetadata: {filterMetadata: {b: {x: 1}, a: {}}}");
    let two = bytes("metadata: {filter_metadata: {a: {}, b: {x: 1}}}\nconnectTimeout: 1s\nname: a");
    assert_eq!(Version::of(&one), Version::of(&two));
}

#[test]
fn a_resource_goes_by_its_type_name_roles_and_sites() {
    let spec = good(&manifest("RTDS", "  roles: [edge, core]\n  sites: region=eu\n", "name: layer\nlayer: {a: 1}"));
    assert_eq!((spec.type_url.as_str(), spec.name.as_str()), (ResourceType::Runtime.url(), "layer"));
    assert_eq!(spec.roles, [Role::Edge, Role::Core].into());
    assert!(spec.sites.is_some() && !spec.confidential);
    let spec = good(&manifest(ResourceType::Endpoints.url(), "", "clusterName: a"));
    assert_eq!((spec.name.as_str(), spec.roles), ("a", [Role::Edge].into()));
    let host = "name: h\ndomains: [h.example]\nroutes: [{match: {prefix: /}, directResponse: {status: 200}}]";
    assert_eq!(good(&manifest("virtual_host", "  name: routes/h\n", host)).name, "routes/h");
}

#[test]
fn a_time_to_live_is_one_that_heartbeats_can_keep_and_envoy_lets_run_out() {
    let listener = "name: l\naddress: {socketAddress: {address: 127.0.0.1, portValue: 80}}";
    assert_eq!(good(&manifest("listener", "", listener)).ttl, None);
    for (written, ttl) in [("10s", 10), ("1h30m", 5_400), ("24h", 86_400)] {
        let spec = good(&manifest("listener", &format!("  ttl: {written}\n"), listener));
        assert_eq!(spec.ttl, Some(Duration::from_secs(ttl)));
    }
    let told = |kind: &str, ttl: &str, resource: &str| {
        let faults = parse("t", &manifest(kind, &format!("  ttl: {ttl}\n"), resource), Mode::Strict).faults;
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (ttl, why) in [
        ("9999ms", "\"9999ms\" is too short for heartbeats: write at least 10s"),
        ("0s", "\"0s\" is no time at all: write more than 0s"),
        ("25h", "\"25h\" is longer than a day"),
        ("10", "expected a text, found the number 10: put it in quotes"),
        ("forever", "\"forever\" is not a duration: write for example 500ms, 10s, 1m or 1h30m"),
    ] {
        assert_eq!(told("listener", ttl, listener), [format!("t:6:8: spec.ttl: {why}")]);
    }
    let host = "name: h\ndomains: [h.example]\nroutes: [{match: {prefix: /}, directResponse: {status: 200}}]";
    for (kind, resource) in
        [("endpoint", "clusterName: a"), ("secret", SECRET), ("route", "name: r"), ("virtual_host", host)]
    {
        let told = told(kind, "1m", resource);
        let why =
            format!("t:6:8: spec.ttl: Envoy lets no {kind} run out: remove this field (it may stand for cluster, ");
        assert!(told.iter().any(|told| told.starts_with(&why)), "{told:?}");
    }
}

#[test]
fn a_name_is_one_that_can_be_asked_for() {
    let cluster = |name: &str| format!("name: '{name}'");
    let at = |rest: &str| format!("xdstp://mine/envoy.config.cluster.v3.Cluster/{rest}");
    let normal = at("a/b?x=1&y=2");
    assert_eq!(good(&manifest("cluster", "", &cluster(&normal))).name, normal);
    for spelling in [at("a/%62?x=1&y=2"), at("a/b?y=2&x=1"), at("a%2Fb?x=1&y=2")] {
        let told = format!("is not the normal form of this name: write {normal:?}");
        let fault = fault("cluster", &cluster(&spelling));
        assert!(fault.starts_with("t:7:11: spec.resource.name: ") && fault.ends_with(&told), "{fault}");
        // As it was accepted it goes on.
        let stored = parse("t", &manifest("cluster", "", &cluster(&spelling)), Mode::Tolerant);
        assert!(stored.faults.is_empty() && stored.warnings.len() == 1, "{stored:?}");
        assert_eq!(stored.objects.len(), 1);
    }
    for (name, why) in [
        (at("a/*"), "is the name of a whole collection"),
        (at("a#alt=b"), "directives (#…) are the client's own affair"),
        (at("").trim_end_matches('/').to_owned(), "not of the form xdstp://"),
        (at("a").replace("cluster.v3.Cluster", "listener.v3.Listener"), "the type in the name is not the type"),
    ] {
        let fault = fault("cluster", &cluster(&name));
        assert!(fault.contains(why), "{fault}");
    }
}

#[test]
fn a_mistake_is_told_where_it_stands() {
    let lua = |rest: &str| format!("name: x\ntypedConfig:\n  \"@type\": type.googleapis.com/{rest}");
    for (kind, resource, told) in [
        (
            "cluster",
            "name: a\nconectTimeout: 1s",
            "t:8:5: spec.resource.conectTimeout: envoy.config.cluster.v3.Cluster has no field \"conectTimeout\": did you mean `connectTimeout`?",
        ),
        ("cluster", "name: a\nlbPolicy: ROUND", "t:8:15: spec.resource.lbPolicy: \"ROUND\" is none of ROUND_ROBIN"),
        ("cluster", "name: a\nconnectTimeout: soon", "t:8:21: spec.resource.connectTimeout: "),
        ("cluster", "name: a\ndnsRefreshRate: [1]", "t:8:21: spec.resource.dnsRefreshRate: "),
        ("cluster", "name: a\nhealthChecks: {timeout: 1s}", "t:8:19: spec.resource.healthChecks: expected a list"),
        ("cluster", "name: a\nmetadata: 3", "t:8:15: spec.resource.metadata: expected a mapping"),
        (
            "cluster",
            "name: a\nconnectTimeout: 1s\nconnect_timeout: 1s",
            "t:9:22: spec.resource.connect_timeout: this and what stands in line 8",
        ),
        (
            "cluster",
            "name: a\ntype: EDS\nclusterType: {name: x}",
            "t:9:18: spec.resource.clusterType: this and what stands in line 8",
        ),
        (
            "cluster",
            "name: a\nconnectTimeout: 0s",
            "t:8:21: spec.resource.connectTimeout: Envoy would refuse it: it must",
        ),
        (
            "extension",
            &lua("envoy.filters.http.lua.v3.Lua"),
            "t:9:16: spec.resource.typedConfig[\"@type\"]: Envoy's API has no message \"envoy.filters.http.lua.v3.Lua\": did you mean `type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua`?",
        ),
        (
            "extension",
            &lua("envoy.extensions.filters.http.lua.v3.Lua\n  inlinecode: x"),
            "t:10:7: spec.resource.typedConfig.inlinecode: envoy.extensions.filters.http.lua.v3.Lua has no field \"inlinecode\": did you mean `inlineCode`?",
        ),
        ("extension", "name: x\ntypedConfig: {}", "t:8:18: spec.resource.typedConfig: `@type` is missing"),
        ("listner", "name: a", "t:5:9: spec.type: \"listner\" is no type of resource: did you mean `listener`?"),
        ("cluster", "connectTimeout: 1s", "t:7:5: spec.resource.name: Envoy would refuse it"),
    ] {
        let found = parse("t", &manifest(kind, "", resource), Mode::Strict).faults;
        assert!(found.first().is_some_and(|found| found.to_string().starts_with(told)), "{told}\n{found:?}");
    }
}

#[test]
fn what_a_later_version_may_know_is_left_out_of_what_was_stored() {
    let parsed = parse("t", &manifest("cluster", "", "name: a\nfuture: {x: 1}"), Mode::Tolerant);
    assert!(parsed.faults.is_empty() && parsed.warnings.len() == 1, "{parsed:?}");
    assert_eq!(parsed.objects.len(), 1);
}

#[test]
fn names_of_generated_resources_are_reserved() {
    for (kind, resource) in [
        ("cluster", "name: backbone/-/ams"),
        ("cluster", "name: shop/web:80"),
        ("cluster", "name: xds_cluster"),
        ("cluster", "name: tidegate:unresolved"),
        ("endpoint", "clusterName: shop/web:80"),
        ("listener", "name: gateway/80"),
        ("listener", "name: backbone"),
        ("route", "name: http/80"),
        ("secret", "name: shop/cert"),
        ("runtime", "name: '*'"),
    ] {
        assert!(fault(kind, resource).contains("is reserved"), "{kind} {resource}");
    }
    good(&manifest("cluster", "", "name: shop/Web:80"));
}

fn routes(headers: &str, action: &str) -> String {
    format!(
        "name: r\nvirtualHosts:\n- name: h\n  domains: ['*']\n  routes:\n  - match: {{prefix: /}}\n    \
         route: {action}\n    requestHeadersToAdd: {headers}"
    )
}

#[test]
fn no_client_chooses_what_lies_behind_a_raw_route() {
    let set = "[{header: {key: x-tidegate-service, value: 'shop/web:80'}, appendAction: OVERWRITE_IF_EXISTS_OR_ADD}]";
    let behind = "{cluster: backbone/-/ams}";
    good(&manifest("route", "", &routes(set, behind)));
    let forged = set.replace("shop/web:80", "%REQ(x-forged)%");
    let added = set.replace("OVERWRITE_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT");
    for (headers, place) in [("[]", "t:13:26: "), (&*forged, "t:14:31: "), (&*added, "t:14:31: ")] {
        let told = fault("route", &routes(headers, behind));
        assert!(told.starts_with(place) && told.contains("a client could choose the service"), "{told}");
    }
    assert!(fault("route", &routes("[]", "{clusterHeader: x}")).contains("a client could choose any cluster"));
    assert!(fault("route", &routes("[]", "{cluster: xds_cluster}")).contains("leads to the control plane"));
    for outer in ["name: h", "name: r"] {
        let header = "requestHeadersToAdd: [{header: {key: X-Tidegate-Service, value: '%REQ(x)%'}, appendAction: \
                      OVERWRITE_IF_EXISTS_OR_ADD}]";
        let (indent, text) = (if outer == "name: h" { "  " } else { "" }, routes(set, behind));
        let text = text.replacen(outer, &format!("{outer}\n{indent}{header}"), 1);
        assert!(fault("route", &text).contains("may only be set to"), "{text}");
    }
    let own = "name: s\nrouteConfigurationName: backbone\nkey: {fragments: [{stringKey: x}]}";
    assert!(fault("scoped_route", own).contains("is for edges alone"));
    let gateways = "name: mine\ntype: EDS\nedsClusterConfig: {edsConfig: {ads: {}}, serviceName: backbone/-/ams}";
    assert!(fault("cluster", gateways).contains("gateways of cores"));
    let sni = "name: x\ntypedConfig:\n  '@type': type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster";
    assert!(fault("extension", sni).contains("could choose any cluster"));
    let aggregate = "name: a\nlbPolicy: CLUSTER_PROVIDED\nclusterType:\n  name: envoy.clusters.aggregate\n  typedConfig:\n    \
                     '@type': type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig\n    \
                     clusters: [backbone/-/ams]";
    assert!(fault("cluster", aggregate).contains("a client could choose the service"));
}

const SECRET: &str = "name: token\ngenericSecret: {secret: {inlineString: hush}}";

#[test]
fn secrets_are_shown_to_nobody_and_go_to_the_proven() {
    let text = manifest("secret", "", SECRET);
    let spec = good(&text);
    assert!(spec.confidential && !format!("{spec:?}").contains("hush"));
    let mut json = parse("t", &text, Mode::Strict).objects[0].json.clone();
    redact(&mut json);
    let shown = to_yaml(&json);
    assert!(!shown.contains("hush") && shown.contains("name: token"), "{shown}");
    let again = parse("t", &shown, Mode::Strict).faults;
    assert!(again[0].message.contains("the secret is hidden in what was shown"), "{again:?}");
    for wrong in [text.replace("inlineString", "inlineSting"), text.replace("type: secret", "type: sekret")] {
        let root = serde_json::to_value(serde_saphyr::from_str::<serde_json::Value>(&wrong).unwrap()).unwrap();
        let mut json = root;
        redact(&mut json);
        assert!(!json.to_string().contains("hush"), "{json}");
    }
    let asks = "name: l\naddress: {socketAddress: {address: 127.0.0.1, portValue: 80}}\nfilterChains:\n- transportSocket:\n    \
                name: tls\n    typedConfig:\n      \
                '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n      \
                commonTlsContext: {tlsCertificateSdsSecretConfigs: [{name: s, sdsConfig: {ads: {}}}]}";
    let spec = good(&manifest("listener", "", asks));
    assert!(spec.confidential);
    assert_eq!(spec.binds, [("127.0.0.1".parse().unwrap(), 80)]);
}
