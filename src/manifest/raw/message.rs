//! A tree with places → an encoded message of Envoy's, by its descriptor: protobuf JSON, in which what is wrong is told
//! where it stands.

use bytes::Bytes;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json};

use crate::{
    manifest::{
        Mode,
        tree::{Key, Node, Span, Value, quoted},
        walk::{At, join},
        yaml::REDACTED,
    },
    xds::{
        canonical::canonical,
        descriptor::{ANY, message_name, pool},
        json::{from_json, is_sensitive},
        validate::validate,
    },
};

/// Broken rules that are told of one resource.
const MAX_VIOLATIONS: usize = 20;

/// The canonical bytes of the `full_name` that stands at `at`; `None`, and faults, where Envoy would refuse it.
pub(super) fn read(at: &At<'_>, full_name: &str) -> Option<Bytes> {
    let before = at.report.count();
    let json = message(at, &pool().get_message_by_name(full_name)?);
    if at.report.count() > before {
        return None;
    }
    let bytes = from_json(full_name, &json).map_err(|error| at.fault(error.to_string())).ok()?;
    let payload = canonical(full_name, bytes.into());
    for violation in validate(full_name, &payload).into_iter().take(MAX_VIOLATIONS) {
        locate(at, &violation.path).fault(format!("Envoy would refuse it: it {}", violation.rule));
    }
    (at.report.count() == before).then_some(payload)
}

/// Messages whose JSON form is their own.
fn special(full_name: &str) -> bool {
    full_name.strip_prefix("google.protobuf.").is_some_and(|name| {
        matches!(name, "Duration" | "Timestamp" | "FieldMask" | "Struct" | "Value" | "ListValue" | "Empty")
            || name.ends_with("Value")
    })
}

fn message(at: &At<'_>, descriptor: &MessageDescriptor) -> Json {
    if descriptor.full_name() == ANY { any(at) } else { fields(at, descriptor, false) }
}

/// Takes what `@type` says.
fn any(at: &At<'_>) -> Json {
    let Value::Map(_) = at.node.value else { return expected(at, "a mapping with `@type`") };
    let Some(url) = at.node.get("@type") else {
        at.fault("`@type` is missing: which message is this? (type.googleapis.com/…)");
        return Json::Null;
    };
    let url_at = At { node: url, path: join(&at.path, "@type"), report: at.report };
    let Some(url) = url_at.text() else { return Json::Null };
    let name = message_name(url);
    let Some(inner) = pool().get_message_by_name(name).filter(|inner| inner.full_name() != ANY) else {
        url_at.fault(unknown_type(name));
        return Json::Null;
    };
    let mut json = if special(inner.full_name()) { at.node.to_json() } else { fields(at, &inner, true) };
    if let Some(members) = json.as_object_mut() {
        members.insert("@type".to_owned(), url.into());
    }
    if special(inner.full_name())
        && let Err(error) = from_json(ANY, &json)
    {
        at.fault(error.to_string());
    }
    json
}

fn unknown_type(name: &str) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
    let same = pool().all_messages().find(|m| m.full_name().starts_with("envoy.") && last(m.full_name()) == last(name));
    let near = same.or_else(|| {
        let near = |m: &MessageDescriptor| strsim::levenshtein(m.full_name(), name);
        pool().all_messages().filter(|m| m.full_name().len().abs_diff(name.len()) <= 2).find(|m| near(m) <= 2)
    });
    match near {
        Some(near) => format!(
            "Envoy's API has no message {}: did you mean `type.googleapis.com/{}`?",
            quoted(name),
            near.full_name()
        ),
        None => format!("Envoy's API, as Tidegate knows it, has no message {}", quoted(name)),
    }
}

/// `typed`: `@type` stands among them.
fn fields(at: &At<'_>, descriptor: &MessageDescriptor, typed: bool) -> Json {
    let Value::Map(entries) = &at.node.value else { return expected(at, "a mapping") };
    let mut seen: Vec<(u32, Option<String>, Span)> = Vec::new();
    let mut json = Map::new();
    for (key, node) in entries {
        if typed && key.text == "@type" {
            continue;
        }
        let field = descriptor.get_field_by_json_name(&key.text).or_else(|| descriptor.get_field_by_name(&key.text));
        let Some(field) = field else {
            unknown(at, key, descriptor);
            continue;
        };
        if node.value == Value::Null && !is_value(&field) {
            continue;
        }
        let at = At { node, path: join(&at.path, &key.text), report: at.report };
        let oneof = field.containing_oneof().filter(|one| one.fields().len() > 1).map(|one| one.name().to_owned());
        let same = |(number, other, _): &&(u32, Option<String>, Span)| {
            *number == field.number() || (oneof.is_some() && *other == oneof)
        };
        if let Some((_, _, span)) = seen.iter().find(same) {
            at.fault(format!("this and what stands in line {} exclude each other: keep one", span.line));
        }
        seen.push((field.number(), oneof, key.span));
        json.insert(field.json_name().to_owned(), value(&at, &field));
    }
    Json::Object(json)
}

