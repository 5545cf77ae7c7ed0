//! The one order about the store itself: go on with the one that answers now.

use tonic::Status;

use super::{Context, store_status};
use crate::{
    rpc::AcceptStoreResponse,
    store::{Accepted, NotAccepted, StoreError},
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
            tracing::warn!(who, replica, %error, "audit: an operator's acceptance of a store was not confirmed");
            Err(refused(replica, &error))
        }
    }
}

fn refused(replica: &str, error: &NotAccepted) -> Status {
    match error {
        NotAccepted::Unknown(_) => Status::deadline_exceeded(format!("{replica}: {error}")),
        NotAccepted::Nothing(StoreError::Refused(why)) => Status::failed_precondition(format!("{replica}: {why}")),
        NotAccepted::Nothing(StoreError::Unavailable(why)) => Status::unavailable(format!(
            "{replica}: the store cannot be reached: {why}; nothing was accepted: repeat the command when the right \
             store answers"
        )),
        NotAccepted::Nothing(other) => store_status(other),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn nobody_is_told_that_nothing_was_accepted_when_that_is_not_known() {
        let told = |error| {
            let status = refused("cp1", &error);
            (status.code(), status.message().contains("nothing was accepted"), status.message().contains("not known"))
        };
        assert_eq!(told(NotAccepted::Unknown("no answer".into())), (Code::DeadlineExceeded, false, true));
        let away = NotAccepted::Nothing(StoreError::Unavailable("away".into()));
        assert_eq!(told(away), (Code::Unavailable, true, false));
    }
}
