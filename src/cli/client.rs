//! The connection to a control plane, and a deadline on every call.

use std::{fs, future::Future, path::Path, time::Duration};

use tonic::{
    Response, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    Failure, Global,
    failure::{root_cause, unreachable},
};
use crate::rpc::operator_client::OperatorClient;

/// Manifests of a large fleet are large answers: more than tonic's 4 MiB.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A control plane, connected.
pub(crate) struct Client {
    /// The calls; every one goes through [`Client::within`].
    pub(crate) operator: OperatorClient<Channel>,
    server: String,
}

impl Client {
    /// Connects within the request time-out.
    pub(crate) async fn connect(global: &Global) -> Result<Self, Failure> {
        let endpoint = endpoint(global)?;
        let connecting = tokio::time::timeout(global.request_timeout, endpoint.connect());
        let channel = match connecting.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(Failure::Failed(unreachable(&global.server, &root_cause(&error)))),
            Err(_) => return Err(Failure::Timeout(unreachable(&global.server, "no connection in time"))),
        };
        let operator = OperatorClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { operator, server: global.server.clone() })
    }

    /// Awaits `call` for at most `limit`.
    pub(crate) async fn within<T>(
        server: &str,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::from_status(&status, server)),
            Err(_) => Err(Failure::Timeout(format!("{server} did not answer within {limit:?}"))),
        }
    }

    /// The address asked.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }
}

/// Calls `$method` of the operator API within `$limit`.
macro_rules! call {
    ($client:expr, $limit:expr, $method:ident, $request:expr) => {{
        let server = $client.server().to_owned();
        let limit = $limit;
        $crate::cli::client::Client::within(&server, limit, $client.operator.$method($request)).await
    }};
}
pub(crate) use call;

fn endpoint(global: &Global) -> Result<Endpoint, Failure> {
    let wrong = |why: String| Failure::Usage(format!("--server {}: {why}", global.server));
    let tls = global.ca.is_some() || global.cert.is_some() || global.key.is_some();
    let url = match global.server.split_once("://") {
        Some(("http", rest)) if tls => format!("https://{rest}"),
        Some(("http" | "https", _)) => global.server.clone(),
        Some((scheme, _)) => return Err(wrong(format!("{scheme}:// is not known, http:// and https:// are"))),
        None => format!("{}://{}", if tls { "https" } else { "http" }, global.server),
    };
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| wrong(root_cause(&error)))?
        .connect_timeout(global.request_timeout)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| wrong(root_cause(&error)))?;
    if !url.starts_with("https://") {
        return Ok(endpoint);
    }
    let ca = global.ca.as_deref().ok_or_else(|| {
        Failure::Usage("an https control plane needs --ca, the authority that signed its certificate".to_owned())
    })?;
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca", ca)?));
    match (&global.cert, &global.key) {
        (Some(cert), Some(key)) => {
            config = config.identity(Identity::from_pem(read("--cert", cert)?, read("--key", key)?));
        }
        (None, None) => {}
        _ => return Err(Failure::Usage("--cert and --key belong together".to_owned())),
    }
    if let Some(name) = &global.server_name {
        config = config.domain_name(name.clone());
    }
    endpoint.tls_config(config).map_err(|error| Failure::Usage(format!("the certificates: {}", root_cause(&error))))
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::Usage(format!("{flag} {}: {error}", path.display())))
}
