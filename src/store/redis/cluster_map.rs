//! The map from hash slots to the nodes of a cluster.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster_slots::{SLOTS, SlotRange, slot_count};
use super::endpoint::Endpoint;
use super::server::Server;
use super::server_queue::ServerQueue;

/// How long a node without hash slots is kept after a redirect to it: a node that imports its first
/// slot is in no `CLUSTER SLOTS` reply yet.
const REDIRECT_TARGET_TTL: Duration = Duration::from_secs(60);

pub(super) struct ClusterMap {
    slots: Vec<Option<Arc<Node>>>,
    nodes: Vec<KnownNode>,
    /// The lane of the last new node.
    last_lane: usize,
}

/// A node that owns hash slots, or that checks were redirected to.
struct KnownNode {
    node: Arc<Node>,
    redirected_at: Option<Instant>,
}

pub(super) struct Node {
    /// From 1; never reused for another node.
    pub(super) lane: usize,
    pub(super) endpoint: Endpoint,
    pub(super) queue: Arc<ServerQueue>,
}

impl ClusterMap {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![None; SLOTS.into()],
            nodes: Vec::new(),
            last_lane: 0,
        }
    }

    /// The owner of a hash slot, if known.
    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        self.slots[usize::from(slot)].as_ref()
    }

    /// Returns the lane of a hash slot's owner, or 0 if the owner is unknown.
    pub(super) fn lane(&self, slot: u16) -> usize {
        self.owner(slot).map_or(0, |node| node.lane)
    }

    /// The next lane of a node that owns hash slots.
    pub(super) fn lane_after(&self, lane: usize) -> Option<usize> {
        let lanes = self.slots.iter().flatten().map(|node| node.lane);
        lanes.filter(|next| *next > lane).min()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().map(|known| &known.node)
    }

    /// Records that a node owns a hash slot.
    pub(super) fn set_owner(&mut self, slot: u16, node: Arc<Node>) {
        self.slots[usize::from(slot)] = Some(node);
    }

    /// Returns the node at the address of a redirect.
    pub(super) fn redirect_target(&mut self, endpoint: &Endpoint) -> Arc<Node> {
        let known = self.known_node(endpoint);
        known.redirected_at = Some(Instant::now());
        known.node.clone()
    }

    /// Returns the node at this endpoint's address, which is added if it is new.
    fn known_node(&mut self, endpoint: &Endpoint) -> &mut KnownNode {
        let is_same = |known: &KnownNode| known.node.endpoint.address == endpoint.address;
        let index = self.nodes.iter().position(is_same).unwrap_or_else(|| {
            self.last_lane += 1;
            let server = Server::ClusterNode(Box::new(endpoint.clone()));
            let node = Arc::new(Node {
                lane: self.last_lane,
                endpoint: endpoint.clone(),
                queue: Arc::new(ServerQueue::new(server, false)),
            });
            self.nodes.push(KnownNode {
                node,
                redirected_at: None,
            });
            self.nodes.len() - 1
        });
        &mut self.nodes[index]
    }

    /// Installs the ranges of a `CLUSTER SLOTS` reply, which is confirmed if several nodes sent it.
    ///
    /// A slot that is in no range keeps its owner. An isolated node still claims the slots that others
    /// have taken over from it, and lists no owner for the rest: so an unconfirmed reply with fewer slots
    /// than are known sets only unknown owners.
    pub(super) fn install(&mut self, ranges: &[SlotRange], is_confirmed: bool) {
        let known_slots = self.slots.iter().flatten().count();
        let overrides = is_confirmed || slot_count(ranges) >= known_slots;
        for range in ranges {
            let node = self.known_node(&range.node).node.clone();
            for slot in &mut self.slots[range.first..=range.last] {
                if overrides || slot.is_none() {
                    *slot = Some(node.clone());
                }
            }
        }
        self.nodes.retain(|known| {
            let owns_slots = Arc::strong_count(&known.node) > 1;
            let is_recent = |at: Instant| at.elapsed() < REDIRECT_TARGET_TTL;
            owns_slots || known.redirected_at.is_some_and(is_recent)
        });
    }
}
