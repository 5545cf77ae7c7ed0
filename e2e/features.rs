//! Every HTTPRoute feature that we serve, seen by its effect on real requests through edge and core.

use std::time::Duration;

use serde_json::Value;

use crate::{
    harness::{Backend, Response, wait_for},
    world::{HTTP, SOON, World, route_yaml, service_yaml},
};

/// A world with the services `a` and `b` at the near core.
fn two_services() -> (World, Backend, Backend) {
    let world = World::start("memory");
    let (a, b) = (world.backend("a"), world.backend("b"));
    world.apply(&(service_yaml("a", "", &[("core1", &a)]) + &service_yaml("b", "", &[("core1", &b)])));
    (world, a, b)
}

fn served_by(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["backend"].as_str().unwrap().to_owned()
}

#[test]
fn matches_choose_the_rule_by_the_precedence_of_the_gateway_api() {
    let (world, _a, _b) = two_services();
    let to = |name: &str| format!("backendRefs: [{{name: {name}, port: 80}}]");
    let rules = format!(
        "
  - {{name: prefix, matches: [{{path: {{type: PathPrefix, value: /p}}}}], {a}}}
  - {{name: exact, matches: [{{path: {{type: Exact, value: /p/exact}}}}], {b}}}
  - {{matches: [{{path: {{type: RegularExpression, value: '/r/[0-9]+'}}}}], {b}}}
  - {{matches: [{{path: {{type: PathPrefix, value: /m}}, method: POST}}], {b}}}
  - {{matches: [{{path: {{type: PathPrefix, value: /m}}}}], {a}}}
  - {{matches: [{{path: {{type: PathPrefix, value: /h}}, headers: [{{name: X-Kind, value: b}}]}}], {b}}}
  - {{matches: [{{path: {{type: PathPrefix, value: /h}}, headers: [{{name: x-kind, type: RegularExpression, value: 'c.*'}}]}}], {b}}}
  - {{matches: [{{path: {{type: PathPrefix, value: /h}}}}], {a}}}
  - {{matches: [{{path: {{type: PathPrefix, value: /q}}, queryParams: [{{name: k, value: v}}]}}], {b}}}
  - {{matches: [{{path: {{type: PathPrefix, value: /q}}}}], {a}}}
",
        a = to("a"),
        b = to("b")
    );
    world.apply(&route_yaml("m", "m.example", &rules));
    for (path, expected) in [
        ("/p", "a"),
        ("/p/", "a"),
        ("/p/x", "a"),
        ("/p/exact", "b"),
        ("/p/exact/more", "a"),
        ("/r/42", "b"),
        ("/m", "a"),
        ("/h", "a"),
        ("/q", "a"),
        ("/q?k=v", "b"),
        ("/q?k=vv", "a"),
    ] {
        assert_eq!(served_by(&world.get("m.example", path)), expected, "{path}");
    }
    assert_eq!(world.get("m.example", "/px").status, 404, "a prefix matches by segment");
    assert_eq!(world.get("m.example", "/r/42x").status, 404, "a regex matches the whole path");
    assert_eq!(served_by(&world.request("m.example", "/m").method("POST").send().unwrap()), "b");
    assert_eq!(served_by(&world.request("m.example", "/h").header("x-kind", "b").send().unwrap()), "b");
    assert_eq!(served_by(&world.request("m.example", "/h").header("x-kind", "cat").send().unwrap()), "b");
    assert_eq!(served_by(&world.request("m.example:1234", "/p").send().unwrap()), "a", "a port in Host is ignored");
}

#[test]
fn headers_change_on_the_way_and_a_forged_service_reaches_nobody() {
    let (world, a, b) = two_services();
    let rules = "
  - matches: [{path: {type: PathPrefix, value: /rule}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: '100%'}], add: [{name: x-add, value: two}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: yes}], remove: [x-backend]}}
    backendRefs:
    - name: a
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-own, value: mine}]}}
  - matches: [{path: {type: PathPrefix, value: /mirror}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /plain}}]
    backendRefs: [{name: a, port: 80}]
";
    world.apply(&route_yaml("h", "h.example", rules));
    let sent = world.request("h.example", "/rule").header("x-add", "one").header("x-gone", "1");
    let answer = sent.header("x-set", "old").send().unwrap();
    let seen: Value = answer.json();
    assert_eq!(seen["headers"]["x-set"], "100%");
    assert_eq!(seen["headers"]["x-add"], "one,two");
    assert_eq!(seen["headers"]["x-gone"], Value::Null);
    assert_eq!(seen["headers"]["x-own"], "mine");
    assert_eq!((answer.header("x-back"), answer.header("x-backend")), (Some("yes"), None));

    b.forget();
    let forged =
        |path: &str| world.request("h.example", path).header("x-tidegate-service", "shop/b:80").send().unwrap();
    assert_eq!(served_by(&forged("/plain")), "a", "a forged service header does not choose the service");
    assert_eq!(b.count(), 0);
    a.forget();
    assert_eq!(served_by(&forged("/mirror")), "a");
    wait_for("the mirrored request arrives", SOON, || if b.count() == 1 { Ok(()) } else { Err(b.count()) });
    let mirrored = b.received().remove(0);
    assert_eq!(mirrored.host, "h.example", "a mirror keeps its Host");
    assert_eq!(mirrored.headers.get("x-tidegate-service"), None);
    assert_eq!(a.count(), 1);
}

