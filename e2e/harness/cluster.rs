//! Several members of one etcd, which choose a leader among themselves.

use std::time::Duration;

use super::etcd::peer_url;
use super::{Addresses, Etcd, wait_for};

/// A new leader is there after this, however busy the machine is.
const ELECTION_LIMIT: Duration = Duration::from_secs(30);

/// A cluster of etcd.
pub(crate) struct Cluster {
    members: Vec<Etcd>,
    _addresses: Addresses,
}

impl Cluster {
    /// Starts so many members and waits until all are healthy.
    pub(crate) fn start(count: usize) -> Self {
        let addresses = Addresses::next();
        let ips: Vec<_> = (0..count).map(|_| addresses.take()).collect();
        let names: Vec<_> = (0..count).map(|number| format!("member{number}")).collect();
        let all: Vec<_> = names.iter().zip(&ips).map(|(name, ip)| format!("{name}={}", peer_url(*ip))).collect();
        let members = names.iter().zip(&ips).map(|(name, ip)| Etcd::member(name, *ip, all.join(","))).collect();
        let mut cluster = Self { members, _addresses: addresses };
        cluster.members.iter_mut().for_each(Etcd::start_unready);
        cluster.members.iter_mut().for_each(Etcd::wait_healthy);
        cluster
    }

    /// What `--store` takes: `etcd:URL,URL,…`.
    pub(crate) fn store(&self) -> String {
        let urls: Vec<_> = self.members.iter().map(Etcd::url).collect();
        format!("etcd:{}", urls.join(","))
    }

    /// The member that leads; waits until one does.
    pub(crate) fn leader(&self) -> usize {
        wait_for("a member of etcd leads", ELECTION_LIMIT, || {
            let leads = |member: &Etcd| {
                let status = member.status().unwrap_or_default();
                status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
            };
            self.members.iter().position(leads).ok_or("none does")
        })
    }

    /// A member, by its number.
    pub(crate) fn member(&mut self, number: usize) -> &mut Etcd {
        &mut self.members[number]
    }
}
