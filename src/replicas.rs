//! The replicas of the fleet: who they are, which one leads, and how they are asked.
//!
//! Every replica stands in the store under a leased key, `observed/v1/replicas/<name>`, and follows the keys of the
//! others. The one that made the key `observed/v1/leader` under the same lease leads. Whatever it writes as the leader
//! carries [`Fence::compare`], so that a leader which was paused past its lease writes nothing when it wakes up.

mod departed;
mod membership;
mod own;
mod peers;
mod registrar;
mod standings;
#[cfg(test)]
mod tests;
mod tls;
mod words;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, metadata::MetadataMap};

pub use own::OwnSites;
pub use peers::PeerCalls;
pub use standings::{Report, Standings, not_compiled, stale};
pub use tls::{PeerTls, TrustDomain};
pub use words::{SiteReports, laggard, site_reports, standing};

use self::{departed::Departed, peers::Peers, registrar::Registrar};
use crate::{
    model::{Keyspace, Revision},
    rpc::WatermarksRequest,
    store::{Compare, Store},
};

/// How long one question to another replica may take.
pub const ASK: Duration = Duration::from_secs(2);

/// Another replica, or this one, as its registration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `host:port` of its API; empty when it advertises none.
    pub api: String,
    /// Its version of Tidegate.
    pub version: String,
    /// Tells a process from another one of the same name.
    instance: String,
}

/// All registered replicas by name.
pub type Members = BTreeMap<Arc<str>, Member>;

/// What proves that a replica leads: the leader key as this replica made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The leader key.
    pub key: String,
    /// When this replica made it. A later leader makes it anew.
    pub create_revision: Revision,
}

impl Fence {
    /// The condition of every write of the leader.
    pub fn compare(&self) -> Compare {
        Compare::CreateRevision(self.key.clone(), self.create_revision)
    }
}

/// What a replica says of itself.
#[derive(Clone)]
pub struct Settings {
    /// Its name, unique in the fleet.
    pub name: Arc<str>,
    /// Where others reach its API; empty: nowhere.
    pub advertise: String,
    /// Why others are likely not to reach it there, for its operator.
    pub caution: Option<String>,
    /// How long its registration outlives its last renewal.
    pub ttl: Duration,
    /// How it proves itself to others, and they to it; none: plain connections, for loopback.
    pub tls: Option<PeerTls>,
}

/// A replica's sight of the fleet; cheap to clone.
#[derive(Clone)]
pub struct Replicas {
    name: Arc<str>,
    instance: Arc<str>,
    advertise: Arc<str>,
    caution: Option<Arc<str>>,
    members: watch::Receiver<Option<Arc<Members>>>,
    leadership: watch::Receiver<Option<Fence>>,
    complaint: watch::Receiver<Option<String>>,
    peers: Arc<Peers>,
    departed: Arc<Departed>,
}

impl Replicas {
    /// This replica's sight, and the task that keeps its registration, stands for election and follows the others until
    /// `cancel`; then it gives the registration up.
    pub fn join(
        settings: Settings,
        store: Arc<dyn Store>,
        keyspace: &Keyspace,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (members_in, members) = watch::channel(None);
        let (leadership_in, leadership) = watch::channel(None);
        let (complaint_in, complaint) = watch::channel(None);
        if let Some(caution) = &settings.caution {
            tracing::warn!("{caution}");
        }
        let instance: Arc<str> = format!("{:016x}", fastrand::u64(..)).into();
        let (name, advertise) = (Arc::clone(&settings.name), settings.advertise.as_str().into());
        let (peers, departed) = (Arc::new(Peers::new(settings.tls.clone())), Arc::<Departed>::default());
        let replicas = Self {
            name,
            instance: Arc::clone(&instance),
            advertise,
            caution: settings.caution.as_deref().map(Into::into),
            members,
            leadership,
            complaint,
            peers: Arc::clone(&peers),
            departed: Arc::clone(&departed),
        };
        let told = registrar::Told {
            members: members_in,
            leadership: leadership_in,
            complaint: complaint_in,
            peers,
            departed,
        };
        let registrar = Registrar::new(&settings, &instance, store, keyspace, told);
        (replicas, registrar.run(cancel))
    }

    /// The name of this replica.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// All registered replicas, as last known; this one is among them once it is registered. None before the first
    /// listing.
    pub fn members(&self) -> watch::Receiver<Option<Arc<Members>>> {
        self.members.clone()
    }