#[test]
fn a_filter_that_names_a_reserved_header_is_refused() {
    let (world, _a, _b) = two_services();
    let rules = "
  - filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Tidegate-Service, value: 'other/secret:80'}]}}
    backendRefs: [{name: a, port: 80}]
";
    let refused = world.control.apply(&route_yaml("bad", "bad.example", rules), &[]);
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.stderr.to_lowercase().contains("x-tidegate-service"), "{}", refused.stderr);
}

#[test]
fn redirects_and_rewrites_do_what_they_say() {
    let (world, _a, _b) = two_services();
    let rules = "
  - matches: [{path: {type: PathPrefix, value: /to-https}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /to-host}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example}}]
  - matches: [{path: {type: PathPrefix, value: /to-port}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 8081}}]
  - matches: [{path: {type: PathPrefix, value: /to-full}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /there}}}]
  - matches: [{path: {type: PathPrefix, value: /to-prefix}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
  - matches: [{path: {type: PathPrefix, value: /rw-host}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /rw-full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /full}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /rw-prefix}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /rw-root}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: a, port: 80}]
";
    world.apply(&route_yaml("r", "r.example", rules));
    for (path, status, location) in [
        ("/to-https/x?q=1", 301, "https://r.example/to-https/x?q=1".to_owned()),
        ("/to-host/x", 302, format!("http://new.example:{HTTP}/to-host/x")),
        ("/to-port/x", 302, "http://r.example:8081/to-port/x".to_owned()),
        ("/to-full/x", 302, format!("http://r.example:{HTTP}/there")),
        ("/to-prefix/x", 302, format!("http://r.example:{HTTP}/x")),
        ("/to-prefix", 302, format!("http://r.example:{HTTP}/")),
    ] {
        let answer = world.get("r.example", path);
        assert_eq!((answer.status, answer.header("location")), (status, Some(location.as_str())), "{path}");
    }
    for (path, host, seen_path) in [
        ("/rw-host/x", "inner.example", "/rw-host/x"),
        ("/rw-full/x", "r.example", "/full"),
        ("/rw-prefix", "r.example", "/new"),
        ("/rw-prefix/", "r.example", "/new/"),
        ("/rw-prefix/x/y", "r.example", "/new/x/y"),
        ("/rw-root", "r.example", "/"),
        ("/rw-root/x", "r.example", "/x"),
    ] {
        let seen: Value = world.get("r.example", path).json();
        assert_eq!((seen["host"].as_str(), seen["path"].as_str()), (Some(host), Some(seen_path)), "{path}");
    }
}

#[test]
fn timeouts_end_slow_requests() {
    let (world, _a, _b) = two_services();
    let rules = "
  - {matches: [{path: {type: PathPrefix, value: /request}}], timeouts: {request: 300ms}, backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /backend}}], timeouts: {backendRequest: 300ms}, backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /free}}], timeouts: {request: 0s}, backendRefs: [{name: a, port: 80}]}
";
    world.apply(&route_yaml("t", "t.example", rules));
    assert_eq!(world.get("t.example", "/request?delay=2000").status, 504);
    assert_eq!(world.get("t.example", "/backend?delay=2000").status, 504);
    assert_eq!(world.get("t.example", "/free?delay=700").status, 200);
}

#[test]
fn weights_share_requests_and_missing_services_cost_their_share() {
    let (world, a, b) = two_services();
    let rules = "
  - {matches: [{path: {type: PathPrefix, value: /split}}], backendRefs: [{name: a, port: 80, weight: 90}, {name: b, port: 80, weight: 10}]}
  - {matches: [{path: {type: PathPrefix, value: /half}}], backendRefs: [{name: a, port: 80}, {name: nowhere, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /none}}], backendRefs: [{name: a, port: 80, weight: 0}]}
  - {matches: [{path: {type: PathPrefix, value: /missing}}], backendRefs: [{name: nowhere, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /bare}}]}
