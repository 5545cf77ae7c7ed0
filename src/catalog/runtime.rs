//! What flows at once and never waits behind configuration: live endpoints.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{LiveEndpoint, ObjectRef};

/// The live endpoints of one service at one site, by id.
pub type LiveEndpoints = BTreeMap<String, LiveEndpoint>;

type Services = BTreeMap<Arc<ObjectRef>, Arc<LiveEndpoints>>;

/// The live endpoints of all sites. A clone shares everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runtime {
    sites: Arc<BTreeMap<Arc<str>, Arc<Services>>>,
}

impl Runtime {
    /// Those of one Service at one site.
    pub fn endpoints(&self, site: &str, service: &ObjectRef) -> Option<&LiveEndpoints> {
        self.sites.get(site)?.get(service).map(Arc::as_ref)
    }

    /// The sites where a Service has live endpoints.
    pub fn sites_of(&self, service: &ObjectRef) -> impl Iterator<Item = &str> {
        self.sites.iter().filter(|(_, services)| services.contains_key(service)).map(|(site, _)| &**site)
    }

    /// Writes or (`None`) removes one; says whether that changed anything.
    pub(super) fn set(&mut self, site: &str, service: &ObjectRef, id: &str, value: Option<LiveEndpoint>) -> bool {
        let before = self.endpoints(site, service).and_then(|endpoints| endpoints.get(id));
        if before == value.as_ref() {
            return false;
        }
        let sites = Arc::make_mut(&mut self.sites);
        let services = Arc::make_mut(sites.entry(site.into()).or_default());
        let endpoints = Arc::make_mut(services.entry(Arc::new(service.clone())).or_default());
        match value {
            Some(value) => {
                endpoints.insert(id.to_owned(), value);
            }
            None => {
                endpoints.remove(id);
                if endpoints.is_empty() {
                    services.remove(service);
                }
                if services.is_empty() {
                    sites.remove(site);
                }
            }
        }
        true
    }
}
