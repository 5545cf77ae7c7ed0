//! What every replica says of its sites, kept by a subscription to each other one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::{AbortHandle, JoinSet};

use crate::{
    replicas::{Member, OwnSites, Replicas, SiteReports},
    status::Edition,
};

/// Before a replica that broke off is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// The newest report of each other replica; none: nothing is known of it.
type Heard = Arc<Mutex<BTreeMap<Arc<str>, Option<SiteReports>>>>;

/// The subscriptions; they end when this is dropped.
pub(super) struct Reports {
    replicas: Replicas,
    heard: Heard,
    tasks: JoinSet<()>,
    asked: BTreeMap<Arc<str>, (Member, AbortHandle)>,
    own: OwnSites,
}

impl Reports {
    pub(super) fn new(replicas: Replicas) -> Self {
        let (heard, tasks, asked) = (Heard::default(), JoinSet::new(), BTreeMap::new());
        Self { replicas, heard, tasks, asked, own: OwnSites::default() }
    }

    /// What all replicas say; none while one of them has said nothing, or while they are not known.
    pub(super) fn all(&mut self, edition: Edition, own: impl FnOnce() -> SiteReports) -> Option<Vec<SiteReports>> {
        self.subscribe()?;
        let mut all = vec![self.own.reports(edition, own).clone()];
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for report in heard.values() {
            all.push(report.clone()?);
        }
        Some(all)
    }

    /// Asks whoever is new, and forgets whoever is gone.
    fn subscribe(&mut self) -> Option<()> {
        while self.tasks.try_join_next().is_some() {}
        let others: BTreeMap<Arc<str>, Member> = self.replicas.others()?.into_iter().collect();
        self.asked.retain(|name, (member, task)| {
            let stays = others.get(name) == Some(member);
            if !stays {
                task.abort();
                self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
            }
            stays
        });
        for (name, member) in others {
            if self.asked.contains_key(&name) {
                continue;
            }
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&name), None);
            let listen = listen(self.replicas.clone(), Arc::clone(&name), member.clone(), Arc::clone(&self.heard));
            self.asked.insert(name, (member, self.tasks.spawn(listen)));
        }
        Some(())
    }
}

async fn listen(replicas: Replicas, name: Arc<str>, member: Member, heard: Heard) {
    let hear = |report: Option<SiteReports>| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        // A task that is being aborted must not bring back whom the owner has forgotten.
        if let Some(known) = heard.get_mut(&name) {
            *known = report;
        }
    };
    loop {
        if let Err(reason) = replicas.follow_reports(&member, |report| hear(Some(report))).await {
            tracing::debug!(replica = %name, reason, "no watermarks from it");
        }
        hear(None);
        tokio::time::sleep(AGAIN).await;
    }
}
