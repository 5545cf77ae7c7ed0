//! What the status of an object says, read tolerantly: a newer control plane may say more.

use serde_json::Value;

use crate::rpc;

/// One condition, and the part of the object that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Empty for the object; `listener web`, `parent edge/main` for its parts.
    pub(crate) part: String,
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// How many of the connected proxies that see an object have acknowledged it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proxies {
    pub(crate) total: u64,
    pub(crate) acked: u64,
    pub(crate) nacked: u64,
    pub(crate) pending: u64,
}

/// The parts of `status_json` that are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) proxies: Option<Proxies>,
    pub(crate) laggards: Vec<rpc::Laggard>,
}

impl Summary {
    /// Reads the status of `object`.
    pub(crate) fn of(object: &rpc::Object) -> Self {
        let status = status(object);
        let mut conditions = conditions("", &status);
        for listener in items(&status, "listeners") {
            conditions.extend(self::conditions(&format!("listener {}", text(listener, "name")), listener));
        }
        for parent in items(&status, "parents") {
            conditions.extend(self::conditions(&parent_name(&parent["parentRef"]), parent));
        }
        let proxies = status.get("proxies").filter(|p| p.is_object()).map(|proxies| {
            let count = |name| proxies.get(name).and_then(Value::as_u64).unwrap_or(0);
            Proxies { total: count("total"), acked: count("acked"), nacked: count("nacked"), pending: count("pending") }
        });
        let laggards = items(&status, "laggards")
            .iter()
            .map(|l| rpc::Laggard {
                proxy: text(l, "proxy"),
                site: text(l, "site"),
                r#type: text(l, "type"),
                resource: text(l, "resource"),
                error: text(l, "error"),
            })
            .collect();
        Self { conditions, proxies, laggards }
    }

    /// `True`, `False` or `Unknown` with its reason, of the object's own condition `Programmed`.
    pub(crate) fn programmed(&self) -> String {
        let own = self.conditions.iter().find(|c| c.part.is_empty() && c.kind == "Programmed");
        match own {
            Some(c) if c.status == "True" || c.reason.is_empty() => c.status.clone(),
            Some(c) => format!("{}/{}", c.status, c.reason),
            None => String::new(),
        }
    }
}

/// The status as JSON; `null` when there is none.
pub(crate) fn status(object: &rpc::Object) -> Value {
    serde_json::from_str(&object.status_json).unwrap_or_default()
}

/// The manifest as JSON. When the stored bytes are none: who the object is, and no more.
pub(crate) fn manifest(object: &rpc::Object) -> Value {
    serde_json::from_str(&object.manifest_json).unwrap_or_else(|_| {
        let who = object.r#ref.clone().unwrap_or_default();
        serde_json::json!({"kind": who.kind, "metadata": {"name": who.name, "namespace": who.namespace}})
    })
}

/// The manifest with `status` beside `spec`; problems stand in the status.
pub(crate) fn with_status(object: &rpc::Object) -> Value {
    let mut whole = manifest(object);
    let mut status = status(object);
    if !object.problems.is_empty() {
        if !status.is_object() {
            status = serde_json::json!({});
        }
        status["problems"] = object.problems.clone().into();
        status["key"] = object.key.clone().into();
    }
    if let (Some(fields), false) = (whole.as_object_mut(), status.is_null()) {
        fields.insert("status".to_owned(), status);
    }
    whole
}

fn conditions(part: &str, value: &Value) -> Vec<Condition> {
    let condition = |c| Condition {
        part: part.to_owned(),
        kind: text(c, "type"),
        status: text(c, "status"),
        reason: text(c, "reason"),
        message: text(c, "message"),
    };
    items(value, "conditions").iter().map(condition).collect()
}

fn parent_name(parent: &Value) -> String {
    let (namespace, name, section) = (text(parent, "namespace"), text(parent, "name"), text(parent, "sectionName"));
    let mut whole = String::from("parent ");
    if !namespace.is_empty() {
        whole.push_str(&namespace);
        whole.push('/');
    }
    whole.push_str(&name);
    if !section.is_empty() {
        whole.push(':');
        whole.push_str(&section);
    }
    whole
}

pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn text(value: &Value, field: &str) -> String {
    match value.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}
