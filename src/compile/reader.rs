//! How compilation looks at the state: every look is recorded, misses and selectors included, so that a change says
//! by itself what it makes dirty.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    catalog::{Changed, Configuration, LiveEndpoints, Read, Runtime, Stored},
    model::{
        CertificateSpec, FleetSpec, GatewaySpec, HttpRouteSpec, Kind, ObjectRef, ReferenceGrantSpec, ServiceSpec,
        SiteSpec,
    },
};

/// An object with its spec.
pub type Found<'a, S> = (&'a Stored, &'a S);

/// Reads a configuration and a runtime, and remembers what was read.
#[derive(Debug)]
pub struct Reader<'a> {
    configuration: &'a Configuration,
    runtime: &'a Runtime,
    reads: RefCell<BTreeSet<Read>>,
}

impl<'a> Reader<'a> {
    /// A reader that has read nothing yet.
    pub fn new(configuration: &'a Configuration, runtime: &'a Runtime) -> Self {
        Self { configuration, runtime, reads: RefCell::default() }
    }

    /// Everything that was read.
    pub fn into_reads(self) -> BTreeSet<Read> {
        self.reads.into_inner()
    }

    /// What was read so far.
    pub fn reads(&self) -> BTreeSet<Read> {
        self.reads.borrow().clone()
    }

    fn record(&self, read: Read) {
        self.reads.borrow_mut().insert(read);
    }

    /// One object, if it is there.
    pub fn object(&self, reference: &ObjectRef) -> Option<&'a Stored> {
        self.record(Read::Object(reference.clone()));
        self.configuration.get(reference).map(Arc::as_ref)
    }

    /// The Site of this name.
    pub fn site(&self, name: &str) -> Option<Found<'a, SiteSpec>> {
        let stored = self.object(&ObjectRef::new(Kind::Site, "", name))?;
        Some((stored, stored.site()?))
    }

    /// A Gateway.
    pub fn gateway(&self, namespace: &str, name: &str) -> Option<Found<'a, GatewaySpec>> {
        let stored = self.object(&ObjectRef::new(Kind::Gateway, namespace, name))?;
        Some((stored, stored.gateway()?))
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<Found<'a, ServiceSpec>> {
        let stored = self.object(&ObjectRef::new(Kind::Service, namespace, name))?;
        Some((stored, stored.service()?))
    }

    /// A Certificate.
    pub fn certificate(&self, namespace: &str, name: &str) -> Option<Found<'a, CertificateSpec>> {
        let stored = self.object(&ObjectRef::new(Kind::Certificate, namespace, name))?;
        Some((stored, stored.certificate()?))
    }

    /// The Fleet's spec, or its defaults where no Fleet is stored.
    pub fn fleet(&self) -> FleetSpec {
        let stored = self.object(&ObjectRef::new(Kind::Fleet, "", "fleet"));
        stored.and_then(Stored::fleet).cloned().unwrap_or_default()
    }

    /// Every object of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &'a Stored> + use<'a> {
        self.record(Read::All(kind));
        let configuration: &'a Configuration = self.configuration;
        configuration.all(kind).map(Arc::as_ref)
    }

    /// The ReferenceGrants of a namespace.
    pub fn grants(&self, namespace: &str) -> impl Iterator<Item = &'a ReferenceGrantSpec> + use<'a> {
        self.record(Read::InNamespace(Kind::ReferenceGrant, namespace.to_owned()));
        let configuration: &'a Configuration = self.configuration;
        configuration.in_namespace(Kind::ReferenceGrant, namespace).filter_map(|stored| stored.reference_grant())
    }

    /// The HTTPRoutes with a parentRef to this Gateway, by namespace and name.
    pub fn routes_of(&self, gateway: &ObjectRef) -> impl Iterator<Item = Found<'a, HttpRouteSpec>> + use<'a> {
        self.referrers(gateway).filter_map(|stored| Some((stored, stored.http_route()?)))
    }

    /// The host names that HTTPRoutes of a Gateway name, sorted; `*` if some name none.
    pub fn hosts_of(&self, gateway: &ObjectRef) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        self.record(Read::Hosts(gateway.clone()));
        let configuration: &'a Configuration = self.configuration;
        let found: Vec<&'a Arc<str>> = configuration.hosts_of(gateway).collect();
        found.into_iter()
    }

    /// The HTTPRoutes of a Gateway that name this host name (`*`: that name none), by namespace and name. What each says
    /// is part of the answer.
    pub fn routes_for(&self, gateway: &ObjectRef, host: &str) -> Vec<Found<'a, HttpRouteSpec>> {
        self.record(Read::RoutesFor(gateway.clone(), host.into()));
        let configuration: &'a Configuration = self.configuration;
        let found = configuration.routes_for(gateway, host).map(Arc::as_ref);
        found.filter_map(|stored| Some((stored, stored.http_route()?))).collect()
    }

    /// The objects that name `target`: EndpointSets a Service or a Site, HTTPRoutes a Gateway.
    pub fn referrers(&self, target: &ObjectRef) -> impl Iterator<Item = &'a Stored> + use<'a> {
        self.record(Read::Referrers(target.clone()));
        let configuration: &'a Configuration = self.configuration;
        let found: Vec<&'a Stored> = configuration.referrers(target).map(Arc::as_ref).collect();
        found.into_iter()
    }

    /// The live endpoints of a Service at a site.
    pub fn live_endpoints(&self, site: &str, service: &ObjectRef) -> Option<&'a LiveEndpoints> {
        self.record(Read::Endpoints { site: site.to_owned(), service: service.clone() });
        self.runtime.endpoints(site, service)
    }
}

