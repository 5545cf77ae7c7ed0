//! Route configurations are compiled host by host: an edit of one route costs its virtual hosts, whatever their number,
//! and where all of them go out together their bytes are put together anew.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::compile::{HostOutcome, VirtualHostBytes};

/// The virtual hosts of one route configuration, by domain.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// The route configuration is there.
    exists: bool,
    /// As the objects stand.
    standing: BTreeMap<Arc<str>, Host>,
    /// Those that something is wrong with, as the objects stand.
    faulty: BTreeSet<Arc<str>>,
    /// Those that may be others while something fails its check: from the accepted copies of its sources.
    fallen: BTreeMap<Arc<str>, Host>,
    /// What is served of each.
    served: BTreeMap<Arc<str>, Arc<VirtualHostBytes>>,
    /// What those require.
    requires: Counted<(ResourceType, Arc<str>)>,
    /// The groups that those name.
    groups: Counted<Arc<str>>,
    /// What is told of them where they are streamed.
    streamed: BTreeMap<Arc<str>, Arc<Resource>>,
}

#[derive(Debug, Default)]
struct Host {
    bytes: Option<Arc<VirtualHostBytes>>,
    problems: Vec<Problem>,
}

impl From<HostOutcome> for Host {
    fn from(outcome: HostOutcome) -> Self {
        Self { bytes: outcome.host.map(Arc::new), problems: outcome.problems }
    }
}

/// What many have, each with how many of them: one that changes costs its own and not all.
#[derive(Debug)]
struct Counted<T>(BTreeMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Counted<T> {
    fn add<'a>(&mut self, all: impl IntoIterator<Item = &'a T>)
    where
        T: 'a,
    {
        for one in all {
            match self.0.get_mut(one) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(one.clone(), 1)),
            }
        }
    }

    fn take<'a>(&mut self, all: impl IntoIterator<Item = &'a T>)
    where
        T: 'a,
    {
        for one in all {
            match self.0.get_mut(one) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.0.remove(one)),
            }
        }
    }

    /// Sorted, each once.
    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }
}

/// What has to be compiled of a unit; of one without hosts always all.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Which domains a route configuration has.
    pub(super) domains: bool,
    /// The hosts of these.
    pub(super) hosts: BTreeSet<Arc<str>>,
}

impl Stale {
    /// Nothing is known of it.
    pub(super) fn all() -> Self {
        Self { domains: true, hosts: BTreeSet::new() }
    }
}

/// What came of a unit.
#[derive(Default)]
pub(super) struct Compiled {
    pub(super) resource: Option<Resource>,
    pub(super) problems: Vec<Problem>,
    pub(super) brings: BTreeSet<(ResourceType, Arc<str>)>,
    /// What its users must be told beside its resource.
    pub(super) told: Vec<Told>,
}

impl Hosts {
    /// The resources that they are where they are streamed.
    pub(super) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.streamed.values()
    }

    pub(super) fn domains(&self) -> impl Iterator<Item = &Arc<str>> {
        self.standing.keys()
    }

    fn failed(&self) -> impl Iterator<Item = (&Arc<str>, &Host)> {
        self.faulty.iter().filter_map(|domain| self.standing.get_key_value(domain))
    }

    fn problems(&self) -> Vec<Problem> {
        self.failed().flat_map(|(_, host)| &host.problems).cloned().collect()
    }

    /// What came of a host, as the objects stand.
    fn put(&mut self, domain: &Arc<str>, host: Host) {
        if host.problems.is_empty() {
            self.faulty.remove(domain);
        } else {
            self.faulty.insert(Arc::clone(domain));
        }
        self.standing.insert(Arc::clone(domain), host);
    }

    /// Takes over what is served of the hosts that were touched.
    fn settle(&mut self, touched: &BTreeSet<Arc<str>>) {
        for domain in touched {
            let host = self.fallen.get(domain).or_else(|| self.standing.get(domain));
            let new = host.and_then(|host| host.bytes.clone());
            if let Some(new) = &new {
                self.requires.add(&new.requires);
                self.groups.add(&new.groups);
            }
            let old = match new {
                Some(new) => self.served.insert(Arc::clone(domain), new),
                None => self.served.remove(domain),
            };
            if let Some(old) = old {
                self.requires.take(&old.requires);
                self.groups.take(&old.groups);
            }
        }
    }

    /// Takes over which domains there are; answers those that came or went.
    fn list(&mut self, domains: Option<BTreeSet<Arc<str>>>) -> Vec<Arc<str>> {
        self.exists = domains.is_some();
        let domains = domains.unwrap_or_default();
        let gone: Vec<Arc<str>> = self.domains().filter(|domain| !domains.contains(*domain)).cloned().collect();
        for domain in &gone {
            self.standing.remove(domain);
            self.faulty.remove(domain);
        }
        let new: Vec<Arc<str>> = domains.into_iter().filter(|domain| !self.standing.contains_key(domain)).collect();
        for domain in &new {
            self.standing.insert(Arc::clone(domain), Host::default());
        }
        gone.into_iter().chain(new).collect()
    }

    /// What is wrong, once what was accepted last serves instead.
    fn fallen_problems(&self, configuration: &Configuration) -> Vec<Problem> {
        let told = self.failed().flat_map(|(domain, host)| match self.fallen.get(domain) {
            Some(fallen) if fallen.problems.is_empty() => {
                compile::guilty(host.problems.clone(), fallen.bytes.is_some(), configuration)
            }
            _ => host.problems.clone(),
        });
        told.collect()
    }

    /// Brings what is streamed up to date; answers what is new and what went.
    fn stream(&mut self, unit: &Unit, touched: &BTreeSet<Arc<str>>) -> Vec<Told> {
        let mut told = Vec::new();
        for domain in touched {
            match self.served.get(domain).map(|host| compile::streamed_host(host)) {
                Some(new) if self.streamed.get(domain).is_some_and(|old| **old == new) => {}
                Some(new) => {
                    let new = Arc::new(new);
                    self.streamed.insert(Arc::clone(domain), Arc::clone(&new));
                    told.push(Told::Here(new));
                }
                None => told.extend(self.streamed.remove(domain).map(|old| Told::Gone(host_unit(unit, &old)))),
            }
        }
        told
    }
}

