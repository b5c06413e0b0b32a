use std::sync::Arc;

use redis::ConnectionAddr;
use tokio::runtime::Handle;

use super::error::{Redirect, redirected_by_single_server};
use super::pending::PendingCheck;
use super::server_queue::ServerQueue;
use super::shared::{Shared, Topology};
use super::worker;
use crate::identity::Identity;
use crate::store::check;

/// One server, over one or more connections. All checks of an identity, and of the identities
/// within it, use the same connection.
pub(super) struct SingleServer {
    pub(super) queues: Vec<Arc<ServerQueue>>,
}

impl Topology for SingleServer {
    fn slot(&self, _: &Identity) -> u16 {
        0
    }

    fn lane(&self, _: &Identity) -> usize {
        0
    }

    fn lane_name(&self, _: usize) -> String {
        self.queues[0].server.name()
    }

    fn lane_after(&self, _: usize) -> Option<usize> {
        None
    }

    fn probe_identity(&self, _: usize) -> Option<Identity> {
        Some(check::probe_identity().clone())
    }

    fn submit(&self, shared: &Arc<Shared>, runtime: &Handle, check: PendingCheck) {
        let queue = &self.queues[check.fingerprint.root as usize % self.queues.len()];
        worker::submit(queue, shared, runtime, check);
    }

    fn redirect(
        &self,
        _: &Arc<Shared>,
        _: &Handle,
        check: PendingCheck,
        _: &ConnectionAddr,
        _: &Redirect,
    ) {
        let error = redirected_by_single_server().at(&self.lane_name(0));
        check.answer(Err(error));
    }

    fn refresh(&self, _: &Arc<Shared>, _: &Handle) {}
}
