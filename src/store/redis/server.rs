#[cfg(feature = "redis-sentinel")]
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::Core;
use super::connection::{Connection, PATIENCE};
use super::endpoint::Endpoint;
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinel;
use crate::store::StoreError;

/// Where a link connects to.
pub(super) enum Server {
    /// A server that has all keys, or a proxy before such servers.
    At(Box<Endpoint>),
    /// A node of a cluster.
    #[cfg(feature = "redis-cluster")]
    Node(Box<Endpoint>),
    /// The server that sentinels name as the primary.
    #[cfg(feature = "redis-sentinel")]
    Primary(Arc<Sentinel>),
}

impl Server {
    pub(super) async fn open(&self, core: &Core) -> Result<Connection, StoreError> {
        match self {
            Self::At(endpoint) => Connection::open(endpoint, core).await,
            #[cfg(feature = "redis-cluster")]
            Self::Node(endpoint) => Connection::open_node(endpoint, core).await,
            #[cfg(feature = "redis-sentinel")]
            Self::Primary(sentinel) => sentinel.open(core).await,
        }
    }

    /// How long [`open`](Server::open) may take.
    pub(super) fn patience(&self) -> Duration {
        match self {
            #[cfg(feature = "redis-sentinel")]
            Self::Primary(sentinel) => PATIENCE + sentinel.discovery_timeout(),
            _ => PATIENCE,
        }
    }

    /// The server's address, or the name that the sentinels know it by.
    pub(super) fn name(&self) -> String {
        match self {
            Self::At(endpoint) => endpoint.address.to_string(),
            #[cfg(feature = "redis-cluster")]
            Self::Node(endpoint) => endpoint.address.to_string(),
            #[cfg(feature = "redis-sentinel")]
            Self::Primary(sentinel) => sentinel.service().to_owned(),
        }
    }

    /// Asks the sentinels, once a second at most, whether the connected server is still the primary.
    #[cfg_attr(
        not(feature = "redis-sentinel"),
        expect(unused_variables, reason = "only sentinels replace a server")
    )]
    pub(super) fn watch(&self, connection: &Connection, runtime: &Handle) {
        #[cfg(feature = "redis-sentinel")]
        if let Self::Primary(sentinel) = self {
            sentinel.watch(connection, runtime);
        }
    }
}
