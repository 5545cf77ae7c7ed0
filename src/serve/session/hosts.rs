//! Virtual hosts that come one by one (VHDS). A host's name is `<route configuration>/<domain>`, and a proxy drops what
//! comes for a route configuration that it does not have: they follow it, all of them in one response, since it serves
//! as soon as the first has come.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Session,
    kind::{Exception, Kind},
};
use crate::{
    snapshot::{Content, Entry, Seq},
    xds::{Resource, ResourceType},
};

/// The route configuration of a host.
fn routes_of(host: &str) -> Option<&str> {
    host.rsplit_once('/').map(|(routes, _)| routes)
}

/// What answers for a host that a proxy asks for on demand, as Envoy would choose: by its domain without the port, by
/// the longest pattern, or not at all.
pub(super) fn answering<'c>(asked: &str, content: &'c Content) -> Option<&'c Entry> {
    let (routes, host) = asked.rsplit_once('/')?;
    let port = |(_, port): &(&str, &str)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = host.rsplit_once(':').filter(port).map_or(host, |(host, _)| host);
    let find = |domain: &str| content.get(ResourceType::VirtualHost, &format!("{routes}/{domain}"));
    let suffixes = host.match_indices('.').filter_map(|(at, _)| host.get(at..));
    let mut patterns = suffixes.map(|suffix| format!("*{suffix}")).chain(["*".to_owned()]);
    find(host).or_else(|| patterns.find_map(|pattern| find(&pattern)))
}

/// Adds the answers to questions for hosts that are there under other names, or not at all: Envoy holds a request back
/// until a resource comes that has the asked name as an alias; "removed" it does not take for an answer. Each resource
/// stands in a response once, whatever the names under which it is asked for.
pub(super) fn answer(asked: &[&Arc<str>], resources: &mut Vec<Arc<Resource>>, content: &Content) {
    let mut found: BTreeMap<&Arc<str>, (&Entry, Vec<&str>)> = BTreeMap::new();
    for name in asked {
        match answering(name, content) {
            Some(entry) => found.entry(&entry.resource.name).or_insert((entry, Vec::new())).1.push(name),
            None => resources.push(Arc::new(Resource::alias(ResourceType::VirtualHost, &[name], None))),
        }
    }
    for (name, (entry, aliases)) in found {
        resources.retain(|resource| resource.name != *name);
        resources.push(Arc::new(Resource::alias(ResourceType::VirtualHost, &aliases, Some(&entry.resource))));
    }
}

impl Session {
    /// Route configurations go out: the hosts of those that have some, and are new to the proxy, follow.
    pub(super) fn follow_routes(&mut self, sent: &[Arc<Resource>], content: &Content) {
        for routes in sent {
            let mut hosts = content.hosts(&routes.name).peekable();
            if hosts.peek().is_none() {
                self.streamed.remove(&routes.name);
                continue;
            }
            if self.streamed.contains_key(&routes.name) {
                continue;
            }
            self.streamed.insert(Arc::clone(&routes.name), content.seq());
            if let Some(state) = self.slot(ResourceType::VirtualHost).as_mut().filter(|state| state.seeded()) {
                hosts.for_each(|(name, entry)| state.bring(name, entry));
            }
        }
    }

    /// Those that the proxy has from another stream have their hosts.
    pub(super) fn keep_routes(&mut self, content: &Content) {
        let Some(state) = self.kind(ResourceType::Route).filter(|state| state.seeded()) else { return };
        let held = state.subscription.names().iter().filter(|name| !state.exceptions.contains_key(*name));
        let streamed = held.filter(|name| content.get(ResourceType::Route, name).is_some() && state.sent > Seq(0));
        let streamed: Vec<_> = streamed.filter(|name| content.hosts(name).next().is_some()).cloned().collect();
        self.streamed.extend(streamed.into_iter().map(|name| (name, Seq(0))));
    }

    /// Only those count that the proxy still asks for, and does not ask for anew: then it may have lost their hosts.
    pub(super) fn forget_routes(&mut self, asked: &[String]) {
        self.streamed.retain(|routes, _| !asked.iter().any(|asked| **asked == **routes));
        let Some(state) = self.kinds.get(ResourceType::Route) else { return };
        self.streamed.retain(|routes, _| state.subscription.contains(routes));
    }

    /// The proxy does not have its route configuration, which is still to come.
    pub(super) fn early(&self, host: &str, content: &Content) -> bool {
        let coming = |routes: &str| self.kind(ResourceType::Route).is_some() && !self.streamed.contains_key(routes);
        routes_of(host).is_some_and(|routes| content.get(ResourceType::Route, routes).is_some() && coming(routes))
    }

    /// It comes with its route configuration, and must not be late: its listener has waited for what it needs.
    pub(super) fn comes_along(&self, host: &str, created: Seq) -> bool {
        let since = routes_of(host).and_then(|routes| self.streamed.get(routes));
        since.is_some_and(|since| created <= *since)
    }

    /// Gone with its route configuration, to which connections of a listener that drains may still lead.
    pub(super) fn drains(&self, host: &str, content: &Content) -> bool {
        let asked = |routes: &str| self.kind(ResourceType::Route).is_some_and(|s| s.subscription.contains(routes));
        routes_of(host).is_some_and(|routes| content.get(ResourceType::Route, routes).is_none() && asked(routes))
    }
}

impl Kind {
    /// A host goes behind its route configuration, whatever was sent of it before. One that is younger than the cursor
    /// comes by that, as new.
    fn bring(&mut self, name: &Arc<str>, entry: &Entry) {
        let passed = if self.parts.is_empty() { self.sent } else { self.parts_to };
        if entry.created <= passed && self.subscription.contains(name) {
            self.taken.insert(Arc::clone(name), Seq(entry.created.0.saturating_sub(1)));
            self.exceptions.insert(Arc::clone(name), Exception::Wanted { new: true, group: None });
            self.touch();
        }
    }
}
