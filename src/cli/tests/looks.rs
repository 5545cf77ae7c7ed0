//! What is printed, to the letter.

use std::collections::VecDeque;

use super::{fake::Answers, *};
use crate::rpc;

fn route() -> rpc::Object {
    rpc::Object {
        r#ref: Some(object_ref("HTTPRoute", "shop", "web")),
        manifest_json: r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute",
            "metadata":{"name":"web","namespace":"shop","labels":{"team":"a","tier":"1"}},
            "spec":{"hostnames":["shop.example"],"rules":[]}}"#
            .into(),
        status_json: r#"{"conditions":[{"type":"Programmed","status":"False","reason":"Pending","message":"1 of 3"}],
            "parents":[{"parentRef":{"name":"main","namespace":"edge","sectionName":"https"},
              "conditions":[{"type":"Accepted","status":"True","reason":"Accepted","message":""}]}],
            "proxies":{"total":3,"acked":1,"nacked":1,"pending":1},
            "laggards":[{"proxy":"e1","site":"fra1","type":"RDS","resource":"http/80","error":"no such regex"},
                        {"proxy":"e2","site":"fra1","type":"CDS"}]}"#
            .into(),
        create_revision: 4,
        mod_revision: 9,
        key: "/tidegate/v1/objects/httproutes/shop/web".into(),
        problems: vec!["rule 1: there is no Service shop/api".into()],
    }
}

fn garbage() -> rpc::Object {
    rpc::Object {
        r#ref: Some(object_ref("Site", "", "bad")),
        key: "/tidegate/v1/objects/sites/bad".into(),
        problems: vec!["it is no manifest".into()],
        mod_revision: 12,
        ..Default::default()
    }
}

fn getting(objects: Vec<rpc::Object>) -> Answers {
    Answers {
        get: VecDeque::from([rpc::GetResponse { objects, revision: 12, ..Default::default() }]),
        ..Default::default()
    }
}

