#[cfg(feature = "redis-sentinel")]
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::connection::Connection;
use super::endpoint::{CONNECT_TIMEOUT, Endpoint};
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinel;
use super::shared::Shared;
use crate::store::StoreError;

/// A server to connect to.
pub(super) enum Server {
    /// A server that has all keys, or a proxy in front of such servers.
    Single(Box<Endpoint>),
    /// A node of a cluster.
    #[cfg(feature = "redis-cluster")]
    ClusterNode(Box<Endpoint>),
    /// The primary, as the sentinels name it.
    #[cfg(feature = "redis-sentinel")]
    Primary(Arc<Sentinel>),
}

impl Server {
    pub(super) async fn connect(&self, shared: &Shared) -> Result<Connection, StoreError> {
        match self {
            Self::Single(endpoint) => Connection::open(endpoint, shared).await,
            #[cfg(feature = "redis-cluster")]
            Self::ClusterNode(endpoint) => Connection::open_node(endpoint, shared).await,
            #[cfg(feature = "redis-sentinel")]
            Self::Primary(sentinel) => sentinel.connect(shared).await,
        }
    }

    /// The timeout of [`connect`](Server::connect).
    pub(super) fn connect_timeout(&self) -> Duration {
        match self {
            #[cfg(feature = "redis-sentinel")]
            Self::Primary(sentinel) => CONNECT_TIMEOUT + sentinel.discovery_timeout(),
            _ => CONNECT_TIMEOUT,
        }
    }

    /// The server's address, or the sentinels' name for the primary.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Single(endpoint) => endpoint.address.to_string(),
            #[cfg(feature = "redis-cluster")]
            Self::ClusterNode(endpoint) => endpoint.address.to_string(),
            #[cfg(feature = "redis-sentinel")]
            Self::Primary(sentinel) => sentinel.service().to_owned(),
        }
    }

    /// Asks a sentinel, at most once a second, whether the connected server is still the primary.
    #[cfg_attr(
        not(feature = "redis-sentinel"),
        expect(unused_variables, reason = "only sentinels replace a server")
    )]
    pub(super) fn verify_primary(&self, connection: &Connection, runtime: &Handle) {
        #[cfg(feature = "redis-sentinel")]
        if let Self::Primary(sentinel) = self {
            sentinel.verify_primary(connection, runtime);
        }
    }
}
