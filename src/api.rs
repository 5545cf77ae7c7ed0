//! The rim towards operators: the gRPC API, and plain HTTP for health and metrics.

mod apply;
mod http;
mod load;
mod objects;
mod operator;
mod proxies;
mod reflection;
mod register;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    feedback::Feedback,
    model::{Keyspace, Revision},
    pipeline::State,
    snapshot::Views,
    store::{Store, StoreError},
};

pub use http::{HttpState, router};
pub use operator::OperatorService;
pub use reflection::with_reflection;

/// What every call needs; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// How their keys are spelled.
    pub keyspace: Keyspace,
    /// The newest compiled state.
    pub state: watch::Receiver<Arc<State>>,
    /// What audiences see.
    pub views: Arc<Views>,
    /// What proxies answered.
    pub feedback: Arc<Feedback>,
    /// The name of this replica.
    pub replica: Arc<str>,
}

impl Context {
    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// Waits until this replica has read the store, and compiled its `revision`; the deadline is the caller's.
    async fn reach(&self, revision: Revision) -> Arc<State> {
        let mut state = self.state.clone();
        match state.wait_for(|s| s.loaded() && s.revision >= revision).await {
            Ok(reached) => Arc::clone(&reached),
            // The pipeline has stopped, and with it this process; the newest state is all there is.
            Err(_) => self.state(),
        }
    }
}

/// A store's refusal in gRPC's words.
fn store_status(error: &StoreError) -> tonic::Status {
    match error {
        StoreError::Unavailable(_) => tonic::Status::unavailable(format!(
            "{error}; proxies keep what they have: try again when the store is back"
        )),
        StoreError::Refused(_) => tonic::Status::invalid_argument(error.to_string()),
        StoreError::LeaseNotFound => tonic::Status::not_found(error.to_string()),
        _ => tonic::Status::failed_precondition(format!("{error}; an operator must look at the store first")),
    }
}
