//! Resources that are written in Envoy's words already.

use super::{Contributions, SERVICE_HEADER, assemble};
use crate::{
    compile::resolve::RawPlan,
    xds::{Resource, ResourceType, descriptor::message_name, references::references},
};

/// The resource as it is written, with what has to come before and behind it.
pub fn raw(kind: ResourceType, plan: &RawPlan) -> Resource {
    let payload = plan.spec.payload.clone();
    let named = references(message_name(kind.url()), &payload, SERVICE_HEADER, |_| false);
    let sources = Contributions::Whole(std::slice::from_ref(&plan.source));
    let resource = assemble(kind, &plan.spec.name, payload, named.children, named.requires, sources);
    match plan.spec.ttl {
        Some(ttl) => resource.lasting(ttl),
        None => resource,
    }
}