fn unknown(at: &At<'_>, key: &Key, descriptor: &MessageDescriptor) {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    let asked = plain(&key.text);
    let near = descriptor
        .fields()
        .map(|field| (strsim::damerau_levenshtein(&plain(field.name()), &asked), field.json_name().to_owned()))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
    let what = format!("{} has no field {}", descriptor.full_name(), quoted(&key.text));
    let message = match near {
        Some((_, near)) => format!("{what}: did you mean `{near}`?"),
        None => format!("{what}: remove it"),
    };
    match at.report.mode() {
        Mode::Strict => at.report.fault(key.span, &join(&at.path, &key.text), message),
        Mode::Tolerant => at.report.warn(key.span, &join(&at.path, &key.text), message),
    }
}

fn is_value(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(message) if message.full_name() == "google.protobuf.Value")
}

fn value(at: &At<'_>, field: &FieldDescriptor) -> Json {
    if is_sensitive(field) && at.node.to_json().to_string().contains(REDACTED) {
        at.fault("the secret is hidden in what was shown: put the real one here before you apply it");
    }
    if field.is_map() {
        let Value::Map(entries) = &at.node.value else { return expected(at, "a mapping") };
        let entry = |(key, node): &(Key, Node)| {
            let at = At { node, path: join(&at.path, &key.text), report: at.report };
            let kind = field.kind();
            let of = kind.as_message().map(MessageDescriptor::map_entry_value_field);
            let value = of
                .map(|of| one(&at, &of, &|json| Json::Object([(key.text.clone(), json)].into_iter().collect()), field));
            (key.text.clone(), value.unwrap_or_default())
        };
        Json::Object(entries.iter().map(entry).collect())
    } else if field.is_list() {
        let Value::List(items) = &at.node.value else { return expected(at, "a list") };
        let item = |(index, node)| {
            let at = At { node, path: format!("{}[{index}]", at.path), report: at.report };
            one(&at, field, &|json| Json::Array(vec![json]), field)
        };
        Json::Array(items.iter().enumerate().map(item).collect())
    } else {
        one(at, field, &|json| json, field)
    }
}

/// One value of the kind of `of`; `wrap` makes it a value of `field`, by which the decoder itself judges it.
fn one(at: &At<'_>, of: &FieldDescriptor, wrap: &dyn Fn(Json) -> Json, field: &FieldDescriptor) -> Json {
    match of.kind() {
        Kind::Message(inner) if !special(inner.full_name()) => return message(at, &inner),
        Kind::Enum(words) => {
            if let Value::Text(text) = &at.node.value
                && words.get_value_by_name(text).is_none()
            {
                at.fault(unknown_word(text, &words));
                return Json::Null;
            }
        }
        _ => {}
    }
    let json = at.node.to_json();
    let alone = Json::Object([(field.json_name().to_owned(), wrap(json.clone()))].into_iter().collect());
    if let Err(error) = from_json(field.parent_message().full_name(), &alone) {
        at.fault(error.to_string());
    }
    json
}

fn unknown_word(text: &str, words: &EnumDescriptor) -> String {
    let all: Vec<String> = words.values().map(|value| value.name().to_owned()).collect();
    format!("{} is none of {}", quoted(text), all.join(", "))
}

fn expected(at: &At<'_>, what: &str) -> Json {
    at.fault(format!("expected {what}, found {}", at.node.found()));
    Json::Null
}

/// Where `path`, the way through a message's JSON form, leads in a manifest; as far as it goes.
pub(super) fn locate<'n>(at: &At<'n>, path: &str) -> At<'n> {
    let mut node = at.node;
    for step in steps(path) {
        let next = match (&node.value, step.parse::<usize>()) {
            (Value::List(items), Ok(index)) => items.get(index),
            (Value::Map(entries), _) => {
                let found = entries.iter().find(|(key, _)| key.text == step || camel(&key.text) == step);
                found.map(|(_, node)| node)
            }
            _ => None,
        };
        let Some(next) = next else { break };
        node = next;
    }
    let path = match path {
        "" => at.path.clone(),
        path if path.starts_with('[') => format!("{}{path}", at.path),
        path => format!("{}.{path}", at.path),
    };
    At { node, path, report: at.report }
}

/// `a.b[0]["x.y"]` → `a`, `b`, `0`, `x.y`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = if let Some(quoted) = rest.strip_prefix("[\"") {
            quoted.split_once("\"]").unwrap_or((quoted, ""))
        } else if let Some(index) = rest.strip_prefix('[') {
            index.split_once(']').unwrap_or((index, ""))
        } else {
            rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()))
        };
        steps.push(step.to_owned());
        rest = after.strip_prefix('.').unwrap_or(after);
    }
    steps
}

/// The JSON name of a field that is written as in the proto.
fn camel(name: &str) -> String {
    let mut upper = false;
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}
