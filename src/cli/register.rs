//! `register`: an endpoint's lease, kept alive through the API until somebody stops the command.

use std::{
    io,
    pin::{Pin, pin},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Failure, Global, Io, RegisterArgs, client::Client};
use crate::rpc;

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(1);

/// `tidegate register`: returns when it is interrupted (then the endpoint goes at once, for the stream ends in good
/// order), or when the control plane refuses the endpoint itself.
pub(crate) async fn register(global: &Global, args: &RegisterArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    until(interrupted(), global, args, io).await
}

/// [`register`] until `stop` is ready.
pub(crate) async fn until(
    stop: impl Future<Output = io::Result<()>>,
    global: &Global,
    args: &RegisterArgs,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let request = request(args)?;
    let mut stop = pin!(stop);
    let mut backoff = BACKOFF_MIN;
    loop {
        let began = Instant::now();
        let opened = tokio::select! {
            biased;
            result = &mut stop => return Ok(result?),
            opened = open(global, &request) => opened,
        };
        let ended = match opened {
            Ok(session) => hold(session, stop.as_mut(), args.ttl / 3, &request, io).await,
            Err(ended) => ended,
        };
        match ended {
            Ended::Stopped(result) => return Ok(result?),
            Ended::Refused(failure) => return Err(failure),
            Ended::Lost(why) => writeln!(io.err, "{why}; trying again")?,
        }
        // A connection that held for a while was a good one: the next try comes soon.
        backoff = if began.elapsed() > BACKOFF_MAX { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        tokio::select! {
            biased;
            result = &mut stop => return Ok(result?),
            () = tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
        }
    }
}

fn request(args: &RegisterArgs) -> Result<rpc::RegisterRequest, Failure> {
    let (namespace, service) = args.service_ref();
    if namespace.is_empty() || service.is_empty() || service.contains('/') {
        return Err(Failure::Usage(format!("--service {}: NAMESPACE/NAME expected", args.service)));
    }
    let ttl_seconds = u32::try_from(args.ttl.as_secs()).unwrap_or(u32::MAX);
    if ttl_seconds < 2 {
        return Err(Failure::Usage("--ttl is at least 2s".to_owned()));
    }
    Ok(rpc::RegisterRequest {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        site: args.site.clone(),
        id: args.id.clone(),
        address: args.address.to_string(),
        weight: args.weight,
        ttl_seconds,
    })
}

/// Why a stream ended.
enum Ended {
    /// Somebody stopped this command.
    Stopped(io::Result<()>),
    /// Another try may help.
    Lost(String),
    /// No other try will.
    Refused(Failure),
}

impl Ended {
    fn from_status(status: &Status, server: &str) -> Self {
        let failure = Failure::from_status(status, server);
        match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Self::Refused(failure),
            _ => Self::Lost(failure.to_string()),
        }
    }
}

/// An open stream: a message to `requests` is answered by one of `answers`.
struct Session {
    requests: mpsc::Sender<rpc::RegisterRequest>,
    answers: Streaming<rpc::RegisterResponse>,
    server: String,
    limit: Duration,
}

async fn open(global: &Global, request: &rpc::RegisterRequest) -> Result<Session, Ended> {
    let mut client = Client::connect(global).await.map_err(|failure| match failure {
        Failure::Usage(_) => Ended::Refused(failure),
        other => Ended::Lost(other.to_string()),
    })?;
    let (server, limit) = (global.server.clone(), global.request_timeout);
    let (requests, queue) = mpsc::channel(1);
    // The queue is empty and its other end is held here: this cannot fail.
    let _ = requests.try_send(request.clone());
    match tokio::time::timeout(limit, client.operator.register(ReceiverStream::new(queue))).await {
        Ok(Ok(response)) => Ok(Session { requests, answers: response.into_inner(), server, limit }),
        Ok(Err(status)) => Err(Ended::from_status(&status, &server)),
        Err(_) => Err(Ended::Lost(format!("{server} did not answer within {limit:?}"))),
    }
}

async fn hold(
    mut session: Session,
    mut stop: Pin<&mut impl Future<Output = io::Result<()>>>,
    every: Duration,
    request: &rpc::RegisterRequest,
    io: &mut Io<'_>,
) -> Ended {
    let server = session.server.clone();
    let mut told = false;
    loop {
        let turn = async {
            // One answer for each message: silence means that the lease is not being renewed.
            let answer = match tokio::time::timeout(session.limit, session.answers.message()).await {
                Err(_) => return Err(Ended::Lost(format!("{server} stopped answering"))),
                Ok(received) => renewed(received, &server)?,
            };
            if !told {
                told = true;
                let at = format!("{}/{} at {}", request.namespace, request.service, request.site);
                // Where somebody closed stderr, the endpoint is kept alive all the same.
                let _ = writeln!(
                    io.err,
                    "registered {} as {} of {at} (revision {})",
                    request.address, request.id, answer.revision
                );
            }
            // Listening in the pause too: a stream that breaks is replaced at once, not when the lease is due.
            let mut pause = pin!(tokio::time::sleep(every));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    received = session.answers.message() => { renewed(received, &server)?; }
                }
            }
            let sent = session.requests.send(request.clone()).await;
            sent.map_err(|_| Ended::Lost(format!("{server} ended the stream")))
        };
        tokio::select! {
            biased;
            result = &mut stop => {
                end(session).await;
                return Ended::Stopped(result);
            }
            turn = turn => if let Err(ended) = turn {
                return ended;
            }
        }
    }
}

fn renewed(
    received: Result<Option<rpc::RegisterResponse>, Status>,
    server: &str,
) -> Result<rpc::RegisterResponse, Ended> {
    match received {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Ended::Lost(format!("{server} ended the stream"))),
        Err(status) => Err(Ended::from_status(&status, server)),
    }
}

/// Ends the stream in good order and gives the control plane a moment to take the endpoint out.
async fn end(session: Session) {
    let Session { requests, mut answers, .. } = session;
    drop(requests);
    let _ = tokio::time::timeout(FAREWELL, async { while let Ok(Some(_)) = answers.message().await {} }).await;
}

/// Returns on SIGINT or SIGTERM.
async fn interrupted() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}
