//! `register`: an endpoint's lease, kept alive through the API until somebody stops the command.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{
    Failure, Global, Io, RegisterArgs,
    client::{Client, call},
};
use crate::rpc;

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// `tidegate register`: returns when it is interrupted (then the endpoint goes at once, for the stream ends in good
/// order), or when the control plane refuses the endpoint itself.
pub(crate) async fn register(global: &Global, args: &RegisterArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let request = request(args)?;
    let stop = interrupted();
    tokio::pin!(stop);
    let mut backoff = BACKOFF_MIN;
    loop {
        let began = Instant::now();
        let failure = tokio::select! {
            biased;
            result = &mut stop => return result,
            failure = keep(global, args.ttl / 3, &request, io) => failure,
        };
        match failure {
            Lost::Refused(failure) => return Err(failure),
            Lost::Connection(why) => writeln!(io.err, "{why}; trying again")?,
        }
        // A connection that held for a while was a good one: the next try comes soon.
        backoff = if began.elapsed() > BACKOFF_MAX { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        let jittered = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            biased;
            result = &mut stop => return result,
            () = tokio::time::sleep(jittered) => {}
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
enum Lost {
    /// Another try may help.
    Connection(String),
    /// No other try will.
    Refused(Failure),
}

async fn keep(global: &Global, every: Duration, request: &rpc::RegisterRequest, io: &mut Io<'_>) -> Lost {
    match stream(global, every, request, io).await {
        Ok(never) => match never {},
        Err(lost) => lost,
    }
}

async fn stream(
    global: &Global,
    every: Duration,
    request: &rpc::RegisterRequest,
    io: &mut Io<'_>,
) -> Result<std::convert::Infallible, Lost> {
    let mut client = Client::connect(global).await.map_err(|failure| match failure {
        Failure::Usage(_) => Lost::Refused(failure),
        other => Lost::Connection(other.to_string()),
    })?;
    let (requests, queue) = mpsc::channel(1);
    let closed = || Lost::Connection(format!("{} ended the stream", global.server));
    requests.send(request.clone()).await.map_err(|_| closed())?;
    let started = call!(client, global.request_timeout, register, ReceiverStream::new(queue));
    let mut answers = started.map_err(|failure| match failure {
        Failure::Timeout(why) => Lost::Connection(why),
        Failure::Failed(why) if why.starts_with("no control plane answers") => Lost::Connection(why),
        other => Lost::Refused(other),
    })?;
    let mut told = false;
    loop {
        // One answer for each message: silence means that the lease is not being renewed.
        let answer = match tokio::time::timeout(global.request_timeout, answers.message()).await {
            Err(_) => return Err(Lost::Connection(format!("{} stopped answering", global.server))),
            Ok(Ok(None)) => return Err(closed()),
            Ok(Ok(Some(answer))) => answer,
            Ok(Err(status)) => {
                let failure = Failure::from_status(&status, &global.server);
                return Err(match status.code() {
                    Code::InvalidArgument
                    | Code::NotFound
                    | Code::FailedPrecondition
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::Unimplemented => Lost::Refused(failure),
                    _ => Lost::Connection(failure.to_string()),
                });
            }
        };
        if !told {
            told = true;
            let at = format!("{}/{} at {}", request.namespace, request.service, request.site);
            let line =
                format!("registered {} as {} of {at} (revision {})", request.address, request.id, answer.revision);
            // Somebody closed stderr; the endpoint is kept alive all the same.
            let _ = writeln!(io.err, "{line}").and_then(|()| io.err.flush());
        }
        tokio::time::sleep(every).await;
        requests.send(request.clone()).await.map_err(|_| closed())?;
    }
}

/// Returns on SIGINT or SIGTERM.
async fn interrupted() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => Ok(result?),
        _ = terminate.recv() => Ok(()),
    }
}
