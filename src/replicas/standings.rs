//! How far objects have come over all replicas: one question to each, one answer, or the unreachable ones by name.

use std::sync::Arc;

use super::{Replicas, reason, words};
use crate::{
    model::{ObjectRef, Revision},
    rpc,
    status::{self, Gaps, Standing},
};

/// What one replica answers for its own proxies.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each object, in order.
    pub standings: Vec<Standing>,
    /// What it has compiled and published.
    pub revision: Revision,
    /// Why that may be old; empty while it is fresh.
    pub stale: String,
}

/// What all that answered say together.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    /// One for each object, in order.
    pub standings: Vec<Standing>,
    /// The replica that has come least far, and the revision that it has published.
    pub slowest: (Arc<str>, Revision),
    /// `<replica>: <why>`, joined; empty while all are fresh.
    pub stale: String,
    /// Who did not answer, and why.
    pub unreachable: Vec<(Arc<str>, String)>,
}

impl Standings {
    /// `<replica>: <why>` for each that did not answer.
    pub fn unreachable(&self) -> Vec<String> {
        self.unreachable.iter().map(|(name, why)| format!("{name}: {why}")).collect()
    }

    /// What is not known of an object that was last written at `revision`.
    pub fn gaps(&self, revision: Revision) -> Gaps {
        let (slowest, compiled) = &self.slowest;
        let behind = if *compiled < revision { not_compiled(slowest, revision) } else { String::new() };
        let unreachable = self.unreachable.iter().map(|(name, _)| name.to_string()).collect();
        Gaps { unreachable, stale: self.stale.clone(), behind }
    }
}

/// `<replica>: <why>` for each that is stale, joined.
pub fn stale<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let words: Vec<String> =
        all.filter(|(_, why)| !why.is_empty()).map(|(name, why)| format!("{name}: {why}")).collect();
    words.join("; ")
}

/// That a replica is behind, in words.
pub fn not_compiled(replica: &str, revision: Revision) -> String {
    format!("replica {replica} has not compiled revision {revision} yet")
}

impl Replicas {
    /// Asks all other replicas, and adds what this one says itself.
    pub async fn standings(&self, objects: &[ObjectRef], own: Report) -> Standings {
        let request = rpc::StandingsRequest { objects: objects.iter().map(words::object).collect() };
        let answers = self.ask(|mut client| {
            let request = request.clone();
            async move { client.standings(request).await }
        });
        let mut reports = vec![(Arc::clone(self.name()), own)];
        let mut unreachable = Vec::new();
        for (name, answer) in answers.await {
            match answer {
                Ok(answer) if answer.standings.len() == objects.len() => {
                    let standings = answer.standings.into_iter().map(words::standing_from).collect();
                    let report = Report { standings, revision: Revision(answer.revision), stale: answer.stale };
                    reports.push((name, report));
                }
                Ok(_) => unreachable.push((name, "it answered something else than it was asked".to_owned())),
                Err(status) => unreachable.push((name, reason(&status))),
            }
        }
        merge(objects.len(), &reports, unreachable)
    }
}

pub(super) fn merge(count: usize, reports: &[(Arc<str>, Report)], unreachable: Vec<(Arc<str>, String)>) -> Standings {
    let of = |at: usize| status::sum(reports.iter().filter_map(|(_, report)| report.standings.get(at).cloned()));
    let slowest = reports.iter().min_by_key(|(_, report)| report.revision);
    Standings {
        standings: (0..count).map(of).collect(),
        slowest: slowest.map(|(name, report)| (Arc::clone(name), report.revision)).unwrap_or_default(),
        stale: stale(reports.iter().map(|(name, report)| (&**name, report.stale.as_str()))),
        unreachable,
    }
}
