//! A control plane that answers what a test tells it to, on a free loopback port.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming};

use crate::rpc::{
    self,
    operator_server::{Operator, OperatorServer},
};

/// What the control plane answers; calls without an answer are UNIMPLEMENTED.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) apply: Option<Result<rpc::ApplyResponse, Status>>,
    /// One for each call, in order.
    pub(super) get: VecDeque<rpc::GetResponse>,
    pub(super) delete: Option<rpc::DeleteResponse>,
    pub(super) wait: Option<rpc::WaitResponse>,
    pub(super) status: Option<rpc::ProxyStatusResponse>,
    pub(super) config: Option<rpc::ProxyConfigResponse>,
    /// One for each call, in order.
    pub(super) load: VecDeque<rpc::LoadResponse>,
    pub(super) accept_store: Option<Result<rpc::AcceptStoreResponse, Status>>,
    /// Never answers `apply`.
    pub(super) hang: bool,
    /// How many answers a `register` stream gives before it breaks; one number for each stream.
    pub(super) register: VecDeque<usize>,
}

/// What it was asked, as debug text.
pub(super) type Asked = Arc<Mutex<Vec<String>>>;

struct Fake {
    answers: Mutex<Answers>,
    asked: Asked,
}

/// A running fake; it stops when dropped.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) asked: Asked,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn start(answers: Answers) -> Server {
    start_on(tonic::transport::Server::builder(), "http", answers).await
}

/// Starts on a server that is prepared already, with TLS for one.
pub(super) async fn start_on(mut server: tonic::transport::Server, scheme: &str, answers: Answers) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
    let asked = Asked::default();
    let fake = Fake { answers: Mutex::new(answers), asked: asked.clone() };
    let serving = server.add_service(OperatorServer::new(fake)).serve_with_incoming(TcpListenerStream::new(listener));
    #[expect(clippy::disallowed_methods, reason = "Server aborts it on drop")]
    let task = tokio::spawn(async { serving.await.expect("serves until it is aborted") });
    Server { url, asked, task }
}

impl Fake {
    fn note<T: std::fmt::Debug>(&self, request: &Request<T>) {
        self.asked.lock().expect("no panic holds it").push(format!("{:?}", request.get_ref()));
    }

    fn answer<T>(&self, take: impl FnOnce(&mut Answers) -> Option<T>) -> Result<Response<T>, Status> {
        let taken = take(&mut self.answers.lock().expect("no panic holds it"));
        taken.map(Response::new).ok_or_else(|| Status::unimplemented("no answer is prepared"))
    }
}

#[tonic::async_trait]
impl Operator for Fake {
    async fn apply(&self, request: Request<rpc::ApplyRequest>) -> Result<Response<rpc::ApplyResponse>, Status> {
        self.note(&request);
        if self.answers.lock().expect("no panic holds it").hang {
            std::future::pending::<()>().await;
        }
        let answer = self.answer(|a| a.apply.clone())?.into_inner();
        answer.map(Response::new)
    }

    async fn get(&self, request: Request<rpc::GetRequest>) -> Result<Response<rpc::GetResponse>, Status> {
        self.note(&request);
        self.answer(|a| a.get.pop_front())
    }

    async fn delete(&self, request: Request<rpc::DeleteRequest>) -> Result<Response<rpc::DeleteResponse>, Status> {
        self.note(&request);
        self.answer(|a| a.delete.clone())
    }

    async fn wait(&self, request: Request<rpc::WaitRequest>) -> Result<Response<rpc::WaitResponse>, Status> {
        self.note(&request);
        self.answer(|a| a.wait.clone())
    }

    async fn proxy_status(
        &self,
        _: Request<rpc::ProxyStatusRequest>,
    ) -> Result<Response<rpc::ProxyStatusResponse>, Status> {
        self.answer(|a| a.status.clone())
    }

    async fn proxy_config(
        &self,
        request: Request<rpc::ProxyConfigRequest>,
    ) -> Result<Response<rpc::ProxyConfigResponse>, Status> {
        self.note(&request);
        self.answer(|a| a.config.clone())
    }

    async fn load(&self, request: Request<rpc::LoadRequest>) -> Result<Response<rpc::LoadResponse>, Status> {
        self.note(&request);
        self.answer(|a| a.load.pop_front())
    }

    type RegisterStream = ReceiverStream<Result<rpc::RegisterResponse, Status>>;

    async fn register(
        &self,
        request: Request<Streaming<rpc::RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let answers = self.answer(|a| a.register.pop_front())?.into_inner();
        let asked = self.asked.clone();
        let (sender, receiver) = mpsc::channel(1);
        // Ends with the stream, for either end that goes away ends the loop.
        #[expect(clippy::disallowed_methods, reason = "it ends with its stream")]
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            for n in 0.. {
                if n == answers {
                    let _ = sender.send(Err(Status::unavailable("going away"))).await;
                    return;
                }
                match requests.next().await {
                    Some(Ok(request)) => {
                        asked.lock().expect("no panic holds it").push(format!("{request:?}"));
                        let _ = sender.send(Ok(rpc::RegisterResponse { revision: 7 })).await;
                    }
                    Some(Err(_)) => return,
                    None => {
                        asked.lock().expect("no panic holds it").push("ended in good order".to_owned());
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn accept_store(
        &self,
        request: Request<rpc::AcceptStoreRequest>,
    ) -> Result<Response<rpc::AcceptStoreResponse>, Status> {
        self.note(&request);
        let accepted = self.answers.lock().expect("no panic holds it").accept_store.take();
        accepted.unwrap_or_else(|| Err(Status::unimplemented("no answer is prepared"))).map(Response::new)
    }

    async fn version(&self, _: Request<rpc::VersionRequest>) -> Result<Response<rpc::VersionResponse>, Status> {
        Ok(Response::new(rpc::VersionResponse { version: "9.9.9".into(), replica: "cp1".into(), ..Default::default() }))
    }
}
