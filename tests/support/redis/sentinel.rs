//! A primary and its replica, watched by three sentinels.

use std::collections::HashMap;

use futures_util::future::join_all;

use super::{Server, Wait};

const SERVICE: &str = "main";
const SENTINELS: usize = 3;

/// Two servers and the sentinels that watch them. At first server 0 is the primary.
///
/// A sentinel that was paused for more than two seconds enters TILT mode: it takes no action for
/// the next 30 seconds.
pub(crate) struct Sentinels {
    nodes: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts all of them, and waits until the sentinels know the replica and each other.
    pub(crate) async fn start() -> Self {
        // The default is to wait five seconds, in case more replicas come.
        let no_delay = ["--repl-diskless-sync-delay", "0"];
        let primary = Server::start_with(&no_delay).await;
        let port = primary.port().to_string();
        let options = [&no_delay[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = Server::start_with(&options).await;
        replica
            .wait_for_info("replication", "master_link_status:up")
            .await;

        let configuration = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 2000\n"
        );
        let sentinels = (0..SENTINELS).map(|_| Server::start_sentinel(&configuration));
        let sentinels = Self {
            nodes: vec![primary, replica],
            sentinels: join_all(sentinels).await,
        };
        let wait = Wait::until("the sentinels know all instances");
        for sentinel in &sentinels.sentinels {
            while !knows_all_instances(sentinel).await {
                wait.sleep().await;
            }
        }
        sentinels
    }

    pub(crate) fn service_name(&self) -> &'static str {
        SERVICE
    }

    /// Returns the URLs of the sentinels.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    pub(crate) fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// Returns the servers that the sentinels watch.
    pub(crate) fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// Waits until the sentinels agree on the primary, and returns its index.
    pub(crate) async fn primary(&self) -> usize {
        let wait = Wait::until("the sentinels agree");
        loop {
            if let Some(primary) = self.agreed_primary().await {
                return primary;
            }
            wait.sleep().await;
        }
    }

    /// Starts a failover, waits for it and returns the index of the new primary.
    pub(crate) async fn failover(&self) -> usize {
        let old = self.primary().await;
        let sentinel = self
            .answering_sentinels()
            .next()
            .expect("a sentinel answers");
        let wait = Wait::until("a sentinel starts the failover");
        let words = ["SENTINEL", "FAILOVER", SERVICE];
        // Sentinel refuses until it has heard from the replica recently.
        while sentinel.try_command(&words).await.is_err() {
            wait.sleep().await;
        }
        self.new_primary(old).await
    }

    /// Waits until all sentinels name another primary than `old`, and that server has the role of a
    /// primary. Returns its index.
    pub(crate) async fn new_primary(&self, old: usize) -> usize {
        let wait = Wait::until(format!("node {old} is replaced"));
        loop {
            let primary = self.primary().await;
            if primary != old && self.nodes[primary].is_primary().await {
                return primary;
            }
            wait.sleep().await;
        }
    }

    fn answering_sentinels(&self) -> impl Iterator<Item = &Server> {
        self.sentinels.iter().filter(|node| node.is_answering())
    }

    /// Returns the primary if all sentinels that answer name the same one.
    async fn agreed_primary(&self) -> Option<usize> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        let mut ports = Vec::new();
        for sentinel in self.answering_sentinels() {
            let (_, port): (String, u16) = sentinel.query(&words).await;
            ports.push(port);
        }
        ports.dedup();
        let &[port] = ports.as_slice() else {
            return None;
        };
        self.nodes.iter().position(|node| node.port() == port)
    }
}

/// Returns whether this sentinel knows both other sentinels and a replica in sync.
async fn knows_all_instances(sentinel: &Server) -> bool {
    type Instances = Vec<HashMap<String, String>>;
    let others: Instances = sentinel.query(&["SENTINEL", "SENTINELS", SERVICE]).await;
    let replicas: Instances = sentinel.query(&["SENTINEL", "REPLICAS", SERVICE]).await;
    others.len() == SENTINELS - 1
        && others.iter().all(|other| other["flags"] == "sentinel")
        && replicas.len() == 1
        && replicas[0]["flags"] == "slave"
        && replicas[0]["master-link-status"] == "ok"
}
