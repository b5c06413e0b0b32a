//! Redis Cluster: sends each check to the owner of its hash slot, follows redirects, and refreshes the
//! map of hash slots.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crc::{CRC_16_XMODEM, Crc};
use redis::ConnectionAddr;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::backoff::Backoff;
use super::check_queue::CheckQueue;
use super::cluster_map::ClusterMap;
use super::cluster_slots::{SLOTS, SlotRange, parse_address, query_slots, slot_count};
use super::endpoint::{CONNECT_TIMEOUT, Endpoint};
use super::error::{Redirect, unavailable};
use super::pending::PendingCheck;
use super::shared::{Shared, Topology};
use super::worker;
use crate::identity::Identity;
use crate::random;
use crate::store::check::PROBE;
use crate::store::{StoreError, StoreErrorKind};

/// The number of nodes that are queried for the map concurrently.
const CONCURRENT_QUERIES: usize = 3;

/// The timeout for other replies after a complete map, unless twice the time until that map is longer.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_millis(50);

/// The minimum time between two refreshes.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(50);

/// The hash slot of an identity's keys, whose hash tag is the outermost level.
fn hash_slot(identity: &Identity) -> u16 {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    CRC.checksum(identity.root().to_string().as_bytes()) % SLOTS
}

pub(super) struct Cluster {
    /// The configured nodes.
    seeds: Vec<Endpoint>,
    map: RwLock<ClusterMap>,
    refresh_state: Mutex<RefreshState>,
}

/// The state of the refresh, and the checks that wait for it.
#[derive(Default)]
struct RefreshState {
    /// Checks whose hash slot has no known owner.
    checks: CheckQueue,
    is_running: bool,
    finished_at: Option<Instant>,
    /// Why the last refresh failed.
    error: Option<StoreError>,
    backoff: Backoff,
}

impl Topology for Arc<Cluster> {
    fn slot(&self, identity: &Identity) -> u16 {
        hash_slot(identity)
    }

    fn lane(&self, identity: &Identity) -> usize {
        self.map().lane(hash_slot(identity))
    }

    fn lane_name(&self, lane: usize) -> String {
        let map = self.map();
        match map.nodes().find(|node| node.lane == lane) {
            Some(node) => node.endpoint.address.to_string(),
            None => "cluster".into(),
        }
    }

    fn lane_after(&self, lane: usize) -> Option<usize> {
        self.map().lane_after(lane)
    }

    fn probe_identity(&self, lane: usize) -> Option<Identity> {
        // Copied, so as not to hold the lock for the search, which takes milliseconds for a single slot.
        let is_in_lane: Vec<bool> = {
            let map = self.map();
            (0..SLOTS).map(|slot| map.lane(slot) == lane).collect()
        };
        if !is_in_lane.contains(&true) {
            return None;
        }
        let numbered = |number| Identity::new(&PROBE, &format!("probe-{number}"));
        let mut identities = (0..1_000_000).map(numbered);
        identities.find(|identity| is_in_lane[usize::from(hash_slot(identity))])
    }

    fn submit(&self, shared: &Arc<Shared>, runtime: &Handle, mut check: PendingCheck) {
        check.asking = false;
        let queue = {
            let map = self.map();
            map.owner(check.slot).map(|node| node.queue.clone())
        };
        match queue {
            Some(queue) => worker::submit(&queue, shared, runtime, check),
            None => self.submit_after_refresh(shared, runtime, check),
        }
    }

    fn redirect(
        &self,
        shared: &Arc<Shared>,
        runtime: &Handle,
        mut check: PendingCheck,
        from: &ConnectionAddr,
        redirect: &Redirect,
    ) {
        let from = Endpoint {
            address: from.clone(),
            ..self.seeds[0].clone()
        };
        let Some(target) = parse_address(&redirect.address, &from) else {
            let error = format!("redirected to an invalid address: `{}`", redirect.address);
            let error = StoreError::new(StoreErrorKind::Rejected, error);
            check.answer(Err(error.at(&from.address)));
            return;
        };
        let queue = {
            let mut map = self.map_mut();
            let node = map.redirect_target(&target);
            let queue = node.queue.clone();
            if !redirect.is_ask {
                map.set_owner(check.slot, node);
            }
            queue
        };
        if !redirect.is_ask {
            self.refresh(shared, runtime);
        }
        check.asking = redirect.is_ask;
        worker::submit(&queue, shared, runtime, check);
    }

