//! A primary and its replica below three sentinels.

use std::collections::HashMap;

use futures_util::future::join_all;

use super::{Server, Wait};

const SERVICE: &str = "main";
const SENTINELS: usize = 3;

/// Two servers, of which at first 0 is the primary, and three sentinels that watch them.
///
/// A sentinel that was paused for two seconds leaves everything alone for half a minute.
pub(crate) struct Sentinels {
    nodes: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts them all, and returns when the sentinels know the replica and each other.
    pub(crate) async fn start() -> Self {
        // Else a replica waits five seconds, for more of them to come.
        let at_once = ["--repl-diskless-sync-delay", "0"];
        let primary = Server::start_with(&at_once).await;
        let port = primary.port().to_string();
        let options = [&at_once[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = Server::start_with(&options).await;
        replica
            .until_it_says("replication", "master_link_status:up")
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
        let wait = Wait::until("the sentinels know all");
        for sentinel in &sentinels.sentinels {
            while !knows_all(sentinel).await {
                wait.on().await;
            }
        }
        sentinels
    }

    pub(crate) fn service_name(&self) -> &'static str {
        SERVICE
    }

    /// Where the sentinels are.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    pub(crate) fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The servers that are watched.
    pub(crate) fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The node that the sentinels name as the primary, when they agree.
    pub(crate) async fn primary(&self) -> usize {
        let wait = Wait::until("the sentinels agree");
        loop {
            if let Some(primary) = self.agreed().await {
                return primary;
            }
            wait.on().await;
        }
    }

    /// Has the replica take over, and returns which node that is.
    pub(crate) async fn failover(&self) -> usize {
        let old = self.primary().await;
        let sentinel = self.living().next().expect("a sentinel answers");
        let wait = Wait::until("a sentinel begins the failover");
        let words = ["SENTINEL", "FAILOVER", SERVICE];
        // It refuses while it has not heard of the replica lately.
        while sentinel.try_command(&words).await.is_err() {
            wait.on().await;
        }
        self.new_primary(old).await
    }

    /// Waits until all sentinels name another primary than this, and it says that it is.
    pub(crate) async fn new_primary(&self, old: usize) -> usize {
        let wait = Wait::until(format!("node {old} is replaced"));
        loop {
            let primary = self.primary().await;
            if primary != old && self.nodes[primary].is_primary().await {
                return primary;
            }
            wait.on().await;
        }
    }

    fn living(&self) -> impl Iterator<Item = &Server> {
        self.sentinels.iter().filter(|node| node.is_answering())
    }

    async fn agreed(&self) -> Option<usize> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
        let mut named = Vec::new();
        for sentinel in self.living() {
            let (_, port): (String, u16) = sentinel.ask(&words).await;
            named.push(port);
        }
        named.dedup();
        let &[port] = named.as_slice() else {
            return None;
        };
        self.nodes.iter().position(|node| node.port() == port)
    }
}

/// Whether this sentinel knows the other sentinels, and the replica to be in order.
async fn knows_all(sentinel: &Server) -> bool {
    type Known = Vec<HashMap<String, String>>;
    let others: Known = sentinel.ask(&["SENTINEL", "SENTINELS", SERVICE]).await;
    let replicas: Known = sentinel.ask(&["SENTINEL", "REPLICAS", SERVICE]).await;
    others.len() == SENTINELS - 1
        && others.iter().all(|other| other["flags"] == "sentinel")
        && replicas.len() == 1
        && replicas[0]["flags"] == "slave"
        && replicas[0]["master-link-status"] == "ok"
}
