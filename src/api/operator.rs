//! The `Operator` service: each call is handed to the file that answers it.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, apply, objects, proxies, register};
use crate::rpc::{
    ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, ProxyConfigRequest,
    ProxyConfigResponse, ProxyStatusRequest, ProxyStatusResponse, RegisterRequest, RegisterResponse, VersionRequest,
    VersionResponse, WaitRequest, WaitResponse, operator_server::Operator,
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

/// Who asks: the name in the certificate, or `unproven` on a listener without TLS.
pub(super) fn principal<T>(request: &Request<T>) -> String {
    request
        .extensions()
        .get::<crate::identity::Principal>()
        .map_or_else(|| "unproven".to_owned(), ToString::to_string)
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let who = principal(&request);
        apply::apply(&self.context, &who, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        objects::get(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let who = principal(&request);
        apply::delete(&self.context, &who, request.into_inner()).await.map(Response::new)
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        objects::wait(&self.context, request.into_inner()).await.map(Response::new)
    }

    async fn proxy_status(
        &self,
        _request: Request<ProxyStatusRequest>,
    ) -> Result<Response<ProxyStatusResponse>, Status> {
        Ok(Response::new(proxies::status(&self.context)))
    }

    async fn proxy_config(
        &self,
        request: Request<ProxyConfigRequest>,
    ) -> Result<Response<ProxyConfigResponse>, Status> {
        proxies::config(&self.context, &request.into_inner()).map(Response::new)
    }

    type RegisterStream = Pin<Box<dyn Stream<Item = Result<RegisterResponse, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let context = self.context.clone();
        Ok(Response::new(Box::pin(register::register(context, request.into_inner()))))
    }

    async fn version(&self, _request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            replica: self.context.replica.to_string(),
        }))
    }
}
