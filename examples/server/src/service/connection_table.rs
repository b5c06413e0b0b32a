//! The open connections, their maximum, and eviction.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::activity::ConnectionActivity;
use crate::server_metrics;

/// The minimum interval between two log lines about too many connections.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The number of connections that are compared to find a victim. To compare 10,000 connections for
/// each new connection would take as long as to serve several requests.
const SAMPLE: usize = 64;

/// The timeout for an evicted connection to close.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections of all listeners. If there are too many, a new connection evicts a connection
/// whose client keeps the server waiting, so that idle clients cannot block others. Clones share
/// the table.
#[derive(Clone, Debug)]
pub(super) struct ConnectionTable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    max_per_address: usize,
    state: Mutex<State>,
    /// Notified when a connection has closed.
    closed: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<u64, OpenConnection>,
    per_address: HashMap<IpAddr, usize>,
    next_id: u64,
    logged_at: Option<Instant>,
    /// Connections evicted or refused since the last log line.
    not_logged: u64,
}

#[derive(Debug)]
struct OpenConnection {
    address: IpAddr,
    activity: Arc<ConnectionActivity>,
}

/// The permit of an open connection, which is released when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: ConnectionTable,
    id: u64,
    pub(super) activity: Arc<ConnectionActivity>,
}

impl ConnectionTable {
    pub(super) fn new(max: usize, max_per_address: usize) -> Self {
        Self(Arc::new(Inner {
            max,
            max_per_address,
            state: Mutex::default(),
            closed: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a permit for a connection from this address, after an eviction if necessary. Returns
    /// `None` if the connection must be refused, because no connection can be evicted.
    pub(super) async fn admit(&self, address: IpAddr) -> Option<ConnectionPermit> {
        let address = client_network(address);
        let deadline = Instant::now() + EVICTION_TIMEOUT;
        loop {
            let closed = self.0.closed.notified();
            {
                let mut state = self.state();
                let of_address = state.per_address.get(&address).copied().unwrap_or(0);
                let is_full = of_address >= self.0.max_per_address;
                if !is_full && state.open.len() < self.0.max {
                    return Some(self.insert(&mut state, address));
                }
                let evicted = state.evict(is_full.then_some(address));
                state.log(address, is_full, evicted);
                if !evicted {
                    server_metrics::record_connection_ended("refused");
                    return None;
                }
                server_metrics::record_connection_ended("evicted");
            }
            if timeout_at(deadline, closed).await.is_err() {
                server_metrics::record_connection_ended("refused");
                return None;
            }
        }
    }

    fn insert(&self, state: &mut State, address: IpAddr) -> ConnectionPermit {
        let (id, activity) = (state.next_id, ConnectionActivity::new());
        state.next_id += 1;
        *state.per_address.entry(address).or_default() += 1;
        let open = OpenConnection {
            address,
            activity: Arc::clone(&activity),
        };
        state.open.insert(id, open);
        server_metrics::set_connections(state.open.len());
        ConnectionPermit {
            connections: self.clone(),
            id,
            activity,
        }
    }
}

impl State {
    /// Evicts a connection of the address, or of any address without one. Returns false if no
    /// connection can be evicted.
    fn evict(&self, address: Option<IpAddr>) -> bool {
        let count = self.open.len();
        let start = fastrand::usize(..count.max(1));
        let sample = self
            .open
            .values()
            .cycle()
            .skip(start)
            .take(count.min(SAMPLE));
        // The sample may not contain the address.
        let victim = self.victim(sample, address);
        let victim = victim.or_else(|| self.victim(self.open.values(), address));
        victim.is_some_and(|open| open.activity.evict())
    }

    /// Returns the connection to evict: with a late request before idle, then of the address with
    /// the most connections, then the one that the server has waited for the longest.
    fn victim<'a>(
        &self,
        open: impl Iterator<Item = &'a OpenConnection>,
        address: Option<IpAddr>,
    ) -> Option<&'a OpenConnection> {
        let candidates = open.filter(|open| address.is_none_or(|address| open.address == address));
        let ranked = candidates.filter_map(|open| {
            let (eviction_class, since) = open.activity.eviction_class()?;
            let of_address = self.per_address.get(&open.address);
            Some(((eviction_class, Reverse(of_address), since), open))
        });
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, open)| open)
    }

    fn log(&mut self, address: IpAddr, is_of_address: bool, evicted: bool) {
        self.not_logged += 1;
        let now = Instant::now();
        if self
            .logged_at
            .is_some_and(|logged_at| now < logged_at + LOG_INTERVAL)
        {
            return;
        }
        let setting = match is_of_address {
            true => "listen.max_connections_per_address",
            false => "listen.max_connections",
        };
        tracing::warn!(
            open = self.open.len(),
            %address,
            setting,
            connections = self.not_logged,
            "too many connections: {}",
            match evicted {
                true => {
                    "connections whose clients keep the server waiting are closed for new ones"
                },
                false => {
                    "new connections are refused, because all others have requests in progress"
                },
            }
        );
        self.logged_at = Some(now);
        self.not_logged = 0;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        let Some(open) = state.open.remove(&self.id) else {
            return;
        };
        if let Some(count) = state.per_address.get_mut(&open.address) {
            *count -= 1;
            if *count == 0 {
                state.per_address.remove(&open.address);
            }
        }
        server_metrics::set_connections(state.open.len());
        drop(state);
        self.connections.0.closed.notify_waiters();
    }
}

