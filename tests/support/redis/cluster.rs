//! Three primaries with one replica each.

use futures_util::future::join_all;

use super::view::View;
use super::{Server, Wait};

const PRIMARIES: usize = 3;
const NODES: usize = 2 * PRIMARIES;
const SLOTS: usize = 16_384;

const OPTIONS: [&str; 12] = [
    "--cluster-enabled",
    "yes",
    "--cluster-config-file",
    "nodes.conf",
    // In milliseconds. A primary that is silent for so long is replaced.
    "--cluster-node-timeout",
    "1000",
    // However old a replica's copy is, it may take over.
    "--cluster-replica-validity-factor",
    "0",
    "--repl-diskless-sync",
    "yes",
    // Else five seconds, for more replicas to come.
    "--repl-diskless-sync-delay",
    "0",
];

/// Six servers that are one cluster. At first 0 to 2 are primaries, and 3 to 5 their replicas.
pub(crate) struct Cluster {
    nodes: Vec<Server>,
    ids: Vec<String>,
}

impl Cluster {
    /// Starts a cluster, and returns when all its nodes agree that it is whole.
    pub(crate) async fn start() -> Self {
        let nodes = join_all((0..NODES).map(|_| Server::start_with(&OPTIONS))).await;
        let ids = nodes.iter().map(|node| node.ask(&["CLUSTER", "MYID"]));
        let ids = join_all(ids).await;
        let cluster = Self { nodes, ids };
        join_all((0..PRIMARIES).map(|primary| cluster.assign_slots(primary))).await;
        cluster.meet().await;
        join_all((0..PRIMARIES).map(|primary| cluster.replicate(primary))).await;
        let wait = Wait::until("the cluster is whole");
        while !cluster.is_whole().await {
            wait.on().await;
        }
        cluster
    }

    async fn assign_slots(&self, primary: usize) {
        let first = |primary| primary * SLOTS / PRIMARIES;
        let slots = first(primary)..first(primary + 1);
        let mut words = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
        words.extend(slots.map(|slot| slot.to_string()));
        self.nodes[primary].command(&words).await;
    }