    /// The fence while this replica leads.
    pub fn leadership(&self) -> watch::Receiver<Option<Fence>> {
        self.leadership.clone()
    }

    /// Whether the others can find this replica, as far as it knows.
    pub fn registered(&self) -> bool {
        let own = |members: &Arc<Members>| members.get(&self.name).is_some_and(|own| *own.instance == *self.instance);
        self.complaint.borrow().is_none() && self.members.borrow().as_ref().is_some_and(own)
    }

    /// Why other replicas are likely not to reach this one, for its operator.
    pub fn caution(&self) -> Option<&str> {
        self.caution.as_deref()
    }

    /// Why this replica is not registered, for its operator.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.borrow().clone()
    }

    /// The replicas that have to be asked about what this one does not know: all but itself, and those whose registration
    /// ended while they may still have proxies. None while nobody knows whom that would be.
    pub fn others(&self) -> Option<Vec<(Arc<str>, Member)>> {
        let members = self.members.borrow().clone()?;
        let own = |name: &Arc<str>, member: &Member| {
            // Another process of the same name has proxies of its own; an earlier life of this one has none.
            *name == self.name && (member.instance == *self.instance || member.api == *self.advertise)
        };
        let registered = members.iter().map(|(name, member)| (Arc::clone(name), member.clone()));
        let others = self.departed.missed(&members).into_iter().chain(registered);
        Some(others.filter(|(name, member)| !own(name, member)).collect())
    }

    /// A connection to another replica, made when it is first used and kept while the replica is registered.
    ///
    /// # Errors
    /// In words: it advertises no address, or none that can be used.
    pub fn client(&self, member: &Member) -> Result<PeerCalls, String> {
        self.peers.client(member)
    }

    /// Whether this process is the one that another replica wants to ask.
    ///
    /// # Errors
    /// In words, for the operator of the one that was to be asked.
    pub fn meant(&self, question: &MetadataMap) -> Result<(), String> {
        if peers::meant(question, &self.instance) {
            return Ok(());
        }
        Err(format!(
            "another process answers at its address, one of replica {}: correct --advertise of the one that was asked, \
             unless it has just been restarted",
            self.name
        ))
    }

    /// What another replica says of its proxies, at first and whenever that differs, until it breaks off.
    ///
    /// # Errors
    /// Why it broke off.
    pub async fn follow_reports(&self, member: &Member, told: impl Fn(SiteReports)) -> Result<(), String> {
        let mut client = self.client(member)?;
        let asked = tokio::time::timeout(ASK, client.watermarks(WatermarksRequest {})).await;
        let answer = asked.map_err(|_| format!("it did not answer within {ASK:?}"))?;
        let answer = answer.inspect_err(|status| _ = self.departed.dismiss(member, status));
        let mut reports = answer.map_err(|status| reason(&status))?.into_inner();
        // It may well have nothing to say for hours; that it is gone is found by the connection's own checks.
        while let Some(report) = reports.message().await.map_err(|status| reason(&status))? {
            told(words::site_reports_from(report.sites));
        }
        Err("it ended the stream".to_owned())
    }

    /// Puts one question to all other replicas at once; each answers, or it is said why not, within [`ASK`]. While they
    /// are not known one entry stands for them all.
    pub async fn ask<T, F>(&self, question: impl Fn(PeerCalls) -> F) -> Vec<(Arc<str>, Result<T, Status>)>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let Some(others) = self.others() else {
            let unknown = Status::unavailable("they are not known yet: the store has not told who is registered");
            return vec![("the other replicas".into(), Err(unknown))];
        };
        let asked = others.into_iter().map(|(name, member)| {
            let asked = self.client(&member).map(&question);
            async move {
                let answer = match asked {
                    Err(why) => Err(Status::unavailable(why)),
                    Ok(call) => match tokio::time::timeout(ASK, call).await {
                        Ok(answer) => answer.map(Response::into_inner),
                        Err(_) => Err(Status::deadline_exceeded(format!("it did not answer within {ASK:?}"))),
                    },
                };
                let gone = answer.as_ref().is_err_and(|status| self.departed.dismiss(&member, status));
                (!gone).then_some((name, answer))
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }
}

/// Why a replica did not answer, as one line: gRPC's message and what lies beneath it.
pub fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        source = error.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}
