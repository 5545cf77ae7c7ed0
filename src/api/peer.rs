//! The `Peer` service: what this replica answers the others about its own proxies.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status};

use super::{Context, objects, proxies};
use crate::{
    identity::{self, Peer as Caller, Principal},
    replicas,
    rpc::{
        ProxiesRequest, ProxyConfigRequest, ProxyConfigResponse, ProxyStatusResponse, StandingsRequest,
        StandingsResponse, WatermarksRequest, WatermarksResponse, peer_server::Peer,
    },
};

/// The peer RPC of one replica.
#[derive(Clone)]
pub struct PeerService {
    context: Context,
}

impl PeerService {
    /// Answers from `context`.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

/// Only control planes ask here; without certificates, whoever is on this machine.
fn admit<T>(context: &Context, request: &Request<T>) -> Result<(), Status> {
    let peer = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    let trust_domain = context.state().configuration.fleet().trust_domain;
    match identity::principal(&peer, &trust_domain, false) {
        Ok(Principal::ControlPlane(_) | Principal::Unproven) => {}
        Ok(other) => {
            let text = format!("{other} is no control plane: ask the operator API, which asks all replicas");
            return Err(Status::permission_denied(text));
        }
        Err(refusal) => return Err(Status::permission_denied(refusal.to_string())),
    }
    context.replicas.meant(request.metadata()).map_err(Status::failed_precondition)?;
    // Two processes of one name cannot both speak for it.
    match context.replicas.complaint() {
        Some(complaint) => Err(Status::failed_precondition(complaint)),
        None => Ok(()),
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn proxies(&self, request: Request<ProxiesRequest>) -> Result<Response<ProxyStatusResponse>, Status> {
        admit(&self.context, &request)?;
        Ok(Response::new(proxies::own(&self.context)))
    }

    async fn standings(&self, request: Request<StandingsRequest>) -> Result<Response<StandingsResponse>, Status> {
        admit(&self.context, &request)?;
        let references = request.get_ref().objects.iter().map(super::apply::from_rpc).collect::<Result<Vec<_>, _>>()?;
        let report = objects::report(&self.context, &references);
        let standings = report.standings.into_iter().map(replicas::standing).collect();
        Ok(Response::new(StandingsResponse { standings, revision: report.revision.0, stale: report.stale }))
    }

    async fn config(&self, request: Request<ProxyConfigRequest>) -> Result<Response<ProxyConfigResponse>, Status> {
        admit(&self.context, &request)?;
        proxies::own_config(&self.context, request.get_ref()).map(Response::new)
    }

    type WatermarksStream = Pin<Box<dyn Stream<Item = Result<WatermarksResponse, Status>> + Send>>;

    async fn watermarks(
        &self,
        request: Request<WatermarksRequest>,
    ) -> Result<Response<Self::WatermarksStream>, Status> {
        admit(&self.context, &request)?;
        Ok(Response::new(Box::pin(super::watermarks::reports(self.context.clone()))))
    }
}
