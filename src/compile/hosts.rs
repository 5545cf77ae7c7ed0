//! Route configurations host by host: an edit of one route plans, encodes and checks one virtual host, and the rest is
//! put together from what is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    Built, FAULT, Unit,
    emit::{self, Entry, VirtualHostBytes},
    reader::Reader,
    refused,
    resolve::Table,
    spread::spread,
};
use crate::{
    catalog::Read,
    model::{Listener, ObjectRef, Scope},
    xds::{Resource, validate::validate},
};

/// Virtual hosts that are compiled, by route configuration and domain.
#[derive(Debug, Default)]
pub struct HostCache {
    units: HashMap<Unit, Hosts>,
    /// Who has looked at what since this was last asked.
    read: Vec<HostReads>,
}

/// What one virtual host read; `None`: it is there no more.
pub type HostReads = (Unit, Arc<str>, Option<BTreeSet<Read>>);

#[derive(Debug, Default)]
struct Hosts {
    /// What all of them depend on.
    about: (Vec<(Arc<ObjectRef>, Listener)>, Option<usize>),
    parts: BTreeMap<Arc<str>, Part>,
    /// What they came to together, while all are as they were then.
    whole: Option<Arc<Resource>>,
}

#[derive(Debug)]
struct Part {
    /// The place of the listener to which it belongs.
    owner: usize,
    /// `None`: the compiler failed.
    host: Option<VirtualHostBytes>,
    /// Why Envoy would refuse it.
    fault: Option<String>,
    /// Something that it read has changed.
    stale: bool,
}

impl HostCache {
    /// One virtual host of a unit has to be compiled again.
    pub fn touch(&mut self, unit: &Unit, domain: &str) {
        if let Some(part) = self.units.get_mut(unit).and_then(|hosts| hosts.parts.get_mut(domain)) {
            part.stale = true;
        }
    }

    /// Drops what belongs to a unit that nobody has any more.
    pub fn forget(&mut self, unit: &Unit) {
        let hosts = self.units.remove(unit).unwrap_or_default();
        self.read.extend(hosts.parts.into_keys().map(|domain| (unit.clone(), domain, None)));
    }

    /// What was read for each virtual host that was compiled since the last call.
    pub fn take_reads(&mut self) -> Vec<HostReads> {
        std::mem::take(&mut self.read)
    }

    /// Compiles what is not there or stale, and puts the route configuration together.
    pub(super) fn compile(&mut self, unit: &Unit, table: &Table<'_>, reader: &Reader<'_>) -> Built {
        let about = table.about();
        if self.units.get(unit).is_some_and(|hosts| hosts.about != about) {
            self.forget(unit);
        }
        let hosts = self.units.entry(unit.clone()).or_default();
        hosts.about = about;
        let mut same = hosts.whole.is_some();
        hosts.parts.retain(|domain, _| {
            let kept = table.domains.contains_key(&**domain);
            if !kept {
                same = false;
                self.read.push((unit.clone(), Arc::clone(domain), None));
            }
            kept
        });
        let parts = &hosts.parts;
        let fresh = |(domain, owner): &(&String, &usize)| {
            parts.get(domain.as_str()).is_some_and(|part| !part.stale && part.owner == **owner)
        };
        let todo: Vec<(&String, &usize)> = table.domains.iter().filter(|entry| !fresh(entry)).collect();
        let (configuration, runtime) = reader.inputs();
        let done = spread(&todo, |(domain, owner)| {
            let reader = Reader::new(configuration, runtime);
            let part = part(unit, table, domain, **owner, &reader);
            (part, reader.into_reads())
        });
        for ((domain, _), (part, reads)) in todo.into_iter().zip(done) {
            let known = hosts.parts.get(domain.as_str());
            same &= known.is_some_and(|known| known.fault == part.fault && known.host == part.host);
            let domain: Arc<str> = domain.as_str().into();
            self.read.push((unit.clone(), Arc::clone(&domain), Some(reads)));
            hosts.parts.insert(domain, part);
        }
        if let Some(whole) = hosts.whole.as_ref().filter(|_| same) {
            return Built::Checked(Arc::clone(whole));
        }
        let built = together(unit, &hosts.parts);
        hosts.whole = match &built {
            Built::Checked(resource) => Some(Arc::clone(resource)),
            Built::Failed(_) | Built::Unchecked(_) => None,
        };
        built
    }
}

fn part(unit: &Unit, table: &Table<'_>, domain: &str, owner: usize, reader: &Reader<'_>) -> Part {
    let Scope::Gateways { port, .. } = unit.scope else {
        return Part { owner, host: None, fault: Some(FAULT.to_owned()), stale: false };
    };
    let entry = Entry { port, tls: unit.name.starts_with("https/") };
    let compiled = catch_unwind(AssertUnwindSafe(|| {
        let host = emit::virtual_host(&table.host(domain, owner, reader), entry);
        let violations = validate("envoy.config.route.v3.VirtualHost", &host.bytes);
        let fault = refused(&violations).map(|what| format!("virtual host {domain}: {what}"));
        (host, fault)
    }));
    match compiled {
        Ok((host, fault)) => Part { owner, host: Some(host), fault, stale: false },
        Err(_) => Part { owner, host: None, fault: Some(FAULT.to_owned()), stale: false },
    }
}

fn together(unit: &Unit, parts: &BTreeMap<Arc<str>, Part>) -> Built {
    let mut faults: BTreeMap<Option<ObjectRef>, String> = BTreeMap::new();
    for (part, what) in parts.values().filter_map(|part| Some((part, part.fault.as_ref()?))) {
        let sources = part.host.iter().flat_map(|host| &host.sources).map(|source| Some(source.object.clone()));
        let unknown = part.host.is_none().then_some(None);
        for object in sources.chain(unknown) {
            faults.entry(object).or_insert_with(|| what.clone());
        }
    }
    if !faults.is_empty() {
        return Built::Failed(faults.into_iter().collect());
    }
    let hosts: Vec<VirtualHostBytes> = parts.values().filter_map(|part| part.host.clone()).collect();
    Built::Checked(Arc::new(emit::route_configuration(&unit.name, &hosts)))
}
