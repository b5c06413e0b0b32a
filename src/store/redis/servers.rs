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

/// The servers of a store.
pub(super) enum Servers {
    /// One server, over one or more connections. Checks of an identity always use the same one.
    One(Vec<Arc<Link>>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Box<Cluster>),
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

    /// The lane of an identity's checks.
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

    /// The next lane in use.
    pub(super) fn lane_after(&self, lane: usize) -> Option<usize> {
        match self {
            Self::One(_) => None,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.lane_after(lane),
        }
    }

    /// A reserved identity whose checks use that lane, if the lane is in use.
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

    /// Sends a waiter to the server that another one named.
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

    /// Refreshes the map of a cluster after a node could not be reached or is not a primary.
    pub(super) fn unreachable(&self, core: &Arc<Core>, runtime: &Handle) {
        #[cfg(feature = "redis-cluster")]
        if let Self::Cluster(cluster) = self {
            cluster.learn(core, runtime);
        }
    }
}
