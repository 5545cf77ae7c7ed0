//! Whole texts: every example parses, every mistake is found at its place, nothing panics.

use proptest::prelude::*;

use super::*;
use crate::model::{Filter, Kind, ListenerProtocol, PathMatch, Spec, StringMatch};

mod places;

const EXAMPLES: [(&str, &str); 7] = [
    ("fleet.yaml", include_str!("../../envoy-configs/examples/fleet.yaml")),
    ("shop.yaml", include_str!("../../envoy-configs/examples/shop.yaml")),
    ("features.yaml", include_str!("../../envoy-configs/examples/features.yaml")),
    ("canary.yaml", include_str!("../../envoy-configs/examples/canary.yaml")),
    ("https.yaml", include_str!("../../envoy-configs/examples/https.yaml")),
    ("cross-namespace.yaml", include_str!("../../envoy-configs/examples/cross-namespace.yaml")),
    ("raw.yaml", include_str!("../../envoy-configs/examples/raw.yaml")),
];

fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(Fault::to_string).collect()
}

fn one(text: &str) -> Located {
    let mut parsed = parse("t", text, Mode::Strict);
    assert_eq!(lines(&parsed.faults), Vec::<String>::new());
    parsed.objects.pop().unwrap()
}

/// As it is read when it was accepted.
fn parse_stored(key: &ObjectRef, bytes: &[u8]) -> Result<(Object, Vec<String>), Vec<Fault>> {
    read_stored(key, bytes, Mode::Tolerant)
}

#[test]
fn every_example_parses_strictly_without_a_word() {
    for (name, text) in EXAMPLES {
        let parsed = parse(name, text, Mode::Strict);
        assert_eq!(lines(&parsed.faults), Vec::<String>::new());
        assert_eq!(lines(&parsed.warnings), Vec::<String>::new());
        assert_eq!(parsed.objects.len(), text.matches("\nkind: ").count(), "{name}");
    }
}

#[test]
fn what_is_got_can_be_applied_again() {
    for located in EXAMPLES.iter().flat_map(|(name, text)| parse(name, text, Mode::Strict).objects) {
        let mut json = located.json.clone();
        json["status"] = serde_json::json!({"conditions": [{"type": "Programmed"}]});
        json["metadata"]["uid"] = "7".into();
        json["metadata"]["resourceVersion"] = "12".into();
        json["metadata"]["generation"] = 3.into();
        json["metadata"]["creationTimestamp"] = serde_json::Value::Null;
        json["metadata"]["managedFields"] = serde_json::json!([{}]);
        let again = one(&to_yaml(&json));
        assert_eq!(again.object, located.object);
        assert_eq!(again.json, located.json);
        let bytes = serde_json::to_vec(&json).unwrap();
        let (stored, warnings) = parse_stored(&located.object.reference(), &bytes).unwrap();
        assert_eq!((stored, warnings), (located.object, vec![]));
    }
}

#[test]
fn fields_reach_the_object() {
    let parsed = parse("f", EXAMPLES[2].1, Mode::Strict);
    let Spec::Gateway(gateway) = &parsed.objects[0].object.spec else { panic!() };
    assert_eq!(gateway.sites.as_ref().unwrap().match_expressions.len(), 2);
    assert_eq!(gateway.listeners[0].hostname.as_deref(), Some("*.features.example.com"));
    assert_eq!(gateway.listeners[0].protocol, ListenerProtocol::Http);
    let Spec::HttpRoute(route) = &parsed.objects[1].object.spec else { panic!() };
    assert_eq!(route.parents[0].section_name.as_deref(), Some("http"));
    assert_eq!(route.parents[0].namespace, "shop");
    let header = &route.rules[3].matches[0].headers[0];
    assert_eq!((header.name.as_str(), &header.value), ("x-version", &StringMatch::Exact("two".into())));
    assert_eq!(route.rules[5].matches.len(), 2);
    let Spec::HttpRoute(route) = &parsed.objects[2].object.spec else { panic!() };
    assert!(matches!(&route.rules[0].filters[0], Filter::RequestHeaders(h) if h.remove == ["x-remove"]));
    assert_eq!(route.rules[6].backend_request_timeout, Some(std::time::Duration::from_millis(1500)));
}

