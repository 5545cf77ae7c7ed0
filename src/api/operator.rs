//! The `Operator` service: each call is handed to the file that answers it.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, apply, load, objects, proxies, register, store};
use crate::identity::{self, Peer, Principal};
use crate::rpc::{
    AcceptStoreRequest, AcceptStoreResponse, ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, GetRequest,
    GetResponse, LoadRequest, LoadResponse, ProxyConfigRequest, ProxyConfigResponse, ProxyStatusRequest,
    ProxyStatusResponse, RegisterRequest, RegisterResponse, VersionRequest, VersionResponse, WaitRequest, WaitResponse,
    operator_server::Operator,
};

/// The operator API of one replica.
#[derive(Clone)]
pub struct OperatorService {
    context: Context,
}

impl OperatorService {
    /// Serves from `context`.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

/// Who asks. Every call passes here first. A replica's certificate, which lies on more machines than an operator's, opens
/// the `Peer` service and nothing here.
fn principal<T>(context: &Context, request: &Request<T>) -> Result<String, Status> {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let trust_domain = context.state().configuration.fleet().trust_domain;
    match identity::principal(&peer, &trust_domain, false) {
        Ok(replica @ Principal::ControlPlane(_)) => {
            Err(Status::permission_denied(format!("{replica} is a replica, which may ask as a replica only")))
        }
        Ok(principal) => Ok(principal.to_string()),
        Err(refusal) => Err(Status::permission_denied(refusal.to_string())),
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let who = principal(&self.context, &request)?;
        apply::apply(&self.context, &who, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        principal(&self.context, &request)?;
        objects::get(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let who = principal(&self.context, &request)?;
        apply::delete(&self.context, &who, request.into_inner()).await.map(Response::new)
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        principal(&self.context, &request)?;
        objects::wait(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn proxy_status(
        &self,
        request: Request<ProxyStatusRequest>,
    ) -> Result<Response<ProxyStatusResponse>, Status> {
        principal(&self.context, &request)?;
        Ok(Response::new(proxies::status(&self.context).await))
    }

    async fn proxy_config(
        &self,
        request: Request<ProxyConfigRequest>,
    ) -> Result<Response<ProxyConfigResponse>, Status> {
        principal(&self.context, &request)?;
        proxies::config(&self.context, &request.into_inner()).await.map(Response::new)
    }

    async fn load(&self, request: Request<LoadRequest>) -> Result<Response<LoadResponse>, Status> {
        principal(&self.context, &request)?;
        Ok(Response::new(load::load(&self.context, &request.into_inner())))
    }

    type RegisterStream = Pin<Box<dyn Stream<Item = Result<RegisterResponse, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        principal(&self.context, &request)?;
        let context = self.context.clone();
        Ok(Response::new(Box::pin(register::register(context, request.into_inner()))))
    }

    async fn accept_store(
        &self,
        request: Request<AcceptStoreRequest>,
    ) -> Result<Response<AcceptStoreResponse>, Status> {
        let who = principal(&self.context, &request)?;
        store::accept(&self.context, &who).await.map(Response::new)
    }

    async fn version(&self, _request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            replica: self.context.replica.to_string(),
            stale: self.context.stale(),
        }))
    }
}
