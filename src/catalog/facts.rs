//! What of an object is read by itself, so that a change reaches those alone who looked at what differs: a core gateway's
//! new address is nothing to the routes of the services there, nor the endpoints of a set to those who ask where it is.

use std::collections::{BTreeMap, BTreeSet};

use super::{Read, Stored};
use crate::model::{Kind, Object, ObjectRef, Revision, Role, ServicePort, SiteState, Spec};

/// What one [`Read`] says of one object.
#[derive(PartialEq)]
enum Fact<'a> {
    Serves(Role, SiteState),
    Place(&'a str, &'a str),
    Ports(&'a [ServicePort]),
    /// Of an EndpointSet: its Service, its Site, its age.
    Stands(&'a str, &'a str, Revision),
    Hosts(&'a [String]),
    Whole(&'a Object, Revision),
}

/// Tells `changed` what can be read differently once `after` stands in place of `before`. What was accepted last counts
/// as standing there too, for it may be compiled.
pub(super) fn note(before: Option<&Stored>, after: Option<&Stored>, changed: &mut BTreeSet<Read>) {
    let stored = || before.into_iter().chain(after);
    for Stored { reference, .. } in stored() {
        changed.insert(Read::Object(ObjectRef::clone(reference)));
        changed.insert(Read::All(reference.kind));
        if reference.kind.namespaced() {
            changed.insert(Read::InNamespace(reference.kind, reference.namespace.clone()));
        }
    }
    if stored().any(|stored| stored.fallback.is_some())
        || before.map(|stored| stored.accepted) != after.map(|stored| stored.accepted)
    {
        for stored in stored() {
            changed.extend(facts(&stored.object, stored.create_revision).into_keys());
            let fallback = stored.fallback.iter().flat_map(|object| facts(object, stored.create_revision).into_keys());
            changed.extend(fallback);
        }
        return;
    }
    let mut facts = stored().map(|stored| facts(&stored.object, stored.create_revision));
    let (old, new) = (facts.next().unwrap_or_default(), facts.next().unwrap_or_default());
    changed.extend(new.keys().filter(|read| !old.contains_key(read)).cloned());
    changed.extend(old.into_iter().filter(|(read, fact)| new.get(read) != Some(fact)).map(|(read, _)| read));
}

fn facts(object: &Object, age: Revision) -> BTreeMap<Read, Fact<'_>> {
    let metadata = &object.metadata;
    match &object.spec {
        Spec::Site(site) => BTreeMap::from([
            (Read::Serving(metadata.name.clone()), Fact::Serves(site.role, site.state)),
            (Read::Place(metadata.name.clone()), Fact::Place(&site.region, &site.zone)),
        ]),
        Spec::Service(service) => BTreeMap::from([(Read::Ports(object.reference()), Fact::Ports(&service.ports))]),
        Spec::EndpointSet(set) => {
            let service = ObjectRef::new(Kind::Service, &metadata.namespace, &set.service);
            let site = ObjectRef::new(Kind::Site, "", &set.site);
            let reads = [Read::Referrers(service), Read::Referrers(site), Read::Placements];
            reads.map(|read| (read, Fact::Stands(&set.service, &set.site, age))).into()
        }
        Spec::HttpRoute(route) => {
            let mut facts = BTreeMap::new();
            for parent in &route.parents {
                let gateway = ObjectRef::new(Kind::Gateway, &parent.namespace, &parent.name);
                let none = route.hostnames.is_empty().then_some("*");
                for hostname in route.hostnames.iter().map(String::as_str).chain(none) {
                    facts.insert(Read::RoutesFor(gateway.clone(), hostname.into()), Fact::Whole(object, age));
                }
                facts.insert(Read::Hosts(gateway.clone()), Fact::Hosts(&route.hostnames));
                facts.insert(Read::Referrers(gateway), Fact::Whole(object, age));
            }
            facts
        }
        _ => BTreeMap::new(),
    }
}
