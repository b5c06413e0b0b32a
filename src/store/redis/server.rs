#[cfg(feature = "redis-sentinel")]
use std::sync::Arc;

#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
use redis::ConnectionAddr;
use redis::ConnectionInfo;
use tokio::runtime::Handle;

use super::connection::Connection;
use super::script::Script;
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Sentinel;
use crate::store::StoreError;

/// How to find the server of a link.
pub(super) enum Server {
    At(Box<ConnectionInfo>),
    /// Whichever is the primary now.
    #[cfg(feature = "redis-sentinel")]
    Primary(Arc<Sentinel>),
}

impl Server {
    pub(super) async fn open(&self, script: &Script) -> Result<Connection, StoreError> {
        match self {
            Self::At(info) => Connection::open((**info).clone(), script).await,
            #[cfg(feature = "redis-sentinel")]
            Self::Primary(sentinel) => sentinel.open(script).await,
        }
    }

    /// Looks up, now and then, whether the server that is connected to still has its place.
    #[cfg_attr(
        not(feature = "redis-sentinel"),
        expect(
            unused_variables,
            reason = "a server that is configured keeps its place"
        )
    )]
    pub(super) fn watch(&self, connection: &Connection, runtime: &Handle) {
        #[cfg(feature = "redis-sentinel")]
        if let Self::Primary(sentinel) = self {
            sentinel.watch(connection, runtime);
        }
    }
}

/// The same way of connecting, to another address.
#[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
pub(super) fn moved(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let mut address = info.addr().clone();
    match &mut address {
        ConnectionAddr::TcpTls {
            host: old_host,
            port: old_port,
            ..
        } => (*old_host, *old_port) = (host.into(), port),
        other => *other = ConnectionAddr::Tcp(host.into(), port),
    }
    info.clone().set_addr(address)
}
