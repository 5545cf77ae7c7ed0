//! Replicas are equal: over random histories in a real store, one that followed all of it serves byte for byte what one
//! serves that lists at the end: after a bad put, or between a raw deletion and the leader's word.

use std::time::Duration;

use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use tokio::{task::JoinSet, time::timeout};

use super::{
    engine::tests::{Held, audiences, take},
    *,
};
use crate::{
    catalog::testing::{
        edits::{Edit, histories},
        empty,
    },
    model::Keyspace,
    store::{self, Op, Store, Transaction, TxnOutcome},
};

/// How long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(20);
/// How many histories, one after the other in one store, and how long each is.
const HISTORIES: usize = 6;
const EDITS: usize = 40;

/// A replica that follows the store.
struct Replica {
    catalog: Catalog,
    engine: Engine,
    held: BTreeMap<Audience, Held>,
    revision: Revision,
    feed: mpsc::Receiver<Feed>,
}

impl Replica {
    /// Takes in all up to a revision.
    async fn reach(&mut self, revision: Revision) {
        while self.revision < revision {
            let feed = timeout(LIMIT, self.feed.recv()).await.expect("the store's changes arrive").unwrap();
            let (at, changed) = match feed {
                Feed::Reset(listing) => (listing.revision, self.catalog.reset(&listing)),
                Feed::Batch(batch) => (batch.revision, self.catalog.apply(&batch.changes)),
                Feed::Progress(at) => (at, Changed::default()),
                other => panic!("{other:?}"),
            };
            self.revision = at;
            let changed = changed.configuration.into_iter().chain(changed.runtime).collect();
            let (configuration, runtime) = (self.catalog.configuration(), self.catalog.runtime());
            for (audience, delta) in self.engine.update(configuration, runtime, &changed, &[]) {
                take(self.held.entry(audience).or_default(), &delta);
            }
        }
    }

    async fn write(&mut self, store: &dyn Store, edit: Edit) {
        let writes = edit.writes(&self.catalog);
        let op = |(key, value)| match value {
            Some(value) => Op::Put { key, value, lease: None },
            None => Op::Delete { key },
        };
        let txn = Transaction { compares: Vec::new(), ops: writes.into_iter().map(op).collect() };
        let Ok(TxnOutcome::Committed(revision)) = store.txn(txn).await else { panic!("it is written") };
        self.reach(revision).await;
    }
}

/// The claim, for any store.
pub(crate) async fn who_followed_serves_what_one_serves_who_lists_at_the_end(store: Arc<dyn Store>) {
    let prefix = Keyspace::default().watched();
    let (feed_in, feed) = mpsc::channel(16);
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(store::follow(Arc::clone(&store), prefix.clone(), cancel.clone(), feed_in));
    let (catalog, engine) = (empty(), Engine::default());
    let mut replica = Replica { catalog, engine, held: BTreeMap::new(), revision: Revision(0), feed };
    let none = (Configuration::default(), Runtime::default());
    replica.engine.update(&none.0, &none.1, &BTreeSet::new(), &audiences());
    let mut runner = TestRunner::default();
    for _ in 0..HISTORIES {
        let history = vec(histories(), EDITS).new_tree(&mut runner).unwrap().current();
        for edit in history.clone() {
            replica.write(&*store, edit).await;
        }
        let mut catalog = empty();
        catalog.reset(&store.list(&prefix).await.unwrap());
        assert_eq!(replica.catalog.configuration(), catalog.configuration(), "after {history:?}");
        assert_eq!(replica.catalog.unagreed(), catalog.unagreed(), "after {history:?}");
        let (configuration, runtime) = (catalog.configuration(), catalog.runtime());
        let serves = Engine::default().update(configuration, runtime, &BTreeSet::new(), &audiences());
        for (audience, delta) in serves {
            let mut fresh = Held::new();
            take(&mut fresh, &delta);
            let followed = replica.held.get(&audience).cloned().unwrap_or_default();
            assert_eq!(followed, fresh, "{audience:?} after {history:?}");
        }
    }
    assert!(replica.held.values().any(|held| !held.is_empty()), "something was served");
    cancel.cancel();
}
