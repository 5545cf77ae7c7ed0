//! The words of the peer RPC and those of `status`, into one another.

use crate::{
    model::ObjectRef,
    rpc,
    status::{Laggard, Standing},
    xds::ResourceType,
};

pub(super) fn object(reference: &ObjectRef) -> rpc::ObjectRef {
    rpc::ObjectRef {
        kind: reference.kind.to_string(),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
    }
}

/// A laggard on the wire.
pub fn laggard(laggard: Laggard) -> rpc::Laggard {
    rpc::Laggard {
        proxy: laggard.proxy,
        site: laggard.site,
        r#type: laggard.kind.short().to_owned(),
        resource: laggard.resource,
        error: laggard.error,
    }
}

/// A standing on the wire.
pub fn standing(standing: Standing) -> rpc::Standing {
    rpc::Standing {
        total: standing.total,
        acked: standing.acked,
        nacked: standing.nacked,
        pending: standing.pending,
        laggards: standing.laggards.into_iter().map(laggard).collect(),
    }
}

/// The inverse of [`standing`]; a laggard of a type that this version does not know is counted, not named.
pub(super) fn standing_from(standing: rpc::Standing) -> Standing {
    let laggard = |l: rpc::Laggard| {
        let kind = ResourceType::parse(&l.r#type)?;
        Some(Laggard { proxy: l.proxy, site: l.site, kind, resource: l.resource, error: l.error })
    };
    Standing {
        total: standing.total,
        acked: standing.acked,
        nacked: standing.nacked,
        pending: standing.pending,
        laggards: standing.laggards.into_iter().filter_map(laggard).collect(),
    }
}
