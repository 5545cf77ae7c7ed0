//! How compilation looks at the state: every look is recorded, misses and selectors included, so that a change says
//! by itself what it makes dirty.

use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

use crate::{
    catalog::{Configuration, LiveEndpoints, Read, Runtime, Stored},
    model::{
        CertificateSpec, EndpointSetSpec, FleetSpec, GatewaySpec, HttpRouteSpec, Kind, ObjectRef, ReferenceGrantSpec,
        Revision, Role, ServicePort, ServiceSpec, SiteSpec, SiteState,
    },
};

/// An object with its spec.
pub type Found<'a, S> = (&'a Stored, &'a S);

/// Where an EndpointSet stands.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// The EndpointSet.
    pub set: &'a ObjectRef,
    /// Its Service, in its own namespace.
    pub service: &'a str,
    /// Its Site.
    pub site: &'a str,
    /// Its age.
    pub since: Revision,
}

impl<'a> Placement<'a> {
    fn of(stored: &'a Stored) -> Option<Self> {
        let spec = stored.endpoint_set()?;
        Some(Self { set: &stored.reference, service: &spec.service, site: &spec.site, since: stored.create_revision })
    }
}

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

    /// The role of a Site in service; `None`: there is none, or it is going.
    pub fn serving(&self, site: &str) -> Option<Role> {
        self.standing(site).filter(|(_, state)| *state == SiteState::Active).map(|(role, _)| role)
    }

    /// The role of a Site, in service or not.
    pub fn role(&self, site: &str) -> Option<Role> {
        self.standing(site).map(|(role, _)| role)
    }

    fn standing(&self, site: &str) -> Option<(Role, SiteState)> {
        self.record(Read::Serving(site.to_owned()));
        let spec = self.configuration.get(&ObjectRef::new(Kind::Site, "", site))?.site()?;
        Some((spec.role, spec.state))
    }

    /// The region and zone of a Site.
    pub fn place(&self, site: &str) -> Option<(&'a str, &'a str)> {
        self.record(Read::Place(site.to_owned()));
        let configuration: &'a Configuration = self.configuration;
        let spec = configuration.get(&ObjectRef::new(Kind::Site, "", site))?.site()?;
        Some((&spec.region, &spec.zone))
    }

    /// The ports of a Service.
    pub fn ports(&self, service: &ObjectRef) -> Option<&'a [ServicePort]> {
        self.record(Read::Ports(service.clone()));
        let configuration: &'a Configuration = self.configuration;
        Some(&configuration.get(service)?.service()?.ports)
    }

    /// The HTTPRoutes with a parentRef to this Gateway, by namespace and name.
    pub fn routes_of(&self, gateway: &ObjectRef) -> impl Iterator<Item = Found<'a, HttpRouteSpec>> + use<'a> {
        self.record(Read::Referrers(gateway.clone()));
        let configuration: &'a Configuration = self.configuration;
        configuration.referrers(gateway).filter_map(|stored| Some((&**stored, stored.http_route()?)))
    }

    /// The host names that HTTPRoutes of a Gateway name, sorted; `*` if some name none.
    pub fn hosts_of(&self, gateway: &ObjectRef) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        self.record(Read::Hosts(gateway.clone()));
        let configuration: &'a Configuration = self.configuration;
        configuration.hosts_of(gateway)
    }

    /// The HTTPRoutes of a Gateway that name this host name (`*`: that name none), by namespace and name. What each says
    /// is part of the answer.
    pub fn routes_for(&self, gateway: &ObjectRef, host: &str) -> Vec<Found<'a, HttpRouteSpec>> {
        self.record(Read::RoutesFor(gateway.clone(), host.into()));
        let configuration: &'a Configuration = self.configuration;
        let found = configuration.routes_for(gateway, host).map(Arc::as_ref);
        found.filter_map(|stored| Some((stored, stored.http_route()?))).collect()
    }

    /// Where the EndpointSets of a Service, or those at a Site, stand.
    pub fn placements(&self, target: &ObjectRef) -> impl Iterator<Item = Placement<'a>> + use<'a> {
        self.record(Read::Referrers(target.clone()));
        let configuration: &'a Configuration = self.configuration;
        configuration.referrers(target).filter_map(|stored| Placement::of(stored))
    }

    /// Where every EndpointSet stands.
    pub fn all_placements(&self) -> impl Iterator<Item = Placement<'a>> + use<'a> {
        self.record(Read::Placements);
        let configuration: &'a Configuration = self.configuration;
        configuration.all(Kind::EndpointSet).filter_map(|stored| Placement::of(stored))
    }

    /// An EndpointSet, with what it holds.
    pub fn endpoint_set(&self, reference: &ObjectRef) -> Option<Found<'a, EndpointSetSpec>> {
        let stored = self.object(reference)?;
        Some((stored, stored.endpoint_set()?))
    }

    /// The live endpoints of a Service at a site.
    pub fn live_endpoints(&self, site: &str, service: &ObjectRef) -> Option<&'a LiveEndpoints> {
        self.record(Read::Endpoints { site: site.to_owned(), service: service.clone() });
        self.runtime.endpoints(site, service)
    }
}
