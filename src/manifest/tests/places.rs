//! Each mistake, at its line and column, in words.

use super::*;

/// Faults of a text without the name of the source, warnings behind them.
fn findings(text: &str) -> Vec<String> {
    let parsed = parse("t", text, Mode::Strict);
    let strip = |f: &Fault| f.to_string().trim_start_matches("t:").to_owned();
    let warnings = parsed.warnings.iter().map(|w| format!("warning {}", strip(w)));
    parsed.faults.iter().map(strip).chain(warnings).collect()
}

fn ours(kind: &str, spec: &str) -> String {
    format!("apiVersion: tidegate.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")
}

fn gateway_api(kind: &str, spec: &str) -> String {
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")
}

fn rule(rule: &str) -> String {
    gateway_api("HTTPRoute", &format!("{{parentRefs: [{{name: g}}], rules: [{rule}]}}"))
}

fn listener(listener: &str) -> String {
    gateway_api("Gateway", &format!("{{gatewayClassName: tidegate, listeners: [{{name: l, port: 80, {listener}}}]}}"))
}

/// The findings' messages alone, without place and path.
fn messages(text: &str) -> String {
    let parsed = parse("t", text, Mode::Strict);
    parsed.faults.iter().chain(&parsed.warnings).map(|f| f.message.clone()).collect::<Vec<_>>().join(" / ")
}

#[test]
fn all_faults_of_a_file_come_at_once_with_their_places() {
    let text = "\
apiVersion: tidegate.dev/v1alpha1
kind: Service
metadata:
  name: Web
  labels: {a b: c}
spec:
  ports:
    - port: \"80\"
      nmae: x
  trafficClass: web
  timeouts:
    connect: 5
---
apiVersion: v1
kind: Site
metadata: {name: s}
spec: {}
---
kind: Srvice
apiVersion: tidegate.dev/v1alpha1
---
- a
";
    assert_eq!(
        findings(text),
        [
            "4:9: metadata.name: \"Web\" is not a DNS name: use at most 253 of a-z, 0-9, `-` and `.`, each part beginning and ending with a letter or digit",
            "5:17: metadata.labels[\"a b\"]: \"a b\" is not a label key: `[dns.name/]name`, the name of at most 63 letters, digits, `-`, `_`, `.`",
            "8:13: spec.ports[0].port: expected a number, found the text \"80\": remove the quotes",
            "9:7: spec.ports[0].nmae: there is no field \"nmae\": did you mean `name`?",
            "10:17: spec.trafficClass: \"web\" is none of Web, API, RTC, Live, Download: did you mean `Web`?",
            "12:14: spec.timeouts.connect: expected a text, found the number 5: put it in quotes",
            "14:13: apiVersion: Site has the apiVersion tidegate.dev/v1alpha1, not \"v1\"",
            "19:7: kind: there is no kind \"Srvice\": did you mean `Service`?",
            "22:1: expected a manifest (apiVersion, kind, metadata, spec), found a list",
        ]
    );
}

#[test]
fn texts_that_are_not_plain_yaml_are_refused_in_words() {
    for (text, wanted) in [
        ("a: &x 1\nb: *x\n", "1:4: anchors (`&name`) are not supported: write the value out where it is used"),
        ("a: &x 1\nb: *x\n", "2:4: aliases (`*name`) are not supported: write the value out"),
        ("a: !!str 1\n", "1:4: tags (`!name`) are not supported: remove the tag (quotes make a text)"),
        ("a: 1\nb: 2\na: 3\n", "3:1: the key \"a\" stands here twice, first in line 1: remove one"),
        ("? [a]\n: 1\n", "1:3: a key must be a text, not a list"),
        ("a: .nan\n", "1:4: .nan is not a finite number (quotes make a text)"),
        ("{\"a\": 1,\n \"a\": 2}", "2:2: the key \"a\" stands here twice, first in line 1: remove one"),
        ("<<: {a: 1}\n", "1:1: merge keys (`<<`) are not supported: write the fields out"),
    ] {
        let found = findings(text);
        assert!(found.iter().any(|f| f == wanted), "{wanted}\n{found:#?}");
    }
    let broken = findings("apiVersion: x\n  kind: [\n");
    assert!(broken.last().unwrap().contains("this is not YAML"), "{broken:?}");
}

