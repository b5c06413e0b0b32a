//! The state that all clones and tasks of a store share, and the interface to its servers.

use std::sync::Arc;
use std::time::Duration;

use redis::ConnectionAddr;
use tokio::runtime::Handle;

use super::denial_cache::DenialCache;
use super::error::Redirect;
use super::pending::PendingCheck;
use super::script::Script;
use crate::identity::Identity;
use crate::metrics::BatchMeter;
use crate::timeouts::Timeouts;

pub(super) struct Shared {
    pub(super) prefix: String,
    pub(super) max_batch_keys: usize,
    pub(super) max_queue: usize,
    pub(super) max_connection_age: Option<Duration>,
    pub(super) script: Script,
    pub(super) denials: DenialCache,
    pub(super) meter: BatchMeter,
    /// The timeouts of replies.
    pub(super) timeouts: Timeouts,
    pub(super) topology: Box<dyn Topology>,
}

/// The servers of a store, and which of them has which identity's state.
pub(super) trait Topology: Send + Sync {
    /// The hash slot of an identity's keys; 0 outside of a cluster.
    fn slot(&self, identity: &Identity) -> u16;

    /// The lane of an identity's checks.
    fn lane(&self, identity: &Identity) -> usize;

    /// The address of the lane's server.
    fn lane_name(&self, lane: usize) -> String;

    /// The next lane in use.
    fn lane_after(&self, lane: usize) -> Option<usize>;

    /// A reserved identity whose checks use this lane, if the lane is in use.
    fn probe_identity(&self, lane: usize) -> Option<Identity>;

    /// Sends a check to the server that has the identity's state.
    fn submit(&self, shared: &Arc<Shared>, runtime: &Handle, check: PendingCheck);

    /// Sends a check again after the server at `from` has redirected it.
    fn redirect(
        &self,
        shared: &Arc<Shared>,
        runtime: &Handle,
        check: PendingCheck,
        from: &ConnectionAddr,
        redirect: &Redirect,
    );

    /// Refreshes the map of a cluster, after a server was unreachable, busy, or a replica.
    fn refresh(&self, shared: &Arc<Shared>, runtime: &Handle);
}
