//! Redis Cluster: which node has which slot, and where to go when a node says that it is another.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crc::{CRC_16_XMODEM, Crc};
use redis::ConnectionInfo;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::Core;
use super::backoff::Backoff;
use super::link::Link;
use super::refusal::unavailable;
use super::server::{Server, moved};
use super::servers::Servers;
use super::slots::{Address, Range, ranges};
use super::waiter::Waiter;
use crate::identity::Identity;
use crate::random;
use crate::store::{StoreError, StoreErrorKind};

/// How many slots a cluster has (Redis Cluster specification, "Key distribution model").
const SLOTS: u16 = 16_384;

/// How long a node may take to say who has which slot, before another one is asked.
const PATIENCE: Duration = Duration::from_millis(250);

/// What was learnt so recently is not asked for again.
const FRESH: Duration = Duration::from_millis(50);

/// The slot of all keys of an identity: it is what stands in their braces.
pub(super) fn slot_of(identity: &Identity) -> u16 {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    CRC.checksum(identity.to_string().as_bytes()) % SLOTS
}

pub(super) struct Cluster {
    /// The nodes that were configured.
    seeds: Vec<ConnectionInfo>,
    map: RwLock<Map>,
    lobby: Mutex<Lobby>,
}

/// Who has which slot, as far as is known.
struct Map {
    /// All nodes that ever had one: a node's place is its lane's number.
    nodes: Vec<Node>,
    /// For each slot, its node's place.
    slots: Vec<Option<usize>>,
}

struct Node {
    address: Address,
    link: Arc<Link>,
}

/// Those who wait to be told where to go.
#[derive(Default)]
struct Lobby {
    waiting: VecDeque<Waiter>,
    /// Whether the nodes are being asked.
    asking: bool,
    learnt_at: Option<Instant>,
    backoff: Backoff,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<ConnectionInfo>) -> Self {
        let map = Map {
            nodes: Vec::new(),
            slots: vec![None; SLOTS.into()],
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
        self.map().slots[usize::from(slot)].map_or(0, |node| node + 1)
    }

    /// An identity of no request's that goes by that lane, if anything does.
    pub(super) fn identity_in(&self, lane: usize) -> Option<Identity> {
        let node = lane.checked_sub(1);
        // A copy, as it may take milliseconds to find one for a single slot.
        let slots = self.map().slots.clone();
        if !slots.contains(&node) {
            return None;
        }
        let numbered = |number| Identity::new("tollgate", &format!("probe-{number}"));
        let mut identities = (0..1_000_000).filter_map(|number| numbered(number).ok());
        identities.find(|identity| slots[usize::from(slot_of(identity))] == node)
    }

    /// The next lane that some slot goes by.
    pub(super) fn lane_after(&self, lane: usize) -> Option<usize> {
        let node = self.map().owners().range(lane..).next().copied();
        node.map(|node| node + 1)
    }

    /// Sends a waiter to its slot's node, as soon as that is known.
    pub(super) fn ask(&self, core: &Arc<Core>, runtime: &Handle, mut waiter: Waiter) {
        waiter.asking = false;
        let link = {
            let map = self.map();
            map.slots[usize::from(waiter.slot)].map(|node| map.nodes[node].link.clone())
        };
        match link {
            Some(link) => link.ask(core, runtime, waiter),
            None => self.wait(core, runtime, waiter),
        }
    }

    fn wait(&self, core: &Arc<Core>, runtime: &Handle, waiter: Waiter) {
        let mut lobby = self.lobby();
        let refusal = if lobby.backoff.is_on() && !lobby.asking && !waiter.probes {
            unavailable("no node of the cluster could be reached a moment ago")
        } else if lobby.waiting.len() >= core.longest_queue && !waiter.probes {
            StoreErrorKind::Overloaded.into()
        } else {
            lobby.waiting.push_back(waiter);
            self.begin_to_learn(core, runtime, lobby);
            return;
        };
        drop(lobby);
        waiter.answer(Err(refusal));
    }

    /// Sends a waiter to the node that another one named, for good or only this once.
    pub(super) fn redirect(
        &self,
        core: &Arc<Core>,
        runtime: &Handle,
        mut waiter: Waiter,
        address: &Address,
        ask: bool,
    ) {
        let link = {
            let mut map = self.map_mut();
            let node = map.node(address, &self.seeds[0]);
            if !ask {
                map.slots[usize::from(waiter.slot)] = Some(node);
            }
            map.nodes[node].link.clone()
        };
        if !ask {
            self.learn(core, runtime);
        }
        waiter.asking = ask;
        link.ask(core, runtime, waiter);
    }

    /// Asks the nodes again who has which slot, unless that was tried a moment ago.
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
    fn candidates(&self) -> Vec<ConnectionInfo> {
        let nodes = {
            let map = self.map();
            let owners = map.owners().into_iter();
            let nodes = owners.map(|node| map.nodes[node].address.clone());
            nodes.collect::<Vec<_>>()
        };
        let nodes = nodes
            .iter()
            .map(|(host, port)| moved(&self.seeds[0], host, *port));
        let mut candidates: Vec<_> = nodes.chain(self.seeds.iter().cloned()).collect();
        candidates.sort_by_cached_key(|_| random::number());
        candidates
    }

    /// Takes over what a node said of the slots.
    fn install(&self, ranges: &[Range]) {
        let mut map = self.map_mut();
        map.slots.fill(None);
        for range in ranges {
            let node = map.node(&range.address, &self.seeds[0]);
            if let Some(slots) = map.slots.get_mut(range.first..=range.last) {
                slots.fill(Some(node));
            }
        }
    }
}

/// The task that asks the nodes, one after the other, until one answers.
struct Learning {
    core: Arc<Core>,
    runtime: Handle,
    outcome: Result<(), StoreError>,
}

impl Learning {
    async fn run(mut self) {
        let Servers::Cluster(cluster) = &self.core.servers else {
            return;
        };
        for candidate in cluster.candidates() {
            let answer = timeout(PATIENCE, ranges(&candidate)).await;
            let too_slow = |_| Err(unavailable("no node of the cluster answered in time"));
            let answer = answer.unwrap_or_else(too_slow);
            self.outcome = answer.map(|ranges| cluster.install(&ranges));
            if self.outcome.is_ok() {
                return;
            }
        }
    }
}

/// However it ends, those who wait for it go on.
impl Drop for Learning {
    fn drop(&mut self) {
        let Servers::Cluster(cluster) = &self.core.servers else {
            return;
        };
        let waiting = {
            let mut lobby = cluster.lobby();
            lobby.asking = false;
            lobby.backoff.report(self.outcome.is_ok());
            lobby.learnt_at = Some(Instant::now());
            mem::take(&mut lobby.waiting)
        };
        for waiter in waiting {
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
    /// The places of the nodes that have slots.
    fn owners(&self) -> BTreeSet<usize> {
        self.slots.iter().flatten().copied().collect()
    }

    /// The place of the node at an address.
    fn node(&mut self, address: &Address, like: &ConnectionInfo) -> usize {
        let known = self.nodes.iter().position(|node| node.address == *address);
        known.unwrap_or_else(|| {
            let (host, port) = address;
            self.nodes.push(Node {
                address: address.clone(),
                link: Arc::new(Link::new(Server::At(Box::new(moved(like, host, *port))))),
            });
            self.nodes.len() - 1
        })
    }
}