#[test]
fn scalars_follow_the_core_schema_and_quotes_make_texts() {
    let text = "a: [1, 0x10, 0o17, -3, +4, 1.5, .5, 1e3, true, yes, ~, '1', \"true\", 1.2.3, 08, 1_0, -x]";
    let (documents, trouble) = tree::documents(text);
    assert_eq!(trouble, None);
    assert_eq!(
        documents[0].root.to_json()["a"].to_string(),
        r#"[1,16,15,-3,4,1.5,0.5,1000.0,true,"yes",null,"1","true","1.2.3",8,"1_0","-x"]"#
    );
}

#[test]
fn an_object_stands_in_a_file_once() {
    let text = format!("{}---\n{}", ours("Namespace", "{}"), ours("Namespace", "{}"));
    assert_eq!(findings(&text), ["6:1: Namespace a stands in this file twice, first in line 1"]);
    assert_eq!(parse("t", &text, Mode::Strict).objects.len(), 1);
}

#[test]
fn our_kinds_check_their_fields() {
    for (kind, spec, wanted) in [
        ("Site", "{role: edge, region: eu, gateways: ['10.0.0.1:1']}", "an edge site has no `gateways`"),
        ("Site", "{role: core, region: eu}", "without `gateways` no edge reaches this site"),
        (
            "Site",
            "{role: core, region: eu, gateways: ['10.0.0.1:1', '10.0.0.2:2']}",
            "all gateways of a site share one port",
        ),
        ("Site", "{role: core, region: eu, gateways: ['10.0.0.1:1', '10.0.0.1:1']}", "this address stands here twice"),
        ("Site", "{role: core, region: eu, gateways: [host:1]}", "is not IP:port"),
        ("Site", "{role: Edge, region: eu}", "did you mean `edge`?"),
        (
            "Site",
            "{role: edge, region: eu, coordinates: {latitude: 91, longitude: 0}}",
            "91 is not a number from -90 to 90",
        ),
        ("Fleet", "{}", "its name is `fleet`"),
        ("Service", "{ports: []}", "at least one is needed here"),
        ("Service", "{ports: [{port: 80}, {port: 81}]}", "of several ports each needs a `name`"),
        ("Service", "{ports: [{name: a, port: 80}, {name: a, port: 81}]}", "this port's name stands here twice"),
        ("Service", "{ports: [{port: 0}]}", "0 is not a whole number from 1 to 65535"),
        ("Service", "{ports: [{port: 80, appProtocol: spdy}]}", "write `http`, `h2c` or `grpc`"),
        ("Service", "{ports: [{port: 80, appProtocol: kubernetes.io/ws}]}", "HTTPRouteBackendProtocolWebSocket"),
        ("Service", "{ports: [{port: 80}], timeouts: {connect: 0s}}", "is no time at all"),
        ("Service", "{ports: [{port: 80}], tls: {serverName: a.example, caCertificates: x}}", "1 to 512 certificates"),
        ("EndpointSet", "{service: a, site: b, endpoints: [{address: '[fe80::1%2]:80'}]}", "names a zone"),
        (
            "EndpointSet",
            "{service: a, site: b, endpoints: [{address: '0.0.0.0:80'}]}",
            "is not the address of one host",
        ),
        ("Namespace", "{x: 1}", "there is no field \"x\""),
        ("Certificate", "{certificateChain: x, privateKey: y}", "1 to 16 certificates"),
    ] {
        let found = messages(&ours(kind, spec));
        assert!(found.contains(wanted), "{kind} {spec}\nwanted: {wanted}\nfound: {found}");
    }
}

