//! The first client of a run: it learns names and versions, so that all others can ask for them.

use std::collections::BTreeMap;

use crate::{
    proto::{Field, Value, fields},
    resources::Resource,
};

/// What the server has, sorted by name.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub clusters: Vec<Resource>,
    pub endpoints: Vec<Resource>,
}

/// Collects what a client is sent.
#[derive(Default)]
pub struct Scout {
    clusters: BTreeMap<String, Resource>,
    endpoints: BTreeMap<String, Resource>,
}

impl Scout {
    /// A `Resource` message.
    pub fn take(&mut self, message: &[u8]) {
        let mut resource = Resource::default();
        for Field { number, value } in fields(message) {
            let Value::Bytes(bytes) = value else { continue };
            match number {
                1 => resource.version = text(bytes),
                3 => resource.name = text(bytes),
                2 => {
                    for Field { number, value } in fields(bytes) {
                        match (number, value) {
                            (1, Value::Bytes(url)) => resource.url = text(url),
                            (2, Value::Bytes(value)) => resource.bytes = value.to_vec(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let of_type = if resource.url.ends_with(".Cluster") { &mut self.clusters } else { &mut self.endpoints };
        of_type.insert(resource.name.clone(), resource);
    }

    /// What it has seen.
    pub fn held(&self) -> Held {
        let mut held = Held {
            clusters: self.clusters.values().cloned().collect(),
            endpoints: self.endpoints.values().cloned().collect(),
        };
        if held.endpoints.is_empty() {
            // Assignments are asked for by the names of the clusters.
            held.endpoints =
                held.clusters.iter().map(|c| Resource { name: c.name.clone(), ..Resource::default() }).collect();
        }
        held
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
