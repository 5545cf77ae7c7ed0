//! Keys of the store → typed, indexed objects: what is stored, what of it is in service, and what a change touches.
//!
//! In service is the object where it is valid, else its accepted copy; see [`copies`]. So two catalogs that stand at
//! one revision hold the same, whatever they saw before. Nothing here looks at references between objects, which
//! `compile::resolve` judges whenever it reads them.

pub mod accepted;
pub mod acked;
mod configuration;
mod copies;
mod runtime;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    manifest::Mode,
    model::{
        KeyError, Keyspace, Kind, LiveEndpoint, Object, ObjectRef, Problem, Revision, Severity, StoreKey, Watermarks,
    },
    store::{Change, KeyValue, Listing},
};

pub use configuration::{Configuration, Stored};
use copies::{Copies, Keys};
pub use copies::{RawWrite, Unagreed};
pub use runtime::{LiveEndpoints, Runtime};

/// Reads one stored manifest: the object and warnings about it, or everything that is wrong with it.
pub type Parse = fn(&ObjectRef, &[u8], Mode) -> Result<(Object, Vec<String>), Vec<String>>;

/// Reads one live endpoint.
pub type ParseEndpoint = fn(&[u8]) -> Result<LiveEndpoint, String>;

/// Something that a compilation may look at. It is recorded when it is read, found or not, and reported by
/// [`Changed`] when a later answer could differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Read {
    /// One object, or its absence.
    Object(ObjectRef),
    /// Every object of a kind.
    All(Kind),
    /// Every object of a namespaced kind in one namespace.
    InNamespace(Kind, String),
    /// The objects that name this one: HTTPRoutes a Gateway, EndpointSets a Service or a Site.
    Referrers(ObjectRef),
    /// The set of host names that HTTPRoutes of a Gateway name.
    Hosts(ObjectRef),
    /// The HTTPRoutes of a Gateway that name a host name, and all that they say; `*`: those that name none.
    RoutesFor(ObjectRef, Arc<str>),
    /// The live endpoints of a Service at a site.
    Endpoints {
        /// The site's name.
        site: String,
        /// The Service.
        service: ObjectRef,
    },
}

/// What could be read differently now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// From the [`Configuration`].
    pub configuration: BTreeSet<Read>,
    /// From the [`Runtime`].
    pub runtime: BTreeSet<Read>,
}

impl Changed {
    /// Nothing that anyone can read has changed.
    pub fn is_empty(&self) -> bool {
        self.configuration.is_empty() && self.runtime.is_empty()
    }

    /// Whether one of `reads` could have another answer now.
    pub fn touches(&self, reads: &BTreeSet<Read>) -> bool {
        let meets = |changed: &BTreeSet<Read>| {
            let (few, many) = if changed.len() < reads.len() { (changed, reads) } else { (reads, changed) };
            few.iter().any(|read| many.contains(read))
        };
        meets(&self.configuration) || meets(&self.runtime)
    }

    /// Adds the changes of a later step.
    pub fn merge(&mut self, later: Changed) {
        self.configuration.extend(later.configuration);
        self.runtime.extend(later.runtime);
    }
}

/// What a key was last given. The revision alone would not tell it from what another store holds, once that one was
/// accepted in place of the first.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    create_revision: Revision,
    mod_revision: Revision,
    value: Bytes,
}

impl Written {
    fn of(entry: &KeyValue) -> Self {
        let KeyValue { create_revision, mod_revision, .. } = *entry;
        Self { create_revision, mod_revision, value: entry.value.clone() }
    }
}

/// Everything that is stored, as far as it can be read. One task owns and writes it; readers take cheap clones of
/// [`Catalog::configuration`] and [`Catalog::runtime`].
#[derive(Debug)]
pub struct Catalog {
    keyspace: Keyspace,
    parse: Parse,
    parse_endpoint: ParseEndpoint,
    configuration: Configuration,
    runtime: Runtime,
    watermarks: Arc<Watermarks>,
    /// Every object of which a key stands.
    objects: BTreeMap<Arc<ObjectRef>, Copies>,
    unagreed: Arc<Unagreed>,
    /// Each key that stands in the store, as it was last written.
    keys: BTreeMap<String, Written>,
    /// What is wrong with a key's value, or with the key.
    faults: BTreeMap<String, Vec<Problem>>,
    /// Sites and Services whose live endpoints count nowhere.
    stray: BTreeSet<(String, ObjectRef)>,
}