";
    world.apply(&route_yaml("w", "w.example", rules));
    let requests = 4_000_u32;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = world.request("w.example", "/split");
    runtime.block_on(async {
        let mut connection = crate::harness::Connection::open(&request).await.unwrap();
        for _ in 0..requests {
            let answer = connection.send(&request).await.map_err(|error| error.into_text()).unwrap();
            assert_eq!(answer.status, 200);
        }
    });
    // Binomial with n = 4,000, p = 0.1: five standard deviations, 95, leave less than one run in a million outside.
    let share = b.count();
    assert!((305..=495).contains(&share), "b served {share} of {requests}, 400 expected");
    assert_eq!(a.count() + share, u64::from(requests));

    let answers: Vec<u16> = (0..40).map(|_| world.get("w.example", "/half").status).collect();
    assert!(answers.contains(&200) && answers.contains(&500), "{answers:?}");
    assert!(answers.iter().all(|status| [200, 500].contains(status)), "{answers:?}");
    for path in ["/none", "/missing", "/bare"] {
        assert_eq!(world.get("w.example", path).status, 500, "{path}");
    }
    let described = world.control.run(&["describe", "httproute", "w", "-n", "shop"]).ok().stdout;
    assert!(described.contains("BackendNotFound"), "{described}");
}

#[test]
fn a_service_without_endpoints_answers_503_and_the_next_core_helps() {
    let world = World::start("memory");
    let far = world.backend("far");
    let dead = format!("{}:9", world.addresses.take());
    let empty = "---
apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {name: only-far-core1, namespace: shop}
spec: {service: only-far, site: core1, endpoints: []}
";
    let refused = format!(
        "---
apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {{name: refused-core1, namespace: shop}}
spec: {{service: refused, site: core1, endpoints: [{{address: '{dead}'}}]}}
"
    );
    let rules = "
  - {matches: [{path: {type: PathPrefix, value: /far}}], backendRefs: [{name: only-far, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /refused}}], backendRefs: [{name: refused, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /nothing}}], backendRefs: [{name: nothing, port: 80}]}
";
    world.apply(
        &(service_yaml("only-far", "", &[("core2", &far)])
            + empty
            + &service_yaml("refused", "", &[("core2", &far)])
            + &refused
            + &service_yaml("nothing", "", &[])
            + &empty.replace("only-far", "nothing")
            + &route_yaml("e", "e.example", rules)),
    );
    for path in ["/far", "/refused"] {
        let posted = world.request("e.example", path).method("POST").body("some body").send().unwrap();
        assert_eq!(served_by(&posted), "far", "{path}: refused at the near core, served by the next");
        assert_eq!(posted.header("x-tidegate-refused"), None);
    }
    let nothing = world.get("e.example", "/nothing");
    assert_eq!((nothing.status, nothing.header("x-tidegate-refused")), (503, None));
    let before = far.count();
    let forged = world.get("e.example", "/far?status=503&forge=x-tidegate-refused:1");
    assert_eq!((forged.status, forged.header("x-tidegate-refused")), (503, None));
    assert_eq!(far.count(), before + 1, "a back end that forges the refusal is not asked again");
}

#[test]
fn references_across_namespaces_need_a_grant() {
    let (world, _a, _b) = two_services();
    let other = world.backend("other");
    let foreign = service_yaml("c", "", &[("core1", &other)]).replace("namespace: shop", "namespace: bank");
    let route = route_yaml("x", "x.example", "[{backendRefs: [{name: c, namespace: bank, port: 80}]}]");
    world.apply(&(foreign + &route));
    assert_eq!(world.get("x.example", "/").status, 500);
    world.apply(
        "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop, namespace: bank}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: '', kind: Service}]
",
    );
    wait_for("the grant takes effect", SOON, || match world.get("x.example", "/").status {
        200 => Ok(()),
        other => Err(other),
    });
}

#[test]
fn leased_endpoints_come_and_go() {
    let (world, _a, _b) = two_services();
    let live = world.backend("live");
    let set = "---
apiVersion: tidegate.dev/v1alpha1
kind: EndpointSet
metadata: {name: l-core1, namespace: shop}
spec: {service: l, site: core1}
";
    world.apply(
        &(service_yaml("l", "", &[]) + set + &route_yaml("l", "l.example", "[{backendRefs: [{name: l, port: 80}]}]")),
    );
    assert_eq!(world.get("l.example", "/").status, 503);
    let address = live.address().to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args([
        "--server",
        &world.control.api(),
        "register",
        "--service",
        "shop/l",
        "--site",
        "core1",
        "--id",
        "one",
    ]);
    command.args(["--address", &address, "--ttl", "3s"]);
    let dir = tempfile::TempDir::new().unwrap();
    let mut registrar = crate::harness::Process::spawn("register", dir.path(), command);
    wait_for("the live endpoint serves", SOON, || match world.get("l.example", "/").status {
        200 => Ok(()),
        other => Err(other),
    });
    registrar.kill();
    wait_for("its lease runs out", Duration::from_secs(20), || match world.get("l.example", "/").status {
        503 => Ok(()),
        other => Err(other),
    });
}
