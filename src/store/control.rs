//! How the rest of the process sees the feed: what an operator may tell it, and how the last-known-good copy stands.

use std::time::{Duration, SystemTime};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{StoreError, StoreId};
use crate::model::Revision;

/// How long an operator waits for an answer; a listing of many pages is in it.
const DEADLINE: Duration = Duration::from_secs(30);

/// A store that has been taken on an operator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Which one.
    pub store: StoreId,
    /// Its revision.
    pub revision: Revision,
}

/// Why an operator was not told that a store has been taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// It has not been, and will not be.
    #[error(transparent)]
    Nothing(StoreError),
    /// It may have been: no answer came.
    #[error("{0}; it is not known whether the store was accepted: look whether the replica is still frozen")]
    Unknown(String),
}

/// "The store that answers now is the right one", and where the answer goes. Nothing is taken on the word of somebody
/// who has left.
pub(super) type Order = oneshot::Sender<Result<Accepted, StoreError>>;

/// How the last-known-good copy stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyStatus {
    /// The newest copy on disk that is known to be whole.
    pub newest: Option<CopyMade>,
    /// Why others were not used at the start: each with its path.
    pub refused: Vec<String>,
    /// How often one could not be written.
    pub failures: u64,
    /// Why the last attempt failed, if it did.
    pub trouble: Option<String>,
}

/// A copy on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyMade {
    /// The store's revision in it.
    pub revision: Revision,
    /// When it was written, by this host's clock.
    pub written: SystemTime,
}

/// The handle of a feed that can freeze and that keeps copies; the default is that of one which does neither.
#[derive(Clone, Debug, Default)]
pub struct StoreControl {
    line: Option<(mpsc::Sender<Order>, watch::Receiver<CopyStatus>)>,
}

impl StoreControl {
    /// A handle, and the end at which orders arrive.
    pub(super) fn new(copies: watch::Receiver<CopyStatus>) -> (Self, mpsc::Receiver<Order>) {
        let (orders, taken) = mpsc::channel(1);
        (Self { line: Some((orders, copies)) }, taken)
    }

    /// Takes the store that answers now for the true one, whatever it holds, after the feed has frozen.
    ///
    /// # Errors
    /// [`NotAccepted::Nothing`] with [`StoreError::Refused`] when nothing is frozen, with [`StoreError::Unavailable`]
    /// when no store answers; [`NotAccepted::Unknown`] when the feed does not say in time.
    pub async fn accept(&self) -> Result<Accepted, NotAccepted> {
        let nothing = |error| Err(NotAccepted::Nothing(error));
        let Some((orders, _)) = &self.line else {
            return nothing(StoreError::Refused(
                "this store cannot be exchanged; there is nothing to accept".to_owned(),
            ));
        };
        let (answer, answered) = oneshot::channel();
        let told = async {
            orders.send(answer).await.ok()?;
            Some(answered.await)
        };
        match timeout(DEADLINE, told).await {
            Ok(Some(Ok(answer))) => answer.map_err(NotAccepted::Nothing),
            Ok(Some(Err(_))) => Err(NotAccepted::Unknown("this replica is stopping".to_owned())),
            Ok(None) => nothing(StoreError::Unavailable("this replica is stopping".to_owned())),
            Err(_) => Err(NotAccepted::Unknown(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }

    /// How the copy on disk stands; `None` where none is kept.
    pub fn copy(&self) -> Option<CopyStatus> {
        self.line.as_ref().map(|(_, copies)| copies.borrow().clone())
    }
}
