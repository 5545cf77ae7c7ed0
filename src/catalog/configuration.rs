//! The objects: an immutable value to its readers, cheap to clone, with an index of who names whom.

use std::{collections::BTreeSet, sync::Arc};

use crate::model::{
    CertificateSpec, EndpointSetSpec, EnvoyResourceSpec, FleetSpec, GatewaySpec, HttpRouteSpec, Kind, Object,
    ObjectRef, ReferenceGrantSpec, Revision, ServiceSpec, SiteEntry, SiteSpec, Sites, Spec,
};

use super::{Read, facts, sorted::Sorted};

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
    /// Its spec, if it is an EnvoyResource.
    envoy_resource: EnvoyResource => EnvoyResourceSpec;
}

impl Stored {
    /// Whether it is served as it was accepted.
    pub fn as_accepted(&self) -> bool {
        self.accepted && self.fallback.is_none()
    }
}

type Hostname = (Arc<ObjectRef>, Arc<str>, Arc<ObjectRef>);

/// A set of objects. A clone shares everything; the catalog writes on without disturbing it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    objects: Sorted<Arc<ObjectRef>, Arc<Stored>>,
    /// (target, who names it).
    referrers: Sorted<(Arc<ObjectRef>, Arc<ObjectRef>), ()>,
    /// (Gateway, host name, HTTPRoute); a route without host names stands under `*`.
    hostnames: Sorted<Hostname, ()>,
}

impl Configuration {
    /// One object.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Arc<Stored>> {
        self.objects.find(|known| (**known).cmp(reference)).map(|(_, stored)| stored)
    }

    /// Whether nothing was written between the two; told by addresses, so that it costs nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        self.objects.is_same(&other.objects)
    }

    /// Every object of a kind, by namespace and name.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Stored>> {
        let objects = self.objects.from(&|known| known.kind < kind).map(|(_, stored)| stored);
        objects.take_while(move |stored| stored.reference.kind == kind)
    }

    /// Every object, by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.objects.iter().map(|(_, stored)| stored)
    }

    /// The objects of a kind in one namespace, by name.
    pub fn in_namespace<'a>(&'a self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let namespace = namespace.to_owned();
        let below = |known: &Arc<ObjectRef>| (known.kind, known.namespace.as_str()) < (kind, namespace.as_str());
        let objects = self.objects.from(&below).map(|(_, stored)| stored);
        objects.take_while(move |stored| stored.reference.kind == kind && stored.reference.namespace == namespace)
    }

    /// The objects that name `target`: HTTPRoutes a Gateway, EndpointSets a Service or a Site. It need not exist.
    pub fn referrers<'a>(&'a self, target: &ObjectRef) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let target = target.clone();
        let links = self.referrers.from(&|(named, _)| **named < target).map(|(link, ())| link);
        links.take_while(move |(named, _)| **named == target).filter_map(|(_, by)| self.get(by))
    }

    /// The host names that HTTPRoutes of a Gateway name, sorted; `*` if some name none.
    pub fn hosts_of<'a>(&'a self, gateway: &ObjectRef) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        let gateway = gateway.clone();
        let links = self.hostnames.from(&|(named, ..)| **named < gateway).map(|(link, ())| link);
        let mut last: Option<&Arc<str>> = None;
        let hosts = links.take_while(move |(named, ..)| **named == gateway).map(|(_, host, _)| host);
        hosts.filter(move |host| last.replace(host) != Some(host))
    }

    /// The HTTPRoutes of a Gateway that name this host name; for `*`, those that name none.
    pub fn routes_for<'a>(
        &'a self,
        gateway: &ObjectRef,
        host: &str,
    ) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let (gateway, host) = (gateway.clone(), host.to_owned());
        let links = self.hostnames.from(&|(named, known, _)| (&**named, &**known) < (&gateway, host.as_str()));
        let links = links.map(|(link, ())| link);
        let links = links.take_while(move |(named, known, _)| **named == gateway && **known == *host);
        links.filter_map(|(.., route)| self.get(route))
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
            facts::note(before.as_deref(), Some(&stored), changed);
            if let Some(before) = &before {
                self.unlink(before);
            }
            self.link(&stored);
        }
        self.objects.insert(stored.reference.clone(), Arc::new(stored));
    }

    /// Takes an object out.
    pub(super) fn remove(&mut self, reference: &ObjectRef, changed: &mut BTreeSet<Read>) {
        let Some(stored) = self.get(reference).cloned() else { return };
        facts::note(Some(&stored), None, changed);
        self.unlink(&stored);
        self.objects.remove(&stored.reference);
    }

    fn link(&mut self, stored: &Stored) {
        for target in targets(&stored.object) {
            let target = Arc::new(target);
            for hostname in hostnames(&stored.object) {
                self.hostnames.insert((Arc::clone(&target), hostname.into(), stored.reference.clone()), ());
            }
            self.referrers.insert((target, stored.reference.clone()), ());
        }
    }

    fn unlink(&mut self, stored: &Stored) {
        for target in targets(&stored.object) {
            let target = Arc::new(target);
            for hostname in hostnames(&stored.object) {
                self.hostnames.remove(&(Arc::clone(&target), hostname.into(), stored.reference.clone()));
            }
            self.referrers.remove(&(target, stored.reference.clone()));
        }
    }
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

/// The host names under which `object` is indexed, `*` for a route without any.
fn hostnames(object: &Object) -> impl Iterator<Item = &str> {
    let names = match &object.spec {
        Spec::HttpRoute(route) => Some(&route.hostnames),
        _ => None,
    };
    let none = names.filter(|names| names.is_empty()).map(|_| "*");
    names.into_iter().flatten().map(String::as_str).chain(none)
}