/// Returns the address that a connection counts for. For IPv6 it is the /64 network, since one
/// client usually has all its addresses.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// The file descriptors for listeners, files, the overrides, and connections that are being
/// refused.
const RESERVED_DESCRIPTORS: u64 = 64;

/// The maximum number of client connections by default. It bounds the memory.
const DEFAULT_MAX_CONNECTIONS: usize = 10_000;

/// Returns the maximum number of client connections: `configured`, or as many as the limit of file
/// descriptors allows beside `redis_connections`.
pub(super) fn max_connections(
    configured: Option<u32>,
    redis_connections: usize,
) -> anyhow::Result<usize> {
    let descriptors = raise_descriptor_limit();
    let reserved = RESERVED_DESCRIPTORS + redis_connections as u64;
    let available = descriptors.saturating_sub(reserved).max(1);
    let available = usize::try_from(available).unwrap_or(usize::MAX);
    let Some(configured) = configured else {
        return Ok(available.min(DEFAULT_MAX_CONNECTIONS));
    };
    let configured = configured as usize;
    if configured > available {
        bail!(
            "listen.max_connections is {configured}, and the limit of {descriptors} file descriptors \
             allows {available}: set a smaller number, or raise the limit (ulimit -n)"
        );
    }
    Ok(configured)
}

/// Raises the limit of file descriptors to the hard limit, and returns it. The usual soft limit of
/// 1,024 exists for `select`, which the server does not use.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(_) => limit,
    };
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use axum::http::Version;

    use super::super::activity::Stage;
    use super::ConnectionTable;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("a valid address")
    }

    /// Closes the connection once it is evicted, as its task does.
    fn close_when_evicted(permit: super::ConnectionPermit) {
        tokio::spawn(async move { permit.activity.evicted().await });
    }

    #[tokio::test(start_paused = true)]
    async fn late_requests_are_evicted_before_idle_connections() {
        for sends_head in [false, true] {
            let connections = ConnectionTable::new(2, 2);
            let idle = connections
                .admit(address("10.0.0.1"))
                .await
                .expect("a free permit");
            drop(idle.activity.begin_request(Version::HTTP_11, 10));
            tokio::time::advance(Duration::from_secs(9)).await;
            let late = connections
                .admit(address("10.0.0.2"))
                .await
                .expect("a free permit");
            let _request = sends_head.then(|| late.activity.begin_request(Version::HTTP_11, 10));
            tokio::time::advance(Duration::from_secs(1)).await;
            close_when_evicted(late);

            assert!(connections.admit(address("10.0.0.3")).await.is_some());
            assert!(
                idle.activity.eviction_class().is_some(),
                "the idle connection stays"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_client_outlives_idle_connections_of_a_large_group() {
        let connections = ConnectionTable::new(4, 3);
        let mut group = Vec::new();
        for _ in 0..3 {
            let permit = connections
                .admit(address("10.0.0.1"))
                .await
                .expect("a free permit");
            drop(permit.activity.begin_request(Version::HTTP_11, 10));
            group.push(permit.activity.clone());
            close_when_evicted(permit);
        }
        let client = connections
            .admit(address("10.0.0.2"))
            .await
            .expect("a free permit");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(connections.admit(address("10.0.0.3")).await.is_some());
        assert!(
            client.activity.eviction_class().is_some(),
            "the client stays"
        );
        assert_eq!(
            group
                .iter()
                .filter(|idle| idle.eviction_class().is_none())
                .count(),
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn connection_with_a_request_is_never_evicted() {
        let connections = ConnectionTable::new(1, 1);
        let busy = connections
            .admit(address("10.0.0.1"))
            .await
            .expect("a free permit");
        let request = busy
            .activity
            .begin_request(Version::HTTP_11, 10)
            .expect("a free permit");
        request.advance_to(Stage::Working);
        assert!(connections.admit(address("10.0.0.2")).await.is_none());
        drop(request);
        close_when_evicted(busy);
        assert!(connections.admit(address("10.0.0.2")).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn full_address_leaves_room_for_others() {
        let connections = ConnectionTable::new(10, 1);
        let one = connections
            .admit(address("2001:db8::1"))
            .await
            .expect("a free permit");
        let request = one
            .activity
            .begin_request(Version::HTTP_11, 10)
            .expect("a free permit");
        request.advance_to(Stage::Working);
        assert!(connections.admit(address("2001:db8::2")).await.is_none());
        assert!(
            connections
                .admit(address("2001:db8:0:1::1"))
                .await
                .is_some()
        );
        assert!(
            connections
                .admit(address("::ffff:10.0.0.1"))
                .await
                .is_some()
        );
        assert_eq!(
            super::client_network(address("::ffff:10.0.0.1")),
            address("10.0.0.1")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn closed_connection_releases_its_permit() {
        let connections = ConnectionTable::new(1, 1);
        for _ in 0..3 {
            let permit = connections
                .admit(address("10.0.0.1"))
                .await
                .expect("a free permit");
            let _request = permit
                .activity
                .begin_request(Version::HTTP_2, 10)
                .expect("a free permit");
        }
        assert!(connections.state().per_address.is_empty());
    }
}