#[tokio::test]
async fn get_prints_a_table() {
    let (done, asked) = against(getting(vec![route()]), &["get", "httproutes", "-A", "-o", "wide"], "").await;
    let expected = "\
NAMESPACE   NAME   DETAILS        PROGRAMMED      PROXIES   PROBLEMS   REVISION   KEY
shop        web    shop.example   False/Pending   1/3       1          9          /tidegate/v1/objects/httproutes/shop/web
";
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, expected, ""));
    assert_eq!(asked, [r#"GetRequest { kind: "HTTPRoute", namespace: "", name: "" }"#]);

    let (done, _) = against(getting(vec![route(), garbage()]), &["get", "all", "-n", "shop"], "").await;
    let expected = "\
NAME            DETAILS        PROGRAMMED      PROXIES   PROBLEMS
httproute/web   shop.example   False/Pending   1/3       1
site/bad        -              -               -         1
";
    assert_eq!(done.out, expected);
}

#[tokio::test]
async fn get_prints_names_json_and_documents_that_apply_can_read() {
    let (done, _) = against(getting(vec![route(), garbage()]), &["get", "all", "-A", "-o", "name"], "").await;
    assert_eq!(done.out, "httproute/shop/web\nsite/bad\n");

    let (done, _) = against(getting(vec![garbage(), garbage()]), &["get", "sites", "-o", "yaml"], "").await;
    let one = "\
kind: Site
metadata:
  name: bad
  namespace: \"\"
status:
  key: /tidegate/v1/objects/sites/bad
  problems:
  - it is no manifest
";
    assert_eq!(done.out, format!("{one}---\n{one}"));

    let (done, _) = against(getting(vec![route()]), &["get", "route/shop/web", "-o", "json"], "").await;
    let value: serde_json::Value = serde_json::from_str(&done.out).expect("one JSON value");
    assert_eq!((&value["kind"], &value["status"]["proxies"]["total"]), (&"HTTPRoute".into(), &3.into()));
    let (done, _) = against(getting(vec![route()]), &["get", "routes", "-o", "json"], "").await;
    assert_eq!(done.code, 2, "there is no such plural: {}", done.err);
}

#[tokio::test]
async fn nothing_found_is_a_message_and_a_missing_name_a_failure() {
    let (done, asked) = against(getting(vec![]), &["get", "svc", "-n", "shop"], "").await;
    assert_eq!((done.code, done.out.as_str()), (0, ""));
    assert_eq!(done.err, "no objects found in the namespace shop (-A looks in all)\n");
    assert!(asked[0].contains(r#"namespace: "shop""#), "{asked:?}");
    let (done, asked) = against(getting(vec![]), &["get", "site", "x"], "").await;
    assert_eq!((done.code, done.err.as_str()), (1, "error: site/x not found\n"));
    assert!(asked[0].contains(r#"namespace: """#), "sites have none: {asked:?}");
}

#[tokio::test]
async fn describe_tells_the_whole_story() {
    let (done, _) = against(getting(vec![route()]), &["describe", "httproute", "web", "-n", "shop"], "").await;
    let expected = "\
Name:        web
Namespace:   shop
Kind:        HTTPRoute
Labels:      team=a
             tier=1
Key:         /tidegate/v1/objects/httproutes/shop/web
Revision:    9 (created at 4)
Proxies:     3 in all, 1 acknowledged, 1 refused, 1 pending
Spec:
  hostnames:
  - shop.example
  rules: []
Conditions:
  TYPE         STATUS   REASON     ABOUT                    MESSAGE
  Programmed   False    Pending    -                        1 of 3
  Accepted     True     Accepted   parent edge/main:https   -
Laggards:
  e1 (fra1): RDS http/80 refused: no such regex
  e2 (fra1): CDS pending
Problems:
  rule 1: there is no Service shop/api
";
    assert_eq!(done.out, expected);
}

fn standing() -> rpc::ProxyStanding {
    let status = |kind: &str, state: &str, errors: &[&str]| rpc::TypeStatus {
        r#type: kind.into(),
        state: state.into(),
        resources: 2,
        errors: errors.iter().map(|e| (*e).to_owned()).collect(),
    };
    let types = vec![
        status("CDS", "SYNCED", &[]),
        status("LDS", "PENDING", &[]),
        status("RDS", "NACKED", &["no such regex"]),
        status("SDS", "NOT_SUBSCRIBED", &[]),
    ];
    rpc::ProxyStanding { types }
}

fn row(id: &str, refused: &str) -> rpc::ProxyRow {
    rpc::ProxyRow {
        id: id.into(),
        site: "fra1".into(),
        role: "edge".into(),
        standing: u32::from(!refused.is_empty()),
        replica: "cp1".into(),
        connected_seconds: 20_000,
        refused: refused.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn proxy_status_names_the_culprit() {
    let status = || Answers {
        status: Some(rpc::ProxyStatusResponse {
            proxies: vec![row("e1", ""), row("stranger", "the site fra1 is not its certificate's")],
            standings: vec![standing(), rpc::ProxyStanding::default()],
            revision: 3,
            stale: "cp1: the store is away".into(),
            unreachable: vec!["cp2: connection refused".into()],
            watermarks: vec![
                rpc::SiteWatermark {
                    site: "fra1".into(),
                    revision: 7,
                    except: vec!["CDS/shop/web:80".into()],
                    connected: true,
                    behind: 2,
                },
                rpc::SiteWatermark { site: "ams1".into(), revision: 3, ..Default::default() },
            ],
        }),
        ..Default::default()
    };
    let (done, _) = against(status(), &["proxy", "status"], "").await;
    let expected = "\
NAME       SITE   ROLE   REPLICA   CDS      EDS   SDS   LDS       RDS      CONNECTED   ERROR
e1         fra1   edge   cp1       SYNCED   -     -     PENDING   NACKED   5h33m       RDS
stranger   fra1   edge   cp1       -        -     -     -         -        -           refused

e1: RDS: no such regex
stranger: refused: the site fra1 is not its certificate's

SITE   ACKNOWLEDGED   BEHIND       EXCEPT
fra1   7              2 objects    CDS/shop/web:80
ams1   3              no gateway   -
";
    let warnings = "\
warning: not all replicas answered: cp2: connection refused
warning: the answer may be old: cp1: the store is away
";
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, expected, warnings));
    let (done, _) = against(status(), &["proxy", "ps", "e1", "-o", "json"], "").await;
    let value: serde_json::Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!(value["proxies"][0]["types"][2]["errors"][0], "no such regex");
    assert_eq!(value["unreachable"][0], "cp2: connection refused");
    assert_eq!((&value["watermarks"][0]["behind"], &value["stale"]), (&2.into(), &"cp1: the store is away".into()));
    let (done, _) = against(status(), &["proxy", "status", "e7"], "").await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (1, format!("{warnings}error: no proxy e7 is connected to a replica that answered\n").as_str())
    );
}

#[tokio::test]
async fn proxy_config_shows_resources() {
    let config = || Answers {
        config: Some(rpc::ProxyConfigResponse {
            resources: vec![rpc::ConfigResource {
                r#type: "CDS".into(),
                name: "backbone/-/core1".into(),
                version: "ab12".into(),
                json: r#"{"name":"backbone/-/core1"}"#.into(),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let (done, asked) = against(config(), &["proxy", "config", "e1", "clusters"], "").await;
    assert_eq!(done.out, "TYPE   NAME               VERSION\nCDS    backbone/-/core1   ab12\n");
    assert_eq!(asked, [r#"ProxyConfigRequest { proxy: "e1", r#type: "CDS" }"#]);
    let (done, _) = against(config(), &["proxy", "config", "e1", "-o", "json"], "").await;
    assert!(done.out.contains("\"resource\": {\n      \"name\": \"backbone/-/core1\""), "{}", done.out);
    let (done, _) = against(config(), &["proxy", "config", "e1", "xds"], "").await;
    assert_eq!(done.code, 2, "{}", done.err);
}

fn cluster_load(site: &str, cluster: &str, per_second: f64) -> rpc::ClusterLoad {
    let to = |site: &str, part: f64| rpc::DestinationLoad {
        region: "eu".into(),
        site: site.into(),
        requests: 70,
        errors: 1,
        in_progress: 2,
        requests_per_second: per_second * part,
        errors_per_second: 0.25,
        ..Default::default()
    };
    let destinations = vec![to("core1", 0.75), to("core2", 0.25)];
    let (site, cluster, role) = (site.into(), cluster.into(), "edge".into());
    rpc::ClusterLoad { site, role, cluster, destinations, dropped: 3, dropped_per_second: 0.1, proxies: 2 }
}

#[tokio::test]
async fn top_sums_destinations_and_wide_shows_each() {
    let answers = || {
        let clusters = vec![cluster_load("edge1", "backbone/-/core1+core2", 40.0)];
        Answers { load: [rpc::LoadResponse { clusters, interval_ms: 10_000 }].into(), ..Default::default() }
    };
    let (done, asked) = against(answers(), &["top", "edge1"], "").await;
    assert_eq!(
        done.out,
        "SITE    CLUSTER                  REQ/S   ERR/S   DROP/S   ACTIVE   REQUESTS   PROXIES\n\
         edge1   backbone/-/core1+core2   40      0.5     0.1      4        140        2\n"
    );
    assert!(asked[0].contains("\"edge1\""), "{asked:?}");
    let (done, _) = against(answers(), &["top", "-o", "wide"], "").await;
    assert!(done.out.contains("eu/core1   30      0.2     2        70         1"), "{}", done.out);
    let (done, _) = against(answers(), &["top", "-o", "json"], "").await;
    assert!(done.out.contains("\"requestsPerSecond\": 10.0"), "{}", done.out);
    let none = Answers { load: [rpc::LoadResponse::default()].into(), ..Default::default() };
    let (done, _) = against(none, &["top"], "").await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", "no proxy has reported load yet\n"));
}

#[tokio::test]
async fn top_watch_shows_every_interval_until_the_control_plane_is_gone() {
    let answer = |per_second| rpc::LoadResponse { clusters: vec![cluster_load("e", "c", per_second)], interval_ms: 0 };
    let answers = Answers { load: [answer(1.0), answer(2.0)].into(), ..Default::default() };
    let (done, _) = against(answers, &["top", "--watch"], "").await;
    assert_eq!((done.code, done.out.matches("SITE").count()), (1, 2), "{done:?}");
    assert!(done.out.contains("1.0") && done.out.contains("2.0"), "{}", done.out);
}
