//! Redis Cluster: the map from slots to nodes, and redirections.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crc::{CRC_16_XMODEM, Crc};
use redis::ConnectionAddr;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Core;
use super::backoff::Backoff;
use super::connection::PATIENCE;
use super::endpoint::Endpoint;
use super::link::Link;
use super::refusal::unavailable;
use super::server::Server;
use super::servers::Servers;
use super::slots::{Range, SLOTS, covered, ranges};
use super::waiter::Waiter;
use super::waiting::Waiting;
use crate::identity::Identity;
use crate::random;
use crate::store::{StoreError, StoreErrorKind};

/// How many nodes are asked for their maps at once.
const ASKED_AT_ONCE: usize = 3;

/// How long other nodes have to answer once a node has sent a complete map, or twice as long as that
/// answer took if it is longer.
const SECOND_OPINION: Duration = Duration::from_millis(50);

/// The map is not asked for again within this time.
const FRESH: Duration = Duration::from_millis(50);

/// How long a node without slots is kept after a check was sent on to it: a node that imports its
/// first slot is in no map yet.
const KEPT: Duration = Duration::from_secs(60);

/// The slot of all keys of an identity, which is their hash tag.
pub(super) fn slot_of(identity: &Identity) -> u16 {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    CRC.checksum(identity.to_string().as_bytes()) % SLOTS
}

pub(super) struct Cluster {
    /// The nodes that were configured.
    seeds: Vec<Endpoint>,
    map: RwLock<Map>,
    lobby: Mutex<Lobby>,
}

/// Which node has which slot, as far as is known.
struct Map {
    slots: Vec<Option<Arc<Node>>>,
    /// Nodes that have slots, and nodes that a check was sent on to, with the time of the last.
    nodes: Vec<(Arc<Node>, Option<Instant>)>,
    /// The number of nodes so far.
    met: usize,
}

struct Node {
    /// From 1, and never used again for another node.
    lane: usize,
    endpoint: Endpoint,
    link: Arc<Link>,
}

