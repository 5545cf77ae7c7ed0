//! The objects: an immutable value to its readers, cheap to clone, with an index of who names whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::model::{
    CertificateSpec, EndpointSetSpec, FleetSpec, GatewaySpec, HttpRouteSpec, Kind, Object, ObjectRef,
    ReferenceGrantSpec, Revision, ServiceSpec, SiteEntry, SiteSpec, Sites, Spec,
};

use super::Read;

/// One object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Who it is.
    pub reference: Arc<ObjectRef>,
    /// What it says.
    pub object: Object,
    /// Its age: where the oldest wins, the lowest does.
    pub create_revision: Revision,
    /// The revision of the write that is served.
    pub mod_revision: Revision,
    /// The object's key in the store.
    pub key: String,
    /// Whether an accepted copy stands.
    pub accepted: bool,
    /// What the accepted copy says, where that is something else.
    pub fallback: Option<Arc<Object>>,
}

macro_rules! specs {
    ($($(#[$doc:meta])* $name:ident: $variant:ident => $spec:ty;)*) => {
        impl Stored {
            $($(#[$doc])*
            pub fn $name(&self) -> Option<&$spec> {
                match &self.object.spec {
                    Spec::$variant(spec) => Some(spec),
                    _ => None,
                }
            })*
        }
    };
}

specs! {
    /// Its spec, if it is the Fleet.
    fleet: Fleet => FleetSpec;
    /// Its spec, if it is a Site.
    site: Site => SiteSpec;
    /// Its spec, if it is a Certificate.
    certificate: Certificate => CertificateSpec;
    /// Its spec, if it is a ReferenceGrant.
    reference_grant: ReferenceGrant => ReferenceGrantSpec;
    /// Its spec, if it is a Service.
    service: Service => ServiceSpec;
    /// Its spec, if it is an EndpointSet.
    endpoint_set: EndpointSet => EndpointSetSpec;
    /// Its spec, if it is a Gateway.
    gateway: Gateway => GatewaySpec;
    /// Its spec, if it is an HTTPRoute.
    http_route: HttpRoute => HttpRouteSpec;
}

impl Stored {
    /// Whether it is served as it was accepted.
    pub fn as_accepted(&self) -> bool {
        self.accepted && self.fallback.is_none()
    }
}

type Objects = BTreeMap<Arc<ObjectRef>, Arc<Stored>>;
type Names = Arc<BTreeSet<Arc<ObjectRef>>>;
type Referrers = BTreeMap<Arc<ObjectRef>, Names>;
/// HTTPRoutes by the Gateway that they name and by host name; `*` is that of those without.
type Hosts = BTreeMap<ObjectRef, Arc<BTreeMap<Arc<str>, Names>>>;

/// A set of objects. A clone shares everything; the catalog writes on without disturbing it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    kinds: BTreeMap<Kind, Arc<Objects>>,
    referrers: Arc<Referrers>,
    hosts: Arc<Hosts>,
}

impl Configuration {
    /// One object.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Arc<Stored>> {
        self.kinds.get(&reference.kind)?.get(reference)
    }

    /// Whether nothing was written between the two; told by addresses, so that it costs nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        let kinds = |it: &Self| it.kinds.values().map(Arc::as_ptr).collect::<Vec<_>>();
        Arc::ptr_eq(&self.referrers, &other.referrers) && kinds(self) == kinds(other)
    }

    /// Every object of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Stored>> {
        self.kinds.get(&kind).into_iter().flat_map(|objects| objects.values())
    }

    /// Every object, by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.kinds.values().flat_map(|objects| objects.values())
    }

    /// The objects of a kind in one namespace, by name.
    pub fn in_namespace<'a>(&'a self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let first = ObjectRef { kind, namespace: namespace.to_owned(), name: String::new() };
        let objects = self.kinds.get(&kind);
        let namespace = namespace.to_owned();
        objects.into_iter().flat_map(move |objects| {
            let namespace = namespace.clone();
            objects
                .range::<ObjectRef, _>(&first..)
                .map(|(_, stored)| stored)
                .take_while(move |stored| stored.reference.namespace == namespace)
        })
    }

    /// The objects that name `target`: HTTPRoutes a Gateway, EndpointSets a Service or a Site. It need not exist.
    pub fn referrers(&self, target: &ObjectRef) -> impl Iterator<Item = &Arc<Stored>> {
        self.referrers.get(target).into_iter().flat_map(|names| names.iter()).filter_map(|name| self.get(name))
    }

    /// The host names that HTTPRoutes of a Gateway name, sorted; `*` if some name none.
    pub fn hosts_of(&self, gateway: &ObjectRef) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.get(gateway).into_iter().flat_map(|hosts| hosts.keys())
    }

    /// The HTTPRoutes of a Gateway that name this host name; for `*`, those that name none.
    pub fn routes_for(&self, gateway: &ObjectRef, host: &str) -> impl Iterator<Item = &Arc<Stored>> {
        let names = self.hosts.get(gateway).and_then(|hosts| hosts.get(host));
        names.into_iter().flat_map(|names| names.iter()).filter_map(|name| self.get(name))
    }

    /// This configuration with `put` over it and `delete` taken out, as admission and the command line look ahead. New
    /// objects are the youngest, and all that is put counts as accepted.
    pub fn overlay(&self, put: &[Object], delete: &[ObjectRef]) -> Self {
        let mut next = self.clone();
        let mut changed = BTreeSet::new();
        for reference in delete {
            next.remove(reference, &mut changed);
        }
        for object in put {
            let reference = Arc::new(object.reference());
            let age = self.get(&reference).map_or(Revision(u64::MAX), |stored| stored.create_revision);
            let stored = Stored {
                reference,
                object: object.clone(),
                create_revision: age,
                mod_revision: Revision(u64::MAX),
                key: String::new(),
                accepted: true,
                fallback: None,
            };
            next.set(stored, &mut changed);
        }
        next
    }

    /// This configuration with what was accepted last of `objects`; those without an accepted copy are absent. And what
    /// is read differently in it. `None`: that is what it holds already.
    pub fn as_accepted<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectRef>) -> Option<(Self, BTreeSet<Read>)> {
        let stored = objects.into_iter().filter_map(|reference| self.get(reference));
        let differ: Vec<Arc<Stored>> = stored.filter(|s| !s.as_accepted()).cloned().collect();
        if differ.is_empty() {
            return None;
        }
        let mut next = self.clone();
        let mut changed = BTreeSet::new();
        for stored in differ {
            match &stored.fallback {
                Some(object) => {
                    let stored = Stored { object: Object::clone(object), fallback: None, ..Stored::clone(&stored) };
                    next.set(stored, &mut changed);
                }
                None => next.remove(&stored.reference, &mut changed),
            }
        }
        Some((next, changed))
    }

    /// What identity needs to know of the Sites, and the trust domain of the Fleet.
    pub fn sites(&self) -> Sites {
        let entries = self.all(Kind::Site).filter_map(|stored| {
            let spec = stored.site()?;
            let entry = SiteEntry {
                role: spec.role,
                region: spec.region.as_str().into(),
                zone: spec.zone.as_str().into(),
                state: spec.state,
            };
            Some((stored.reference.name.as_str().into(), entry))
        });
        let fleet = self.fleet();
        Sites {
            trust_domain: fleet.trust_domain.as_str().into(),
            drain_time: fleet.drain_time,
            sites: entries.collect(),
        }
    }

    /// The Fleet's spec, or its defaults where no Fleet is stored.
    pub fn fleet(&self) -> FleetSpec {
        let stored = self.get(&ObjectRef::new(Kind::Fleet, "", "fleet"));
        stored.and_then(|stored| stored.fleet()).cloned().unwrap_or_default()
    }

    /// Puts an object in; `changed` learns what can be read differently. A rewrite that says the same changes nothing.
    pub(super) fn set(&mut self, stored: Stored, changed: &mut BTreeSet<Read>) {
        let before = self.get(&stored.reference).cloned();
        let same = before.as_ref().is_some_and(|old| {
            old.object == stored.object
                && old.create_revision == stored.create_revision
                && old.accepted == stored.accepted
                && old.fallback == stored.fallback
        });
        if !same {
            let mut keys = hosts(&stored.object);
            if let Some(before) = &before {
                keys.extend(hosts(&before.object));
                self.note_hosts(&keys, changed, |next, changed| {
                    next.unlink(before, changed);
                    next.link(&stored, changed);
                });
            } else {
                self.note_hosts(&keys, changed, |next, changed| next.link(&stored, changed));
            }
        }
        let objects = Arc::make_mut(self.kinds.entry(stored.reference.kind).or_default());
        objects.insert(stored.reference.clone(), Arc::new(stored));
    }

    /// Takes an object out.
    pub(super) fn remove(&mut self, reference: &ObjectRef, changed: &mut BTreeSet<Read>) {
        let Some(stored) = self.get(reference).cloned() else { return };
        self.note_hosts(&hosts(&stored.object), changed, |next, changed| next.unlink(&stored, changed));
        if let Some(objects) = self.kinds.get_mut(&reference.kind) {
            Arc::make_mut(objects).remove(reference);
            // A kind without objects equals one that never had any.
            if objects.is_empty() {
                self.kinds.remove(&reference.kind);
            }
        }
    }

    /// Makes a change, and notes the Gateways for which a host name came or went by it.
    fn note_hosts(
        &mut self,
        keys: &BTreeSet<(ObjectRef, Arc<str>)>,
        changed: &mut BTreeSet<Read>,
        change: impl FnOnce(&mut Self, &mut BTreeSet<Read>),
    ) {
        let named = |next: &Self, (gateway, host): &(ObjectRef, Arc<str>)| {
            next.hosts.get(gateway).is_some_and(|hosts| hosts.contains_key(host))
        };
        let before: Vec<bool> = keys.iter().map(|key| named(self, key)).collect();
        change(self, changed);
        let moved = keys.iter().zip(before).filter(|(key, before)| named(self, key) != *before);
        changed.extend(moved.map(|((gateway, _), _)| Read::Hosts(gateway.clone())));
    }

    fn link(&mut self, stored: &Stored, changed: &mut BTreeSet<Read>) {
        note(stored, changed);
        for target in targets(&stored.object) {
            let referrers = Arc::make_mut(&mut self.referrers);
            Arc::make_mut(referrers.entry(Arc::new(target.clone())).or_default()).insert(stored.reference.clone());
            changed.insert(Read::Referrers(target));
        }
        for (gateway, host) in hosts(&stored.object) {
            let index = Arc::make_mut(Arc::make_mut(&mut self.hosts).entry(gateway.clone()).or_default());
            Arc::make_mut(index.entry(Arc::clone(&host)).or_default()).insert(stored.reference.clone());
            changed.insert(Read::RoutesFor(gateway, host));
        }
    }

    fn unlink(&mut self, stored: &Stored, changed: &mut BTreeSet<Read>) {
        note(stored, changed);
        for target in targets(&stored.object) {
            let referrers = Arc::make_mut(&mut self.referrers);
            if let Some(names) = referrers.get_mut(&target) {
                Arc::make_mut(names).remove(&stored.reference);
                if names.is_empty() {
                    referrers.remove(&target);
                }
            }
            changed.insert(Read::Referrers(target));
        }
        for (gateway, host) in hosts(&stored.object) {
            let all = Arc::make_mut(&mut self.hosts);
            if let Some(index) = all.get_mut(&gateway).map(Arc::make_mut) {
                if let Some(names) = index.get_mut(&host).map(Arc::make_mut) {
                    names.remove(&stored.reference);
                    if names.is_empty() {
                        index.remove(&host);
                    }
                }
                if index.is_empty() {
                    all.remove(&gateway);
                }
            }
            changed.insert(Read::RoutesFor(gateway, host));
        }
    }
}