#[test]
fn defaults_are_those_of_the_gateway_api() {
    let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n";
    let Spec::HttpRoute(route) = one(&format!("{head}spec: {{parentRefs: [{{name: g}}]}}")).object.spec else {
        panic!()
    };
    assert_eq!(route.rules.len(), 1);
    assert_eq!(route.rules[0].matches[0].path, PathMatch::Prefix("/".into()));
    assert!(route.rules[0].backends.is_empty());
    assert_eq!(route.parents[0].namespace, "default");
    let trimmed =
        format!("{head}spec: {{parentRefs: [{{name: g}}], rules: [{{matches: [{{path: {{value: /a/}}}}]}}]}}");
    let Spec::HttpRoute(route) = one(&trimmed).object.spec else { panic!() };
    assert_eq!(route.rules[0].matches[0].path, PathMatch::Prefix("/a".into()));
}

#[test]
fn a_stored_value_must_be_what_its_key_names() {
    let key = ObjectRef::new(Kind::Namespace, "", "shop");
    let value =
        |name: &str| format!("apiVersion: tidegate.dev/v1alpha1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    assert!(parse_stored(&key, value("shop").as_bytes()).is_ok());
    let wrong = parse_stored(&key, value("other").as_bytes()).unwrap_err();
    assert_eq!(
        wrong[0].message,
        "the value is Namespace other, but its key names Namespace shop: write it under its own key"
    );
    for bad in ["", "---\n", "[", "\u{0}"] {
        assert!(parse_stored(&key, bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(parse_stored(&key, &[0xff]).is_err());
    assert!(parse_stored(&key, &vec![b' '; 600 * 1024]).is_err());
    let two = format!("{}---\n{}", value("shop"), value("other"));
    assert!(parse_stored(&key, two.as_bytes()).is_err());
}

#[test]
fn the_store_is_read_tolerantly_and_a_person_strictly() {
    let text = "apiVersion: tidegate.dev/v1alpha1\nkind: Fleet\nmetadata: {name: fleet}\nspec: {newField: 1}\n";
    let key = ObjectRef::new(Kind::Fleet, "", "fleet");
    let (_, warnings) = parse_stored(&key, text.as_bytes()).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(read_stored(&key, text.as_bytes(), Mode::Strict).is_err());
}

#[test]
fn live_endpoints_are_read_and_refused_in_words() {
    let endpoint = parse_endpoint(br#"{"address":"10.0.0.1:8080","weight":1}"#).unwrap();
    assert_eq!(endpoint.address, "10.0.0.1:8080".parse().unwrap());
    assert_eq!(parse_endpoint(br#"{"address":"[2001:db8::1]:80"}"#).unwrap().weight, 1);
    for (bad, message) in [
        ("{}", "address: this field is missing: add it"),
        ("[]", "expected a mapping, found a list"),
        (r#"{"address":"here"}"#, r#"address: "here" is not IP:port, for example 10.0.0.1:8080 or [2001:db8::1]:8080"#),
        (r#"{"address":"1.2.3.4:5","weight":0}"#, "weight: 0 is not a whole number from 1 to 128"),
    ] {
        assert_eq!(parse_endpoint(bad.as_bytes()).unwrap_err(), message);
    }
    for bad in [&b"\xff"[..], b"", b"{", b"a: 1\n---\nb: 1", &[b'['; 4000]] {
        assert!(parse_endpoint(bad).is_err());
    }
}

#[test]
fn a_key_that_does_not_fit_is_refused_and_never_shown() {
    let text = EXAMPLES[4].1;
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let body = |pem: &str| pem.lines().nth(1).unwrap().trim().to_owned();
    let key = text.split("privateKey: |\n").nth(1).unwrap();
    let first_line = body(key);
    let foreign: String = other.lines().map(|l| format!("    {l}\n")).collect();
    let end = key.find("---\napiVersion").unwrap();
    let swapped = text.replace(&key[..end], &foreign);
    let parsed = parse("t", &swapped, Mode::Strict);
    assert_eq!(parsed.faults.len(), 1);
    assert!(parsed.faults[0].message.starts_with("the key does not belong"), "{:?}", parsed.faults);
    assert!(!format!("{parsed:?}").contains(&body(&other)));

    let broken = text.replace(&first_line, "AAAA");
    let parsed = parse("t", &broken, Mode::Strict);
    assert_eq!(parsed.faults.len(), 1, "{:?}", parsed.faults);
    let debug = format!("{:?}", parse("t", text, Mode::Strict));
    assert!(!debug.contains(&first_line));
}

#[test]
fn limits_hold() {
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    assert_eq!(parse("t", &deep, Mode::Strict).faults[0].message, "lists and mappings are nested deeper than 64");
    let head = "apiVersion: tidegate.dev/v1alpha1\nkind: Namespace\nmetadata:\n  name: a\n  annotations:\n    x: ";
    let large = format!("{head}{}\n", "y".repeat(513 * 1024));
    assert_eq!(parse("t", &large, Mode::Strict).faults[0].message, "the object is larger than 512 KiB");
    let many = format!("{head}{}\n---\n", "y".repeat(300 * 1024));
    let faults = parse("t", &many.repeat(3), Mode::Strict).faults;
    assert!(faults.iter().all(|f| f.message.contains("twice")) && faults.len() == 2, "{faults:?}");
    let same = parse("t", &"a: 1\n".repeat(1000), Mode::Strict).faults;
    assert_eq!(same.len(), 200);
    assert!(same[199].message.ends_with("(and 801 more after this)"), "{}", same[199]);
    let brackets = "[".repeat(512 * 1024);
    assert!(!parse("t", &brackets, Mode::Strict).faults.is_empty());
}

fn mutated() -> impl Strategy<Value = String> {
    let cut = (
        0..EXAMPLES.len(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        "[-:\\[\\]{}\"'|>&*!%@,# \t\n~a0]{0,6}",
    );
    cut.prop_map(|(example, from, length, noise)| {
        let text = EXAMPLES[example].1;
        let start = from.index(text.len());
        let end = (start + length.index(40)).min(text.len());
        format!("{}{noise}{}", &text[..start], &text[end..])
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_endpoint(&bytes);
        let _ = parse_stored(&ObjectRef::new(Kind::HttpRoute, "a", "b"), &bytes);
        let _ = parse("t", &String::from_utf8_lossy(&bytes), Mode::Strict);
    }

    #[test]
    fn yaml_like_noise_never_panics(text in "[-:\\[\\]{}\"'|>&*!%@,#? \t\n\r~a0<\\\\]{0,80}") {
        let _ = parse("t", &text, Mode::Tolerant);
    }

    #[test]
    fn damaged_examples_never_panic(text in mutated()) {
        let _ = parse("t", &text, Mode::Strict);
    }

    #[test]
    fn patterns_never_panic(pattern in "[a\\\\\\[\\](){}|*+?^$.pLuxU&~:=<>P,0-9 -]{0,30}") {
        let _ = regex::check(&pattern);
    }
}

#[test]
fn json_of_every_writer_is_read() {
    let wanted = serde_json::json!({"a": "x/😀\u{7f}é\n", "b": [1, {"c": null}], "long": "y".repeat(2000)});
    let tabs = "{\n\t\"a\": \"x\\/\\ud83d\\ude00\\u007f\\u00e9\\n\",\n\t\"b\": [\n\t\t1,\n\t\t{\"c\":null}\n\t],\n\t\"long\":\"LONG\"\n}\n";
    let dense = "{\"a\":\"x/😀\u{7f}é\\n\",\"b\":[1,{\"c\":null}],\"long\":\"LONG\"}";
    for text in [tabs, dense, &to_yaml(&wanted), &tabs.replace('\n', "\r\n")] {
        let text = text.replace("LONG", &"y".repeat(2000));
        let (documents, trouble) = tree::documents(&text);
        assert_eq!(trouble, None, "{text}");
        assert_eq!(documents[0].root.to_json(), wanted);
    }
    let key = format!("{{\"{}\":1}}", "k".repeat(1500));
    assert_eq!(tree::documents(&key).1, None);
    let lone = r#"{"a": "\ud83d"}"#;
    assert!(tree::documents(lone).1.is_some());
}
