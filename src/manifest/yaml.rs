//! JSON values → YAML text that the parser reads back as the same value; and the redaction of secrets.

use std::fmt::Write;

use serde_json::Value;

use super::{raw, tree};

/// The value as block YAML, keys in their order, texts of several lines as literal blocks.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => block(value, 0, &mut out),
        scalar => {
            inline(scalar, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

/// What stands in a secret's place.
pub(super) const REDACTED: &str = "[redacted]";

/// Hides the private key of a Certificate and the secrets of an EnvoyResource, and the copy of the manifest that
/// `kubectl apply` keeps in an annotation.
pub fn redact(object: &mut Value) {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !matches!(kind.as_str(), "Certificate" | "EnvoyResource") {
        return;
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if kind == "EnvoyResource" {
            raw::redact(spec);
        } else {
            // All but the public part, so that a misspelt field hides no less.
            spec.iter_mut().filter(|(name, _)| *name != "certificateChain").for_each(|(_, v)| *v = REDACTED.into());
        }
    }
    let copy = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
    if let Some(copy) = object.pointer_mut(copy) {
        *copy = REDACTED.into();
    }
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                pad(indent, out);
                text(key, out);
                out.push(':');
                after(value, indent, out);
            }
        }
        Value::Array(list) => {
            for item in list {
                pad(indent, out);
                out.push('-');
                match item {
                    // The first entry stands behind the dash, the others below it.
                    Value::Object(map) if !map.is_empty() => {
                        let mut nested = String::new();
                        block(item, indent + 2, &mut nested);
                        out.push(' ');
                        out.push_str(nested.trim_start_matches(' '));
                    }
                    _ => after(item, indent, out),
                }
            }
        }
        scalar => inline(scalar, indent, out),
    }
}

fn after(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(value, indent + 2, out);
        }
        scalar => {
            out.push(' ');
            inline(scalar, indent + 2, out);
            out.push('\n');
        }
    }
}

fn inline(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(s) if indent > 0 && fits_literal(s) => {
            out.push_str(if s.ends_with('\n') { "|" } else { "|-" });
            for line in s.lines() {
                out.push('\n');
                pad(indent, out);
                out.push_str(line);
            }
        }
        Value::String(s) => text(s, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Several lines of plain ASCII, none empty, none with spaces at its ends.
fn fits_literal(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n')
        && body.split('\n').all(|line| {
            !line.is_empty() && line.trim() == line && line.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        })
}

fn text(text: &str, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
        }
    }
    out.push('"');
}

/// Needs no quotes, in YAML 1.2 and for readers of YAML 1.1.
fn is_plain(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    let reserved =
        ["null", "true", "false", "yes", "no", "on", "off", "y", "n"].iter().any(|w| text.eq_ignore_ascii_case(w));
    !reserved
        && text.len() <= 120
        && text.bytes().all(word)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/')
        && tree::number(text).is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn back(text: &str) -> Value {
        let (documents, trouble) = tree::documents(text);
        assert_eq!(trouble, None, "{text}");
        assert_eq!(documents.len(), 1, "{text}");
        assert_eq!(documents[0].troubles, [], "{text}");
        documents[0].root.to_json()
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~\n]{0,40}".prop_map(Value::from),
            "(yes|no|null|1e3|0x10|- a|a: b|#a|a\nb\n|a\nb)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{0,8}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn yaml_reads_back_as_the_same_value(value in any_json()) {
            prop_assert_eq!(back(&to_yaml(&value)), value);
        }
    }

    #[test]
    fn yaml_looks_as_a_person_would_write_it() {
        let value = json!({"spec": {"rules": [{"name": "a", "port": 1}, "b"], "pem": "-----BEGIN\nAB=\n", "x": "on"}});
        let text = "spec:
  pem: |
    -----BEGIN
    AB=
  rules:
    - name: a
      port: 1
    - b
  x: \"on\"
";
        assert_eq!(to_yaml(&value), text);
    }

    #[test]
    fn private_keys_are_hidden_and_nothing_else() {
        let mut object = json!({"kind": "Certificate", "spec": {"privateKey": "x", "certificateChain": "y"}});
        redact(&mut object);
        assert_eq!(object["spec"], json!({"privateKey": "[redacted]", "certificateChain": "y"}));
        let mut raw = json!({"kind": "Certificate", "spec": {"privatekey": "x"},
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x", "b": "y"}}});
        redact(&mut raw);
        assert!(!raw.to_string().contains("\"x\""), "{raw}");
        let route = json!({"kind": "HTTPRoute", "spec": {"privateKey": "x"}});
        let mut same = route.clone();
        redact(&mut same);
        assert_eq!(same, route);
    }
}