/// What a change of the object alters, apart from who refers to whom now: who would, were it as it was accepted last.
fn note(stored: &Stored, changed: &mut BTreeSet<Read>) {
    let reference = &stored.reference;
    changed.insert(Read::Object(ObjectRef::clone(reference)));
    changed.insert(Read::All(reference.kind));
    if reference.kind.namespaced() {
        changed.insert(Read::InNamespace(reference.kind, reference.namespace.clone()));
    }
    let fallback = stored.fallback.iter().flat_map(|object| targets(object));
    changed.extend(fallback.map(Read::Referrers));
    for (gateway, host) in stored.fallback.iter().flat_map(|object| hosts(object)) {
        changed.insert(Read::Hosts(gateway.clone()));
        changed.insert(Read::RoutesFor(gateway, host));
    }
}

/// The Gateways and host names under which `object` is indexed.
fn hosts(object: &Object) -> BTreeSet<(ObjectRef, Arc<str>)> {
    let Spec::HttpRoute(route) = &object.spec else { return BTreeSet::new() };
    let names: Vec<Arc<str>> = match route.hostnames.as_slice() {
        [] => vec!["*".into()],
        names => names.iter().map(|name| name.as_str().into()).collect(),
    };
    let gateways = targets(object);
    gateways.into_iter().flat_map(|gateway| names.iter().map(move |name| (gateway.clone(), Arc::clone(name)))).collect()
}

/// The objects under which `object` is indexed.
fn targets(object: &Object) -> BTreeSet<ObjectRef> {
    match &object.spec {
        Spec::HttpRoute(route) => {
            route.parents.iter().map(|p| ObjectRef::new(Kind::Gateway, &p.namespace, &p.name)).collect()
        }
        Spec::EndpointSet(set) => BTreeSet::from([
            ObjectRef::new(Kind::Service, &object.metadata.namespace, &set.service),
            ObjectRef::new(Kind::Site, "", &set.site),
        ]),
        _ => BTreeSet::new(),
    }
}