/// The reverse map: who read what, so that a change finds its dirty units in proportion to itself. Units are whatever
/// the caller compiles by; choose a `K` that is cheap to clone.
#[derive(Debug)]
pub struct Dependents<K> {
    reads: BTreeMap<K, BTreeSet<Arc<Read>>>,
    /// Each read once, shared by all who made it.
    readers: BTreeMap<Arc<Read>, BTreeSet<K>>,
}

impl<K> Default for Dependents<K> {
    fn default() -> Self {
        Self { reads: BTreeMap::new(), readers: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Dependents<K> {
    /// Everything that `unit` read when it was last compiled; replaces what was recorded for it before.
    pub fn record(&mut self, unit: K, reads: BTreeSet<Read>) {
        if self.reads.get(&unit).is_some_and(|before| before.iter().map(Arc::as_ref).eq(&reads)) {
            return;
        }
        self.forget(&unit);
        let shared = reads.into_iter().map(|read| match self.readers.get_key_value(&read) {
            Some((known, _)) => known.clone(),
            None => Arc::new(read),
        });
        let shared: BTreeSet<Arc<Read>> = shared.collect();
        for read in &shared {
            self.readers.entry(read.clone()).or_default().insert(unit.clone());
        }
        self.reads.insert(unit, shared);
    }

    /// Nobody compiles `unit` any more.
    pub fn forget(&mut self, unit: &K) {
        for read in self.reads.remove(unit).into_iter().flatten() {
            if let Some(units) = self.readers.get_mut(&read) {
                units.remove(unit);
                if units.is_empty() {
                    self.readers.remove(&read);
                }
            }
        }
    }

    /// Nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.readers.is_empty()
    }

    /// The units whose result may be another now.
    pub fn dirty(&self, changed: &Changed) -> BTreeSet<K> {
        self.readers_of(changed.configuration.iter().chain(&changed.runtime))
    }

    /// The units that made any of these reads.
    pub fn readers_of<'a>(&self, reads: impl IntoIterator<Item = &'a Read>) -> BTreeSet<K> {
        reads.into_iter().filter_map(|read| self.readers.get(read)).flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependents_know_the_last_reads_of_each_unit_only() {
        let read = |name: &str| Read::Object(ObjectRef::new(Kind::Site, "", name));
        let changed = |name| Changed { configuration: [read(name)].into(), ..Changed::default() };
        let mut dependents = Dependents::default();
        dependents.record(1, [read("a"), read("b")].into());
        dependents.record(2, [read("b")].into());
        assert_eq!(dependents.dirty(&changed("a")), [1].into());
        assert_eq!(dependents.dirty(&changed("b")), [1, 2].into());
        assert_eq!(dependents.dirty(&changed("c")), BTreeSet::new());
        dependents.record(1, [read("c")].into());
        assert_eq!(dependents.dirty(&changed("b")), [2].into());
        assert_eq!(dependents.dirty(&changed("c")), [1].into());
        dependents.forget(&1);
        dependents.forget(&2);
        assert!(dependents.readers.is_empty() && dependents.reads.is_empty());
    }
}