#[test]
fn gateways_check_their_fields() {
    for (spec, wanted) in [
        ("protocol: TCP", "listeners of protocol TCP are not supported yet (feature TCPRoute)"),
        ("protocol: TLS", "feature TLSRoute"),
        ("protocol: SPDY", "\"SPDY\" is none of HTTP, HTTPS"),
        ("protocol: HTTPS", "needs `tls` with `certificateRefs`"),
        ("protocol: HTTP, tls: {}", "a listener of protocol HTTP has no `tls`"),
        (
            "protocol: HTTPS, tls: {mode: Passthrough, certificateRefs: [{name: a}]}",
            "TLS passthrough is not supported yet",
        ),
        ("protocol: HTTPS, tls: {certificateRefs: [{name: a, kind: ConfigMap}]}", "holds no certificate"),
        ("protocol: HTTPS, tls: {certificateRefs: []}", "at least one is needed here"),
        ("protocol: HTTP, hostname: 10.0.0.1", "is an IP address"),
        ("protocol: HTTP, hostname: a.*.example", "has a `*` that is not its first label"),
        ("protocol: HTTP, hostname: A.example", "is not in lower case"),
        ("protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}", "`from: Selector` needs a `selector`"),
    ] {
        let found = messages(&listener(spec));
        assert!(found.contains(wanted), "{spec}\nwanted: {wanted}\nfound: {found}");
    }
    for (spec, wanted) in [
        ("{gatewayClassName: tidegate, listeners: [], addresses: [{value: x}]}", "feature GatewayStaticAddresses"),
        (
            "{gatewayClassName: other, listeners: [{name: a, port: 80, protocol: HTTP}]}",
            "Tidegate ignores this Gateway",
        ),
        (
            "{gatewayClassName: tidegate, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]}",
            "this combination of port, protocol and hostname stands here twice",
        ),
        (
            "{gatewayClassName: tidegate, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}",
            "this listener's name stands here twice",
        ),
    ] {
        let found = messages(&gateway_api("Gateway", spec));
        assert!(found.contains(wanted), "{spec}\nwanted: {wanted}\nfound: {found}");
    }
    let annotated = |value: &str| {
        listener("protocol: HTTP").replace("{name: a}", &format!("{{name: a, annotations: {{{value}}}}}"))
    };
    assert_eq!(
        findings(&annotated("tidegate.dev/sites: 'a in b'")),
        [
            "3:55: metadata.annotations[\"tidegate.dev/sites\"]: \"a in b\" has the key \"a in b\", which is not a label key: `[dns.name/]name`, the name of at most 63 letters, digits, `-`, `_`, `.`"
        ]
    );
    assert!(findings(&annotated("tidegate.dev/virtual-hosts: streamed")).is_empty());
    assert!(findings(&annotated("tidegate.dev/virtual-hosts: whole"))[0].starts_with("3:"));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (text, wanted) in [
        ("{filters: [{type: CORS, cors: {}}]}", "CORS filters are not supported yet (feature HTTPRouteCORS)"),
        ("{filters: [{type: ExtensionRef, extensionRef: {}}]}", "ExtensionRef filters are not supported"),
        ("{filters: [{type: ExternalAuth, externalAuth: {}}]}", "external authorisation is not supported yet"),
        ("{retry: {attempts: 2}}", "retries are not supported yet (feature HTTPRouteRetry)"),
        ("{sessionPersistence: {}}", "session persistence is not supported yet"),
        (
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 5}}]}",
            "feature HTTPRouteRequestPercentageMirror",
        ),
        (
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}, {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}]}",
            "feature HTTPRouteRequestMultipleMirrors",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 307}}]}",
            "feature HTTPRoute307RedirectStatusCode",
        ),
        (
            "{backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}}]}]}",
            "a filter URLRewrite on a single back end is not supported yet",
        ),
    ] {
        let found = messages(&rule(text));
        assert!(found.contains(wanted), "{text}\nwanted: {wanted}\nfound: {found}");
    }
    for kind in ["GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "ListenerSet", "BackendTLSPolicy"] {
        let found = messages(&gateway_api(kind, "{}"));
        assert!(found.contains("is not supported yet"), "{kind}: {found}");
    }
}

