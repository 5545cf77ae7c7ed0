//! Which object contributed what: sums for the search of a NACK's culprit, and the metadata that people read.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{ListValue, Struct, Value, value::Kind as ValueKind},
};

use crate::{
    model::{Kind, ObjectRef},
    xds::{ResourceType, Source},
};

/// The first eight bytes of the blake3 hash, as a number.
fn number(hash: blake3::Hash) -> u64 {
    hash.as_bytes().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// Every object with the hash of the whole payload. A listener holds no more of a Certificate than its name: what else
/// changes there is not its doing.
pub(super) fn whole(kind: ResourceType, objects: &[ObjectRef], payload: &[u8]) -> Vec<Source> {
    let whole = number(blake3::hash(payload));
    let contribution = |object: &ObjectRef| match (kind, object.kind) {
        (ResourceType::Listener, Kind::Certificate) => number(blake3::hash(object.name.as_bytes())),
        _ => whole,
    };
    let mut sources: Vec<Source> =
        objects.iter().map(|o| Source { object: o.clone(), contribution: contribution(o) }).collect();
    sources.sort();
    sources.dedup();
    sources
}

/// Collects contributions of several objects, several of one object included (their order counts).
#[derive(Default)]
pub(super) struct Sources(BTreeMap<ObjectRef, Vec<u8>>);

impl Sources {
    /// Notes that `object` contributed `part`.
    pub(super) fn add(&mut self, object: &ObjectRef, part: &[u8]) {
        let parts = self.0.entry(object.clone()).or_default();
        parts.extend_from_slice(&(part.len() as u64).to_be_bytes());
        parts.extend_from_slice(part);
    }

    /// Sorted by object, each once.
    pub(super) fn finish(self) -> Vec<Source> {
        let source = |(object, parts): (_, Vec<u8>)| Source { object, contribution: number(blake3::hash(&parts)) };
        self.0.into_iter().map(source).collect()
    }
}

fn text(value: &str) -> Value {
    Value { kind: Some(ValueKind::StringValue(value.to_owned())) }
}

/// `filter_metadata` `tidegate.dev`: `{resources: [{kind, namespace, name, sectionName}]}`; empty parts are left out.
///
/// Never a generation: it would push on every rewrite.
pub(super) fn metadata<'a>(objects: impl IntoIterator<Item = (&'a ObjectRef, &'a str)>) -> Option<Metadata> {
    let resources: Vec<Value> = objects
        .into_iter()
        .map(|(object, section)| {
            let parts = [
                ("kind", object.kind.as_str()),
                ("namespace", object.namespace.as_str()),
                ("name", object.name.as_str()),
                ("sectionName", section),
            ];
            let fields = parts.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), text(v)));
            Value { kind: Some(ValueKind::StructValue(Struct { fields: fields.collect() })) }
        })
        .collect();
    if resources.is_empty() {
        return None;
    }
    let list = Value { kind: Some(ValueKind::ListValue(ListValue { values: resources })) };
    let fields = HashMap::from([("resources".to_owned(), list)]);
    Some(Metadata {
        filter_metadata: HashMap::from([("tidegate.dev".to_owned(), Struct { fields })]),
        ..Default::default()
    })
}