    fn refresh(&self, shared: &Arc<Shared>, runtime: &Handle) {
        let refresh = self.refresh_state();
        let is_recent = |finished_at: Instant| finished_at.elapsed() < MIN_REFRESH_INTERVAL;
        if !refresh.backoff.is_active() && !refresh.finished_at.is_some_and(is_recent) {
            self.start_refresh(shared, runtime, refresh);
        }
    }
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Endpoint>) -> Self {
        Self {
            seeds,
            map: RwLock::new(ClusterMap::new()),
            refresh_state: Mutex::default(),
        }
    }

    fn map(&self) -> RwLockReadGuard<'_, ClusterMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, ClusterMap> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh_state(&self) -> MutexGuard<'_, RefreshState> {
        self.refresh_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a check until the map is refreshed. Fails it if the queue is full, or if the last refresh
    /// failed and the back-off is active.
    fn submit_after_refresh(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        runtime: &Handle,
        check: PendingCheck,
    ) {
        let mut refresh = self.refresh_state();
        let must_wait = refresh.backoff.is_active() && !refresh.is_running && !check.is_probe;
        let recent_error = refresh.error.clone().filter(|_| must_wait);
        let (check, error) = match recent_error {
            Some(error) => (check, error),
            None => match refresh.checks.push(check, shared.max_queue) {
                Ok(()) => {
                    self.start_refresh(shared, runtime, refresh);
                    return;
                }
                Err(check) => (check, StoreErrorKind::Overloaded.into()),
            },
        };
        drop(refresh);
        check.answer(Err(error));
    }

    /// Spawns the refresh, unless it is running.
    fn start_refresh(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        runtime: &Handle,
        mut refresh: MutexGuard<'_, RefreshState>,
    ) {
        if !mem::replace(&mut refresh.is_running, true) {
            drop(refresh);
            let task = RefreshTask {
                cluster: self.clone(),
                shared: shared.clone(),
                runtime: runtime.clone(),
                result: Err(unavailable("the Tokio runtime has shut down")),
            };
            runtime.spawn(task.run());
        }
    }

    /// Returns the seeds and all known nodes, in random order.
    fn nodes_to_query(&self) -> Vec<Endpoint> {
        let mut endpoints = self.seeds.clone();
        let nodes: Vec<_> = self.map().nodes().cloned().collect();
        for node in nodes {
            let is_same = |known: &Endpoint| known.address == node.endpoint.address;
            if !endpoints.iter().any(is_same) {
                endpoints.push(node.endpoint.clone());
            }
        }
        endpoints.sort_by_cached_key(|_| random::number());
        endpoints
    }

    /// Queries several nodes concurrently and installs the map with the most slots; of maps with equally
    /// many, the one that most nodes sent.
    async fn refresh_map(&self) -> Result<(), StoreError> {
        let started_at = Instant::now();
        let mut nodes = self.nodes_to_query().into_iter();
        let mut queries = JoinSet::new();
        let mut query_next = |queries: &mut JoinSet<_>| {
            if let Some(node) = nodes.next() {
                queries.spawn(async move { query_slots(&node).await });
            }
        };
        for _ in 0..CONCURRENT_QUERIES {
            query_next(&mut queries);
        }
        let mut failure = unavailable("no node of the cluster could be reached");
        // The maps, and the number of nodes that sent each.
        let mut maps: Vec<(Vec<SlotRange>, usize)> = Vec::new();
        // Long, since each query has a timeout of its own.
        let mut deadline = started_at + 60 * CONNECT_TIMEOUT;
        while let Ok(Some(reply)) = timeout_at(deadline, queries.join_next()).await {
            let ranges = match reply {
                Ok(Ok(ranges)) => ranges,
                Ok(Err(error)) => {
                    // An error reply tells more than a node that cannot be reached.
                    if failure.kind() != StoreErrorKind::Rejected {
                        failure = error;
                    }
                    query_next(&mut queries);
                    continue;
                }
                Err(_) => continue,
            };
            let is_complete = slot_count(&ranges) == usize::from(SLOTS);
            match maps.iter_mut().find(|(known, _)| *known == ranges) {
                Some((_, senders)) => *senders += 1,
                None => maps.push((ranges, 1)),
            }
            let replies: usize = maps.iter().map(|(_, senders)| senders).sum();
            let is_confirmed = is_complete && maps.iter().any(|(_, senders)| *senders > 1);
            if is_confirmed || replies >= CONCURRENT_QUERIES {
                break;
            }
            match is_complete {
                true => {
                    let timeout = CONFIRMATION_TIMEOUT.max(2 * started_at.elapsed());
                    deadline = deadline.min(Instant::now() + timeout);
                }
                false => query_next(&mut queries),
            }
        }
        let best = maps
            .into_iter()
            .max_by_key(|(ranges, senders)| (slot_count(ranges), *senders));
        let (ranges, senders) = best.ok_or(failure)?;
        self.map_mut().install(&ranges, senders > 1);
        Ok(())
    }
}

/// A running refresh of the map.
struct RefreshTask {
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
    runtime: Handle,
    result: Result<(), StoreError>,
}

impl RefreshTask {
    async fn run(mut self) {
        self.result = self.cluster.refresh_map().await;
    }
}

/// Sends or fails the waiting checks, also if the task panicked or its runtime shut down.
impl Drop for RefreshTask {
    fn drop(&mut self) {
        let cluster = &self.cluster;
        let waiting = {
            let mut refresh = cluster.refresh_state();
            refresh.is_running = false;
            refresh.backoff.record(self.result.is_ok());
            refresh.error = self.result.as_ref().err().cloned();
            refresh.finished_at = Some(Instant::now());
            mem::take(&mut refresh.checks)
        };
        for check in waiting.into_checks() {
            match &self.result {
                Err(error) => drop(check.answer(Err(error.clone()))),
                Ok(()) if cluster.map().owner(check.slot).is_none() => {
                    let error =
                        unavailable("no node of the cluster owns the hash slot of the keys");
                    check.answer(Err(error));
                }
                Ok(()) => cluster.submit(&self.shared, &self.runtime, check),
            }
        }
    }
}