#[test]
fn routes_keep_the_rules_of_the_gateway_api() {
    let header = |name: &str, value: &str| {
        format!(
            "{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: '{name}', value: {value}}}]}}}}]}}"
        )
    };
    let path = |kind: &str, value: &str| format!("{{matches: [{{path: {{type: {kind}, value: '{value}'}}}}]}}");
    let redirect = "{type: RequestRedirect, requestRedirect: {hostname: a.example}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    for (text, wanted) in [
        (header("x-tidegate-service", "v"), "is reserved"),
        (header("X-Envoy-Upstream", "v"), "is reserved"),
        (header("Host", "v"), "use the hostname of URLRewrite"),
        (header(":path", "v"), "is a pseudo header"),
        (header("a b", "v"), "is not a header name"),
        (header("a", "\"x\\ny\""), "holds a control character"),
        (header("a", "''"), "is not 1 to 4096 bytes long"),
        (path("Exact", "a"), "does not begin with `/`"),
        (path("PathPrefix", "/a//b"), "contains `//`"),
        (path("Exact", "/a/../b"), "contains `/../`"),
        (path("Exact", "/a/.."), "ends with `/..`"),
        (path("Exact", "/a%2fb"), "contains `%2f`"),
        (path("Exact", "/a?b"), "holds a character that a path cannot have"),
        (path("RegularExpression", "("), "is not a regular expression of RE2: unclosed group"),
        (path("Prefix", "/"), "is none of Exact, PathPrefix, RegularExpression"),
        (format!("{{filters: [{redirect}, {rewrite}]}}"), "URLRewrite and RequestRedirect exclude each other"),
        (format!("{{filters: [{redirect}, {redirect}]}}"), "a filter of this type stands here twice"),
        (format!("{{filters: [{redirect}], backendRefs: [{{name: a, port: 80}}]}}"), "has no back ends"),
        (
            format!("{{matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{rewrite}]}}"),
            "ReplacePrefixMatch needs matches of type PathPrefix only",
        ),
        ("{filters: [{type: URLRewrite}]}".into(), "this field is missing: add it"),
        ("{filters: [{type: UrlRewrite}]}".into(), "did you mean `URLRewrite`?"),
        ("{timeouts: {request: 1s, backendRequest: 2s}}".into(), "must not be longer than `request`"),
        ("{timeouts: {request: 1.5s}}".into(), "is not a duration"),
        ("{backendRefs: [{name: a}]}".into(), "a reference to a Service needs a `port`"),
        ("{backendRefs: [{name: a, port: 80, weight: 1000001}]}".into(), "is not a whole number from 0 to 1000000"),
        ("{name: x}, {name: x}".into(), "this rule's name stands here twice"),
        ("{matches: [{headers: [{name: A, value: x}, {name: a, value: y}]}]}".into(), "is matched twice"),
        (
            "{matches: [{queryParams: [{name: a, value: x}, {name: a, value: y}]}]}".into(),
            "this query parameter stands here twice",
        ),
        ("{matches: [{method: get}]}".into(), "did you mean `GET`?"),
        (vec!["{}"; 17].join(", "), "at most 16 are allowed here, there are 17"),
        (
            vec![format!("{{matches: [{}]}}", vec!["{}"; 64].join(",")); 3].join(","),
            "the rules have 192 matches together",
        ),
    ] {
        let found = messages(&rule(&text));
        assert!(found.contains(wanted), "{text}\nwanted: {wanted}\nfound: {found}");
    }
    for (spec, wanted) in [
        ("{parentRefs: [{name: a}, {name: a, sectionName: b}]}", "each needs a `sectionName` or `port` then"),
        ("{parentRefs: [{name: a}, {name: a}]}", "this parent stands here twice"),
        ("{parentRefs: [{name: a, kind: ListenerSet}]}", "feature ListenerSet"),
        ("{parentRefs: [{name: a, group: '', kind: Service}]}", "Tidegate ignores this parent"),
        ("{parentRefs: [{name: a}], hostnames: ['*']}", "has a `*`"),
        ("{parentRefs: [{name: a}], hostnames: [a.example, a.example]}", "this hostname stands here twice"),
        ("{parentRefs: [{name: a}], rules: []}", "at least one rule is needed here"),
    ] {
        let found = messages(&gateway_api("HTTPRoute", spec));
        assert!(found.contains(wanted), "{spec}\nwanted: {wanted}\nfound: {found}");
    }
}

#[test]
fn references_to_foreign_kinds_are_kept_for_status() {
    let text =
        rule("{backendRefs: [{name: a, group: example.com, kind: Widget}, {name: a, group: tidegate.dev, port: 80}]}");
    let Spec::HttpRoute(route) = one(&text).object.spec else { panic!() };
    assert_eq!(route.rules[0].backends[0].foreign_kind.as_deref(), Some("example.com/Widget"));
    assert_eq!(route.rules[0].backends[1].foreign_kind, None);
}

#[test]
fn durations_are_those_of_gep_2257() {
    for (text, millis) in [("10s", 10_000), ("1h30m", 5_400_000), ("500ms", 500), ("0s", 0), ("1m1ms", 60_001)] {
        assert_eq!(text::duration(text), Ok(std::time::Duration::from_millis(millis)), "{text}");
    }
    for bad in ["", "10", "s", "1.5s", "-1s", "1d", "100000s", "1h1m1s1ms1h", "1s ", "1us", "１s"] {
        assert!(text::duration(bad).is_err(), "{bad}");
    }
}