/// Checks that wait for the map.
#[derive(Default)]
struct Lobby {
    waiting: Waiting,
    /// Whether the nodes are being asked.
    asking: bool,
    learnt_at: Option<Instant>,
    /// Why no node could be asked the last time.
    failure: Option<StoreError>,
    backoff: Backoff,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Endpoint>) -> Self {
        let map = Map {
            slots: vec![None; SLOTS.into()],
            nodes: Vec::new(),
            met: 0,
        };
        Self {
            seeds,
            map: RwLock::new(map),
            lobby: Mutex::default(),
        }
    }

    fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lobby(&self) -> MutexGuard<'_, Lobby> {
        self.lobby.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of a slot: that of its node, or 0 while nobody knows.
    pub(super) fn lane(&self, slot: u16) -> usize {
        self.map().lane(slot.into())
    }

    pub(super) fn lane_name(&self, lane: usize) -> String {
        let map = self.map();
        let mut nodes = map.nodes.iter().map(|(node, _)| node);
        match nodes.find(|node| node.lane == lane) {
            Some(node) => node.endpoint.address.to_string(),
            None => "cluster".into(),
        }
    }

    /// A reserved identity whose checks use that lane, if the lane is in use.
    pub(super) fn identity_in(&self, lane: usize) -> Option<Identity> {
        // Copied, since it may take milliseconds to find an identity for a single slot.
        let is_in_lane: Vec<bool> = {
            let map = self.map();
            (0..SLOTS.into())
                .map(|slot| map.lane(slot) == lane)
                .collect()
        };
        if !is_in_lane.contains(&true) {
            return None;
        }
        let numbered = |number| Identity::new("tollgate", &format!("probe-{number}"));
        let mut identities = (0..1_000_000).filter_map(|number| numbered(number).ok());
        identities.find(|identity| is_in_lane[usize::from(slot_of(identity))])
    }

    /// The next lane that a slot uses.
    pub(super) fn lane_after(&self, lane: usize) -> Option<usize> {
        let map = self.map();
        let lanes = map.slots.iter().flatten().map(|node| node.lane);
        lanes.filter(|next| *next > lane).min()
    }

    /// Sends a waiter to its slot's node, once the node is known.
    pub(super) fn ask(&self, core: &Arc<Core>, runtime: &Handle, mut waiter: Waiter) {
        waiter.asking = false;
        let link = {
            let map = self.map();
            let node = map.slots[usize::from(waiter.slot)].as_ref();
            node.map(|node| node.link.clone())
        };
        match link {
            Some(link) => link.ask(core, runtime, waiter),
            None => self.wait(core, runtime, waiter),
        }
    }

    fn wait(&self, core: &Arc<Core>, runtime: &Handle, waiter: Waiter) {
        let mut lobby = self.lobby();
        let waits = lobby.backoff.is_on() && !lobby.asking && !waiter.probes;
        let failed_lately = lobby.failure.clone().filter(|_| waits);
        let refused = match failed_lately {
            Some(error) => (waiter, error),
            None => match lobby.waiting.push(waiter, core.longest_queue) {
                Ok(()) => {
                    self.begin_to_learn(core, runtime, lobby);
                    return;
                }
                Err(waiter) => (waiter, StoreErrorKind::Overloaded.into()),
            },
        };
        drop(lobby);
        let (waiter, error) = refused;
        waiter.answer(Err(error));
    }

    /// Sends a waiter to the node that another one named, for this check only if `ask`.
    pub(super) fn redirect(
        &self,
        core: &Arc<Core>,
        runtime: &Handle,
        mut waiter: Waiter,
        endpoint: &Endpoint,
        ask: bool,
    ) {
        let link = {
            let mut map = self.map_mut();
            let node = map.node(endpoint, true);
            let link = node.link.clone();
            if !ask {
                map.slots[usize::from(waiter.slot)] = Some(node);
            }
            link
        };
        if !ask {
            self.learn(core, runtime);
        }
        waiter.asking = ask;
        link.ask(core, runtime, waiter);
    }

    /// Refreshes the map, unless that was tried a moment ago.
    pub(super) fn learn(&self, core: &Arc<Core>, runtime: &Handle) {
        let lobby = self.lobby();
        let fresh = |learnt_at: Instant| learnt_at.elapsed() < FRESH;
        if !lobby.backoff.is_on() && !lobby.learnt_at.is_some_and(fresh) {
            self.begin_to_learn(core, runtime, lobby);
        }
    }

    fn begin_to_learn(&self, core: &Arc<Core>, runtime: &Handle, mut lobby: MutexGuard<'_, Lobby>) {
        if !mem::replace(&mut lobby.asking, true) {
            drop(lobby);
            let learning = Learning {
                core: core.clone(),
                runtime: runtime.clone(),
                outcome: Err(unavailable("the runtime has ended")),
            };
            runtime.spawn(learning.run());
        }
    }

    /// The nodes to ask, in random order.
    fn candidates(&self) -> Vec<Endpoint> {
        let mut candidates = self.seeds.clone();
        let nodes = self.map().nodes.clone();
        for (node, _) in nodes {
            let is_known = |known: &Endpoint| known.address == node.endpoint.address;
            if !candidates.iter().any(is_known) {
                candidates.push(node.endpoint.clone());
            }
        }
        candidates.sort_by_cached_key(|_| random::number());
        candidates
    }

    /// Asks several nodes at once, and installs the map with the most slots; of maps with equally many,
    /// the one that most nodes sent.
    async fn ask_nodes(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        let mut candidates = self.candidates().into_iter();
        let mut asked = JoinSet::new();
        let mut ask_next = |asked: &mut JoinSet<_>| {
            if let Some(node) = candidates.next() {
                asked.spawn(async move { ranges(&node).await });
            }
        };
        for _ in 0..ASKED_AT_ONCE {
            ask_next(&mut asked);
        }
        let mut failure = unavailable("no node of the cluster could be asked");
        let mut maps: Vec<(Vec<Range>, usize)> = Vec::new();
        // Each request has a timeout of its own.
        let mut end = began + 60 * PATIENCE;
        while let Ok(Some(answer)) = timeout_at(end, asked.join_next()).await {
            let ranges = match answer {
                Ok(Ok(ranges)) => ranges,
                Ok(Err(error)) => {
                    // A refusal says more than that another node cannot be reached.
                    if failure.kind() != StoreErrorKind::Rejected {
                        failure = error;
                    }
                    ask_next(&mut asked);
                    continue;
                }
                Err(_) => continue,
            };
            let is_full = covered(&ranges) == usize::from(SLOTS);
            match maps.iter_mut().find(|(known, _)| *known == ranges) {
                Some((_, nodes)) => *nodes += 1,
                None => maps.push((ranges, 1)),
            }
            let answers: usize = maps.iter().map(|(_, nodes)| nodes).sum();
            let is_confirmed = is_full && maps.iter().any(|(_, nodes)| *nodes > 1);
            if is_confirmed || answers >= ASKED_AT_ONCE {
                break;
            }
            match is_full {
                true => end = end.min(Instant::now() + SECOND_OPINION.max(2 * began.elapsed())),
                false => ask_next(&mut asked),
            }
        }
        let best = maps
            .into_iter()
            .max_by_key(|(ranges, nodes)| (covered(ranges), *nodes));
        let (ranges, nodes) = best.ok_or(failure)?;
        self.map_mut().install(&ranges, nodes > 1);
        Ok(())
    }
}