impl Catalog {
    /// An empty catalog that reads keys of `keyspace`.
    pub fn new(keyspace: Keyspace, parse: Parse, parse_endpoint: ParseEndpoint) -> Self {
        Self {
            keyspace,
            parse,
            parse_endpoint,
            configuration: Configuration::default(),
            runtime: Runtime::default(),
            watermarks: Arc::default(),
            objects: BTreeMap::new(),
            unagreed: Arc::default(),
            keys: BTreeMap::new(),
            faults: BTreeMap::new(),
            stray: BTreeSet::new(),
        }
    }

    /// The objects, as they are now.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The live endpoints, as they are now.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// How far the sites have come, as the leader wrote it. Not configuration: no [`Changed`] tells of it.
    pub fn watermarks(&self) -> &Arc<Watermarks> {
        &self.watermarks
    }

    /// What came past admission and waits for the leader's word; another value only when it changed.
    pub fn unagreed(&self) -> &Arc<Unagreed> {
        &self.unagreed
    }

    /// Takes in the changes of a revision (or of several, in order).
    pub fn apply(&mut self, changes: &[Change]) -> Changed {
        let mut taken = Taken::default();
        for change in changes {
            match change {
                Change::Put(entry) => self.put(entry, &mut taken),
                Change::Delete(key) => self.delete(key, &mut taken),
            }
        }
        self.settle(taken)
    }

    /// Takes in a whole listing: what it has anew, what it has in another version, and what it no longer has.
    pub fn reset(&mut self, listing: &Listing) -> Changed {
        let mut taken = Taken::default();
        let listed: BTreeSet<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
        let gone: Vec<String> = self.keys.keys().filter(|key| !listed.contains(key.as_str())).cloned().collect();
        for key in gone {
            self.delete(&key, &mut taken);
        }
        for entry in &listing.entries {
            if self.keys.get(&entry.key) != Some(&Written::of(entry)) {
                self.put(entry, &mut taken);
            }
        }
        self.settle(taken)
    }

    /// Whether a key is of the configuration, and not of what the fleet says about itself.
    pub fn is_configuration(&self, key: &str) -> bool {
        matches!(self.keyspace.parse(key), Ok(StoreKey::Object(_) | StoreKey::Accepted(_)))
    }

