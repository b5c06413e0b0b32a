use std::sync::Arc;

use tokio::runtime::Handle;

use super::Core;
#[cfg(feature = "redis-cluster")]
use super::cluster::{self, Cluster};
use super::link::Link;
use super::refusal::{Refusal, is_one_node};
use super::server::Server;
#[cfg(feature = "redis-cluster")]
use super::slots;
use super::waiter::Waiter;
use crate::identity::Identity;
use crate::store::check;

/// Who is asked.
pub(super) enum Servers {
    /// One server, by several connections; an identity always goes by the same.
    One(Vec<Arc<Link>>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Cluster),
}

#[cfg_attr(
    not(feature = "redis-cluster"),
    expect(unused_variables, reason = "there is only one place to go")
)]
impl Servers {
    /// The slot of an identity's keys; 0 where there is no cluster.
    pub(super) fn slot_of(&self, identity: &Identity) -> u16 {
        match self {
            Self::One(_) => 0,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(_) => cluster::slot_of(identity),
        }
    }

    /// The lane that an identity's checks go by.
    pub(super) fn lane(&self, identity: &Identity) -> usize {
        match self {
            Self::One(_) => 0,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.lane(cluster::slot_of(identity)),
        }
    }

    /// The name of a lane: the address of its server.
    pub(super) fn lane_name(&self, lane: usize) -> String {
        match self {
            Self::One(links) => links[0].server.name(),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.lane_name(lane),
        }
    }

    /// The next lane that anything goes by.
    pub(super) fn lane_after(&self, lane: usize) -> Option<usize> {
        match self {
            Self::One(_) => None,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.lane_after(lane),
        }
    }

    /// An identity of no request's that goes by that lane, if anything does.
    pub(super) fn identity_in(&self, lane: usize) -> Option<Identity> {
        match self {
            Self::One(_) => Some(check::probe_identity().clone()),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.identity_in(lane),
        }
    }

    /// Sends a waiter to the server that has the identity's counts.
    pub(super) fn ask(&self, core: &Arc<Core>, runtime: &Handle, waiter: Waiter) {
        match self {
            Self::One(links) => {
                let link = &links[waiter.subject.identity as usize % links.len()];
                link.ask(core, runtime, waiter);
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.ask(core, runtime, waiter),
        }
    }

    /// Sends a waiter where a server said that the counts are.
    pub(super) fn redirect(
        &self,
        core: &Arc<Core>,
        runtime: &Handle,
        waiter: Waiter,
        from: &Server,
        to: &Refusal,
    ) {
        #[cfg(feature = "redis-cluster")]
        if let (Self::Cluster(cluster), Server::Node(from), Refusal::Elsewhere { address, ask }) =
            (self, from, to)
            && let Some(address) = slots::address(address, from)
        {
            cluster.redirect(core, runtime, waiter, &address, *ask);
            return;
        }
        waiter.answer(Err(is_one_node().at(&from.name())));
    }

    /// Takes note that a server cannot be reached, or is no primary: another may have its place.
    pub(super) fn unreachable(&self, core: &Arc<Core>, runtime: &Handle) {
        #[cfg(feature = "redis-cluster")]
        if let Self::Cluster(cluster) = self {
            cluster.learn(core, runtime);
        }
    }
}