/// The task that asks the nodes.
struct Learning {
    core: Arc<Core>,
    runtime: Handle,
    outcome: Result<(), StoreError>,
}

impl Learning {
    async fn run(mut self) {
        if let Servers::Cluster(cluster) = &self.core.servers {
            self.outcome = cluster.ask_nodes().await;
        }
    }
}

/// Queued checks continue however the task ends.
impl Drop for Learning {
    fn drop(&mut self) {
        let Servers::Cluster(cluster) = &self.core.servers else {
            return;
        };
        let waiting = {
            let mut lobby = cluster.lobby();
            lobby.asking = false;
            lobby.backoff.report(self.outcome.is_ok());
            lobby.failure = self.outcome.as_ref().err().cloned();
            lobby.learnt_at = Some(Instant::now());
            mem::take(&mut lobby.waiting)
        };
        for waiter in waiting.into_waiters() {
            match &self.outcome {
                Err(error) => drop(waiter.answer(Err(error.clone()))),
                Ok(()) if cluster.lane(waiter.slot) == 0 => {
                    let error = unavailable("no node of the cluster has the keys' slot");
                    waiter.answer(Err(error));
                }
                Ok(()) => cluster.ask(&self.core, &self.runtime, waiter),
            }
        }
    }
}

impl Map {
    fn lane(&self, slot: usize) -> usize {
        self.slots[slot].as_ref().map_or(0, |node| node.lane)
    }

    /// The node at an endpoint's address, to which a check is sent on if `is_asked`.
    fn node(&mut self, endpoint: &Endpoint, is_asked: bool) -> Arc<Node> {
        let asked_at = is_asked.then(Instant::now);
        let same = |address: &ConnectionAddr| *address == endpoint.address;
        let mut known = self.nodes.iter_mut();
        if let Some((node, last)) = known.find(|(node, _)| same(&node.endpoint.address)) {
            *last = asked_at.or(*last);
            return node.clone();
        }
        self.met += 1;
        let server = Server::Node(Box::new(endpoint.clone()));
        let node = Arc::new(Node {
            lane: self.met,
            endpoint: endpoint.clone(),
            link: Arc::new(Link::new(server, false)),
        });
        self.nodes.push((node.clone(), asked_at));
        node
    }

    /// Installs the map that a node, or several nodes, sent.
    ///
    /// A slot without a primary keeps the one it had. An isolated node still claims the slots that
    /// others have taken over from it, and knows no primary for the rest: so a map of one node, with
    /// fewer primaries than are known, only fills holes.
    fn install(&mut self, ranges: &[Range], is_confirmed: bool) {
        let known = self.slots.iter().flatten().count();
        let overrides = is_confirmed || covered(ranges) >= known;
        for range in ranges {
            let node = self.node(&range.node, false);
            for slot in &mut self.slots[range.first..=range.last] {
                if overrides || slot.is_none() {
                    *slot = Some(node.clone());
                }
            }
        }
        self.nodes.retain(|(node, asked_at)| {
            let has_slots = Arc::strong_count(node) > 1;
            has_slots || asked_at.is_some_and(|asked_at| asked_at.elapsed() < KEPT)
        });
    }
}