/// The unit that a streamed host would be, were it compiled for itself.
pub(super) fn host_unit(unit: &Unit, host: &Resource) -> Unit {
    Unit { kind: host.kind, name: Arc::clone(&host.name), scope: unit.scope.clone() }
}

impl Engine {
    /// Compiles what is stale of a route configuration, and puts it together anew.
    pub(super) fn routes(
        &mut self,
        unit: &Unit,
        stale: Stale,
        configuration: &Configuration,
        runtime: &Runtime,
    ) -> Compiled {
        let mut hosts = self.hosts.remove(unit).unwrap_or_default();
        let mut touched: BTreeSet<Arc<str>> = std::mem::take(&mut hosts.fallen).into_keys().collect();
        let mut reads = None;
        if stale.domains || !touched.is_empty() {
            let reader = Reader::new(configuration, runtime);
            touched.extend(hosts.list(compile::domains(unit, &reader)));
            reads = Some(reader.into_reads());
        }
        touched.extend(stale.hosts);
        let stand: Vec<&Arc<str>> = touched.iter().filter(|domain| hosts.standing.contains_key(*domain)).collect();
        let compiled = spread(&stand, |domain| {
            let reader = Reader::new(configuration, runtime);
            (compile::host(unit, domain, &reader), reader.into_reads())
        });
        for (domain, (outcome, reads)) in stand.into_iter().zip(compiled) {
            hosts.put(domain, outcome.into());
            self.dependents.record(Key::Host(unit.clone(), Arc::clone(domain)), reads);
        }
        for domain in touched.iter().filter(|domain| !hosts.standing.contains_key(*domain)) {
            self.dependents.forget(&Key::Host(unit.clone(), Arc::clone(domain)));
        }
        let mut problems = hosts.problems();
        compile::locate(&mut problems, configuration);
        if let Some((accepted, changed)) = compile::fell_back(&problems, configuration) {
            let looked = self.fall_back(unit, &mut hosts, &changed, &Reader::new(&accepted, runtime));
            let reader = Reader::new(configuration, runtime);
            compile::domains(unit, &reader);
            reads = Some(reader.into_reads().into_iter().chain(looked).collect());
            problems = hosts.fallen_problems(configuration);
            compile::locate(&mut problems, configuration);
        }
        if let Some(reads) = reads {
            self.dependents.record(Key::Unit(unit.clone()), reads);
        }
        touched.extend(hosts.fallen.keys().cloned());
        hosts.settle(&touched);
        let told = if unit.streams() { hosts.stream(unit, &touched) } else { Vec::new() };
        let resource = hosts.exists.then(|| match unit.streams() {
            true => compile::streaming(unit, hosts.requires.all()),
            false => compile::routes(unit, hosts.served.values().map(|host| &**host)),
        });
        let brings = hosts.groups.all().map(|group| (ResourceType::Cluster, Arc::clone(group))).collect();
        self.hosts.insert(unit.clone(), hosts);
        Compiled { resource, problems, brings, told }
    }

    /// Something fails its check: the hosts that are others with its sources as they were accepted last are served so.
    /// Answers what was looked at.
    fn fall_back(
        &self,
        unit: &Unit,
        hosts: &mut Hosts,
        changed: &BTreeSet<Read>,
        accepted: &Reader<'_>,
    ) -> BTreeSet<Read> {
        let others = self.dependents.readers_of(changed).into_iter().filter_map(|key| match key {
            Key::Host(of, domain) if of == *unit => Some(domain),
            _ => None,
        });
        let mut affected: BTreeSet<Arc<str>> = others.chain(hosts.faulty.iter().cloned()).collect();
        let listed = compile::domains(unit, accepted).unwrap_or_default();
        affected.extend(listed.into_iter().filter(|domain| !hosts.standing.contains_key(domain)));
        for domain in affected {
            let outcome = compile::host(unit, &domain, accepted);
            hosts.fallen.insert(domain, outcome.into());
        }
        accepted.reads()
    }

    /// Forgets the hosts of a route configuration that nobody has any more.
    pub(super) fn forget_hosts(&mut self, unit: &Unit) {
        for domain in self.hosts.remove(unit).iter().flat_map(Hosts::domains) {
            self.dependents.forget(&Key::Host(unit.clone(), Arc::clone(domain)));
        }
    }
}
