//! The rim towards operators: the gRPC API, and plain HTTP for health and metrics.

mod apply;
mod http;
mod load;
mod objects;
mod operator;
mod peer;
mod proxies;
mod reflection;
mod register;
mod store;
#[cfg(test)]
mod tests;
mod watermarks;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{
    feedback::Feedback,
    model::{Keyspace, Revision, Watermarks},
    pipeline::State,
    replicas::Replicas,
    snapshot::Views,
    status::Judged,
    store::{Store, StoreControl, StoreError},
};

pub use http::{HttpState, router};
pub use operator::OperatorService;
pub use peer::PeerService;
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
    /// How far the sites have come, by the store.
    pub watermarks: watch::Receiver<Arc<Watermarks>>,
    /// The name of this replica.
    pub replica: Arc<str>,
    /// The other replicas.
    pub replicas: Replicas,
    /// What was found out about the newest state.
    pub judged: LastJudged,
    /// The store's feed: what an operator may tell it, and its copy on disk.
    pub control: StoreControl,
}

/// The newest state that was judged, and the judgement: most questions are about the same state as the one before.
pub type LastJudged = Arc<Mutex<Option<(Arc<State>, Arc<Judged>)>>>;

impl Context {
    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// Why what this replica says may be old; empty while it is fresh.
    fn stale(&self) -> String {
        self.state().freshness.stale().unwrap_or_default().to_owned()
    }

    /// What follows from the objects of a state alone.
    async fn judged(&self, state: &Arc<State>) -> Result<Arc<Judged>, tonic::Status> {
        let last = || self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, judged)) = &*last()
            && Arc::ptr_eq(known, state)
        {
            return Ok(Arc::clone(judged));
        }
        // It looks at every object.
        let judge = Arc::clone(state);
        let judged = tokio::task::spawn_blocking(move || Arc::new(Judged::of(&judge))).await;
        let judged = judged.map_err(|error| tonic::Status::internal(format!("the judgement failed: {error}")))?;
        *last() = Some((Arc::clone(state), Arc::clone(&judged)));
        Ok(judged)
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
        StoreError::Unavailable(_) | StoreError::Away(_) => tonic::Status::unavailable(format!(
            "{error}; nothing was written, proxies keep what they have: try again when the store is back"
        )),
        StoreError::Refused(_) => tonic::Status::invalid_argument(error.to_string()),
        StoreError::LeaseNotFound => tonic::Status::not_found(error.to_string()),
        // Its own words say what to do.
        StoreError::Full(_) | StoreError::Changed(_) => {
            tonic::Status::failed_precondition(format!("{error}; proxies keep what they have"))
        }
        _ => tonic::Status::failed_precondition(format!("{error}; an operator must look at the store first")),
    }
}
