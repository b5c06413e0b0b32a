//! A cluster of three primaries with one replica each.

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
    // In milliseconds: how long a primary may be silent before its replica takes over.
    "--cluster-node-timeout",
    "1000",
    // A replica may take over however old its copy is.
    "--cluster-replica-validity-factor",
    "0",
    "--repl-diskless-sync",
    "yes",
    // The default is five seconds, in case more replicas come.
    "--repl-diskless-sync-delay",
    "0",
];

/// Six servers that form a cluster. At first nodes 0 to 2 are primaries, and node `n + 3` is the
/// replica of node `n`.
pub(crate) struct Cluster {
    nodes: Vec<Server>,
    ids: Vec<String>,
}

impl Cluster {
    /// Starts a cluster, and waits until all nodes agree on a complete topology.
    pub(crate) async fn start() -> Self {
        let nodes = join_all((0..NODES).map(|_| Server::start_with(&OPTIONS))).await;
        let ids = nodes.iter().map(|node| node.query(&["CLUSTER", "MYID"]));
        let ids = join_all(ids).await;
        let cluster = Self { nodes, ids };
        join_all((0..PRIMARIES).map(|primary| cluster.assign_slots(primary))).await;
        cluster.meet().await;
        join_all((0..PRIMARIES).map(|primary| cluster.replicate(primary))).await;
        let wait = Wait::until("the cluster is complete");
        while !cluster.is_complete().await {
            wait.sleep().await;
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

    /// Introduces every node to every other, which is faster than to wait for gossip.
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
        while !self.views().await.iter().all(|view| view.is_healthy(NODES)) {
            wait.sleep().await;
        }
    }

    async fn replicate(&self, primary: usize) {
        let replica = &self.nodes[primary + PRIMARIES];
        let words = ["CLUSTER", "REPLICATE", self.node_id(primary)];
        replica.command(&words).await;
        replica
            .wait_for_info("replication", "master_link_status:up")
            .await;
    }

    async fn is_complete(&self) -> bool {
        let complete = |view: &View| view.is_healthy(NODES) && view.replicas() == PRIMARIES;
        self.views().await.iter().all(complete) && self.agreed_primary(0).await.is_some()
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

    /// Returns the slot of a key or hash tag.
    pub(crate) async fn slot_of(&self, key: &str) -> u16 {
        let node = &self.nodes[self.answering()[0]];
        node.query(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// Waits until all nodes that answer agree on the slot's primary, and returns its index.
    pub(crate) async fn primary_of(&self, slot: u16) -> usize {
        let wait = Wait::until(format!("the nodes agree on slot {slot}"));
        loop {
            if let Some(primary) = self.agreed_primary(slot).await {
                return primary;
            }
            wait.sleep().await;
        }
    }

    /// Kills a node. [`Self::new_primary_of`] waits for its successor.
    pub(crate) fn kill(&self, index: usize) {
        self.nodes[index].kill();
    }

    /// Waits until all nodes that answer agree that the slot's primary is another node than `old`.
    pub(crate) async fn new_primary_of(&self, slot: u16, old: usize) -> usize {
        let wait = Wait::until(format!("slot {slot} leaves node {old}"));
        loop {
            match self.agreed_primary(slot).await {
                Some(primary) if primary != old => return primary,
                _ => wait.sleep().await,
            }
        }
    }

    /// Moves a slot and its keys to another node.
    pub(crate) async fn move_slot(&self, slot: u16, to: usize) {
        let from = self.start_move(slot, to).await;
        self.move_keys(slot, from, to).await;
        self.finish_move(slot, from, to).await;
    }

    /// Starts to move a slot, and returns its primary, which answers ASK from now on for every key
    /// that it does not have.
    pub(crate) async fn start_move(&self, slot: u16, to: usize) -> usize {
        let from = self.primary_of(slot).await;
        self.set_slot(slot, to, "IMPORTING", from).await;
        self.set_slot(slot, from, "MIGRATING", to).await;
        from
    }

    /// Moves all keys of a slot.
    pub(crate) async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let source = &self.nodes[from];
        let slot = slot.to_string();
        loop {
            let words = ["CLUSTER", "GETKEYSINSLOT", &slot, "100"];
            let keys: Vec<String> = source.query(&words).await;
            if keys.is_empty() {
                return;
            }
            self.migrate(&keys, from, to).await;
        }
    }

    /// Moves these keys.
    pub(crate) async fn migrate(&self, keys: &[impl AsRef<str>], from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
        words.extend(keys.iter().map(AsRef::as_ref));
        self.nodes[from].command(&words).await;
    }

    /// Assigns the slot to node `to`, and waits until all nodes that answer agree.
    pub(crate) async fn finish_move(&self, slot: u16, from: usize, to: usize) {
        self.set_slot(slot, to, "NODE", to).await;
        self.set_slot(slot, from, "NODE", to).await;
        for index in self.primaries().await {
            if index != from && index != to {
                self.set_slot(slot, index, "NODE", to).await;
            }
        }
        let wait = Wait::until(format!("slot {slot} is at node {to}"));
        while self.agreed_primary(slot).await != Some(to) {
            wait.sleep().await;
        }
    }

    async fn set_slot(&self, slot: u16, at: usize, state: &str, node: usize) {
        let (slot, id) = (slot.to_string(), self.node_id(node));
        let words = ["CLUSTER", "SETSLOT", &slot, state, id];
        self.nodes[at].command(&words).await;
    }

    /// Returns the keys without a time to live of all primaries that answer.
    pub(crate) async fn keys_without_ttl(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for index in self.primaries().await {
            keys.extend(self.nodes[index].keys_without_ttl().await);
        }
        keys
    }

    /// Returns the indices of the nodes that answer and have the role of a primary.
    pub(crate) async fn primaries(&self) -> Vec<usize> {
        let mut primaries = Vec::new();
        for index in self.answering() {
            if self.nodes[index].is_primary().await {
                primaries.push(index);
            }
        }
        primaries
    }

    fn answering(&self) -> Vec<usize> {
        let mut answering: Vec<_> = (0..NODES).collect();
        answering.retain(|&index| self.nodes[index].is_answering());
        assert!(!answering.is_empty(), "no node answers");
        answering
    }

    async fn view(&self, index: usize) -> View {
        let reply: String = self.nodes[index].query(&["CLUSTER", "NODES"]).await;
        View::parse(&reply)
    }

    async fn views(&self) -> Vec<View> {
        join_all(self.answering().into_iter().map(|index| self.view(index))).await
    }

    fn primary_in(&self, view: &View, slot: u16) -> Option<usize> {
        let owner = view.owner_of(slot)?;
        self.ids.iter().position(|id| id == owner)
    }

    /// Returns the slot's primary if all nodes that answer name the same one and report that all
    /// slots are served.
    async fn agreed_primary(&self, slot: u16) -> Option<usize> {
        for index in self.answering() {
            let state: String = self.nodes[index].query(&["CLUSTER", "INFO"]).await;
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
