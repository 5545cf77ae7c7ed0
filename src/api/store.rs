//! The one order about the store itself: go on with the one that answers now.

use tonic::Status;

use super::{Context, store_status};
use crate::{
    rpc::AcceptStoreResponse,
    store::{Accepted, StoreError},
};

/// Ends a hold. The audit is the log of this replica: the store is what is in question.
pub(super) async fn accept(context: &Context, who: &str) -> Result<AcceptStoreResponse, Status> {
    let replica = &*context.replica;
    match context.control.accept().await {
        Ok(Accepted { store, revision }) => {
            tracing::warn!(who, replica, %store, %revision, "audit: an operator accepted the store that answers now");
            Ok(AcceptStoreResponse { replica: replica.to_owned(), store: store.to_string(), revision: revision.0 })
        }
        Err(error) => {
            tracing::warn!(who, replica, %error, "audit: an operator's acceptance of a store came to nothing");
            Err(match error {
                StoreError::Refused(why) => Status::failed_precondition(format!("{replica}: {why}")),
                StoreError::Unavailable(why) => Status::unavailable(format!(
                    "{replica}: the store cannot be reached: {why}; nothing was accepted: repeat the command when the \
                     right store answers"
                )),
                other => store_status(&other),
            })
        }
    }
}