    /// What is wrong with single keys: unreadable values, unknown keys, live endpoints that count nowhere.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.faults.values().flatten().cloned().collect();
        for (site, service) in &self.stray {
            let Some(endpoints) = self.runtime.endpoints(site, service) else { continue };
            problems.extend(endpoints.keys().map(|id| {
                let key = self.keyspace.format(&StoreKey::Endpoint {
                    site: site.clone(),
                    namespace: service.namespace.clone(),
                    service: service.name.clone(),
                    id: id.clone(),
                });
                Problem {
                    object: None,
                    severity: Severity::Warning,
                    reason: "EndpointSetNotFound".into(),
                    message: format!(
                        "the live endpoint is ignored: no EndpointSet of {service} stands at Site {site}; apply one"
                    ),
                    revision: self.keys.get(&key).map(|written| written.mod_revision).unwrap_or_default(),
                    key,
                }
            }));
        }
        problems
    }

    /// Keeps `stray` true: a change of endpoints costs what changed, and only one of EndpointSets a look at all.
    fn recount(&mut self, changed: &Changed) {
        let mut pairs: Vec<(String, ObjectRef)> = Vec::new();
        if changed.configuration.contains(&Read::All(Kind::EndpointSet)) {
            pairs.extend(self.runtime.iter().map(|(site, service, _)| (site.to_owned(), service.clone())));
        } else {
            pairs.extend(changed.runtime.iter().filter_map(|read| match read {
                Read::Endpoints { site, service } => Some((site.clone(), service.clone())),
                _ => None,
            }));
        }
        for (site, service) in pairs {
            let counted = self.configuration.referrers(&service).any(|set| {
                set.endpoint_set().is_some_and(|spec| spec.site == site) && set.reference.namespace == service.namespace
            });
            if counted || self.runtime.endpoints(&site, &service).is_none() {
                self.stray.remove(&(site, service));
            } else {
                self.stray.insert((site, service));
            }
        }
    }

    fn put(&mut self, entry: &KeyValue, taken: &mut Taken) {
        self.keys.insert(entry.key.clone(), Written::of(entry));
        self.faults.remove(&entry.key);
        match self.keyspace.parse(&entry.key) {
            Ok(StoreKey::Object(reference)) => taken.copies(&mut self.objects, reference).object = Some(entry.clone()),
            Ok(StoreKey::Accepted(reference)) => {
                taken.copies(&mut self.objects, reference).accepted = Some(entry.clone());
            }
            Ok(StoreKey::Endpoint { site, namespace, service, id }) => {
                let service = ObjectRef::new(Kind::Service, &namespace, &service);
                let endpoint = match (self.parse_endpoint)(&entry.value) {
                    Ok(endpoint) => Some(endpoint),
                    Err(message) => {
                        self.fault(entry, "InvalidEndpoint", message);
                        None
                    }
                };
                if self.runtime.set(&site, &service, &id, endpoint) {
                    taken.changed.runtime.insert(Read::Endpoints { site, service });
                }
            }
            Ok(StoreKey::Acked(site)) => self.put_watermark(&site, entry),
            Ok(StoreKey::Mark(_) | StoreKey::Head | StoreKey::Reserved) => {}
            // A fault, as the value of a key that was meant is: pages that show faults only have to name it.
            Err(error) => self.fault(entry, "UnknownKey", error.to_string()),
        }
    }

    /// A value that cannot be read says nothing, whatever stood there before: every replica must hear the same.
    fn put_watermark(&mut self, site: &str, entry: &KeyValue) {
        let watermark = match acked::decode(&entry.value) {
            Ok(watermark) => Some(watermark),
            Err(message) => {
                self.fault(entry, "InvalidWatermark", message);
                None
            }
        };
        acked::set(&mut self.watermarks, site, watermark);
    }

    fn delete(&mut self, key: &str, taken: &mut Taken) {
        self.keys.remove(key);
        self.faults.remove(key);
        match self.keyspace.parse(key) {
            Ok(StoreKey::Object(reference)) => taken.copies(&mut self.objects, reference).object = None,
            Ok(StoreKey::Accepted(reference)) => taken.copies(&mut self.objects, reference).accepted = None,
            Ok(StoreKey::Endpoint { site, namespace, service, id }) => {
                let service = ObjectRef::new(Kind::Service, &namespace, &service);
                if self.runtime.set(&site, &service, &id, None) {
                    taken.changed.runtime.insert(Read::Endpoints { site, service });
                }
            }
            Ok(StoreKey::Acked(site)) => acked::set(&mut self.watermarks, &site, None),
            Ok(StoreKey::Mark(_) | StoreKey::Head | StoreKey::Reserved)
            | Err(KeyError::Foreign(_) | KeyError::Unknown(_)) => {}
        }
    }

    /// Decides anew what is in service of each object of which a key was written, once for all its keys: what stood
    /// between two changes of one transaction is nobody's business.
    fn settle(&mut self, taken: Taken) -> Changed {
        let Taken { mut changed, objects } = taken;
        for reference in objects {
            let keys = Keys {
                object: self.keyspace.format(&StoreKey::Object((*reference).clone())),
                accepted: self.keyspace.format(&StoreKey::Accepted((*reference).clone())),
            };
            let verdict = match self.objects.get(&reference) {
                Some(Copies { object: None, accepted: None }) | None => {
                    self.objects.remove(&reference);
                    copies::Verdict::default()
                }
                Some(copies) => copies::judge(&reference, &keys, copies, self.parse),
            };
            self.faults.remove(&keys.object);
            self.faults.remove(&keys.accepted);
            for problem in verdict.problems {
                self.faults.entry(problem.key.clone()).or_default().push(problem);
            }
            Unagreed::set(&mut self.unagreed, &reference, verdict.waits);
            match verdict.stored {
                Some(stored) => self.configuration.set(stored, &mut changed.configuration),
                None => self.configuration.remove(&reference, &mut changed.configuration),
            }
        }
        self.recount(&changed);
        changed
    }

    fn fault(&mut self, entry: &KeyValue, reason: &str, message: String) {
        self.faults.entry(entry.key.clone()).or_default().push(Problem {
            object: None,
            key: entry.key.clone(),
            severity: Severity::Error,
            reason: reason.into(),
            message,
            revision: entry.mod_revision,
        });
    }
}

/// What changes have brought so far.
#[derive(Default)]
struct Taken {
    changed: Changed,
    /// The objects of which a key was written.
    objects: BTreeSet<Arc<ObjectRef>>,
}

impl Taken {
    /// The two values of an object, to be written to.
    fn copies<'a>(
        &mut self,
        objects: &'a mut BTreeMap<Arc<ObjectRef>, Copies>,
        reference: ObjectRef,
    ) -> &'a mut Copies {
        let reference = Arc::new(reference);
        self.objects.insert(Arc::clone(&reference));
        objects.entry(reference).or_default()
    }
}