    /// Every node meets every other, which is quicker than hearsay.
    async fn meet(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let epoch = (index + 1).to_string();
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            for other in &self.nodes[..index] {
                let port = other.port().to_string();
                let words = ["CLUSTER", "MEET", "127.0.0.1", &port];
                node.command(&words).await;
            }
        }
        let wait = Wait::until("all nodes have met");
        while !self.views().await.iter().all(|view| view.is_sound(NODES)) {
            wait.on().await;
        }
    }

    async fn replicate(&self, primary: usize) {
        let replica = &self.nodes[primary + PRIMARIES];
        let words = ["CLUSTER", "REPLICATE", self.node_id(primary)];
        replica.command(&words).await;
        replica
            .until_it_says("replication", "master_link_status:up")
            .await;
    }

    async fn is_whole(&self) -> bool {
        let whole = |view: &View| view.is_sound(NODES) && view.replicas() == PRIMARIES;
        self.views().await.iter().all(whole) && self.agreed(0).await.is_some()
    }

    pub(crate) fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    pub(crate) fn node_id(&self, index: usize) -> &str {
        &self.ids[index]
    }

    pub(crate) async fn slot_of(&self, key: &str) -> u16 {
        let node = &self.nodes[self.living()[0]];
        node.ask(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// The slot's primary, as soon as all nodes that answer agree.
    pub(crate) async fn primary_of(&self, slot: u16) -> usize {
        let wait = Wait::until(format!("the nodes agree on slot {slot}"));
        loop {
            if let Some(primary) = self.agreed(slot).await {
                return primary;
            }
            wait.on().await;
        }
    }

    /// Kills the node. See [`Self::new_primary_of`].
    pub(crate) fn kill(&self, index: usize) {
        self.nodes[index].kill();
    }

    /// Waits until the slot's primary is no longer this one, and all nodes that answer agree.
    pub(crate) async fn new_primary_of(&self, slot: u16, old: usize) -> usize {
        let wait = Wait::until(format!("slot {slot} leaves node {old}"));
        loop {
            match self.agreed(slot).await {
                Some(primary) if primary != old => return primary,
                _ => wait.on().await,
            }
        }
    }

    /// Moves a slot with its keys.
    pub(crate) async fn move_slot(&self, slot: u16, to: usize) {
        let from = self.begin_move(slot, to).await;
        self.move_keys(slot, from, to).await;
        self.end_move(slot, from, to).await;
    }

    /// From now on the slot's primary, which this returns, sends clients on to the other node for
    /// any key that it does not hold.
    pub(crate) async fn begin_move(&self, slot: u16, to: usize) -> usize {
        let from = self.primary_of(slot).await;
        self.set_slot(slot, to, "IMPORTING", from).await;
        self.set_slot(slot, from, "MIGRATING", to).await;
        from
    }

    pub(crate) async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let source = &self.nodes[from];
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        loop {
            let words = ["CLUSTER", "GETKEYSINSLOT", &slot, "100"];
            let keys: Vec<String> = source.ask(&words).await;
            if keys.is_empty() {
                return;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            source.command(&words).await;
        }
    }

    /// Makes the slot the other's, and returns when all nodes that answer know.
    pub(crate) async fn end_move(&self, slot: u16, from: usize, to: usize) {
        self.set_slot(slot, to, "NODE", to).await;
        self.set_slot(slot, from, "NODE", to).await;
        for index in self.primaries().await {
            if index != from && index != to {
                self.set_slot(slot, index, "NODE", to).await;
            }
        }
        let wait = Wait::until(format!("slot {slot} is at node {to}"));
        while self.agreed(slot).await != Some(to) {
            wait.on().await;
        }
    }

    async fn set_slot(&self, slot: u16, at: usize, state: &str, node: usize) {
        let (slot, id) = (slot.to_string(), self.node_id(node));
        let words = ["CLUSTER", "SETSLOT", &slot, state, id];
        self.nodes[at].command(&words).await;
    }

    /// The keys that would stay forever, of all primaries that answer.
    pub(crate) async fn keys_without_ttl(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for index in self.primaries().await {
            keys.extend(self.nodes[index].keys_without_ttl().await);
        }
        keys
    }

    /// Those nodes that answer, and that call themselves primaries.
    pub(crate) async fn primaries(&self) -> Vec<usize> {
        let mut primaries = Vec::new();
        for index in self.living() {
            if self.nodes[index].is_primary().await {
                primaries.push(index);
            }
        }
        primaries
    }

    fn living(&self) -> Vec<usize> {
        let mut living: Vec<_> = (0..NODES).collect();
        living.retain(|&index| self.nodes[index].is_answering());
        assert!(!living.is_empty(), "no node answers");
        living
    }

    async fn view(&self, index: usize) -> View {
        let answer: String = self.nodes[index].ask(&["CLUSTER", "NODES"]).await;
        View::read(&answer)
    }

    async fn views(&self) -> Vec<View> {
        join_all(self.living().into_iter().map(|index| self.view(index))).await
    }

    fn primary_in(&self, view: &View, slot: u16) -> Option<usize> {
        let owner = view.owner_of(slot)?;
        self.ids.iter().position(|id| id == owner)
    }

    /// The slot's primary, if all nodes that answer name the same, and say that all slots are
    /// served.
    async fn agreed(&self, slot: u16) -> Option<usize> {
        for index in self.living() {
            let state: String = self.nodes[index].ask(&["CLUSTER", "INFO"]).await;
            if !state.lines().any(|line| line == "cluster_state:ok") {
                return None;
            }
        }
        let views = self.views().await;
        let mut primaries = views.iter().map(|view| self.primary_in(view, slot));
        let primary = primaries.next()??;
        primaries
            .all(|other| other == Some(primary))
            .then_some(primary)
    }
}
