//! The open connections, and how many there may be.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::activity::Activity;
use crate::server_metrics;

/// The shortest time between two log lines about refused connections.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How many connections are compared to find the one to evict. To compare all 10,000 of them for each
/// new connection takes as long as to serve some requests.
const SAMPLE: usize = 64;

/// How long to wait for an evicted connection to close.
const EVICTION: Duration = Duration::from_secs(1);

/// The connections of all listeners. Where there are too many, one that keeps the server waiting is
/// evicted for a new one, so that silent connections do not keep others out.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    max_per_address: usize,
    table: Mutex<Table>,
    /// A connection has closed.
    closed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Open>,
    per_address: HashMap<IpAddr, usize>,
    next: u64,
    logged: Option<Instant>,
    /// Connections evicted or refused since the last log line.
    unlogged: u64,
}

#[derive(Debug)]
struct Open {
    address: IpAddr,
    activity: Arc<Activity>,
}

/// A place in the table, which dropping it frees.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    number: u64,
    pub(super) activity: Arc<Activity>,
}

impl Connections {
    pub(super) fn new(max: usize, max_per_address: usize) -> Self {
        Self(Arc::new(Shared {
            max,
            max_per_address,
            table: Mutex::default(),
            closed: Notify::new(),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        let table = self.0.table.lock();
        table.unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from this address; `None` where it must be refused, since the server
    /// works on requests of all others.
    pub(super) async fn admit(&self, address: IpAddr) -> Option<Place> {
        let address = group(address);
        let deadline = Instant::now() + EVICTION;
        loop {
            let closed = self.0.closed.notified();
            {
                let mut table = self.table();
                let of_address = table.per_address.get(&address).copied().unwrap_or(0);
                let is_full = of_address >= self.0.max_per_address;
                if !is_full && table.open.len() < self.0.max {
                    return Some(self.insert(&mut table, address));
                }
                let evicted = table.evict(is_full.then_some(address));
                table.log(address, is_full, evicted);
                if !evicted {
                    server_metrics::connection_ended("refused");
                    return None;
                }
                server_metrics::connection_ended("evicted");
            }
            if timeout_at(deadline, closed).await.is_err() {
                server_metrics::connection_ended("refused");
                return None;
            }
        }
    }

    fn insert(&self, table: &mut Table, address: IpAddr) -> Place {
        let (number, activity) = (table.next, Activity::new());
        table.next += 1;
        *table.per_address.entry(address).or_default() += 1;
        let open = Open {
            address,
            activity: Arc::clone(&activity),
        };
        table.open.insert(number, open);
        server_metrics::connections(table.open.len());
        Place {
            connections: self.clone(),
            number,
            activity,
        }
    }
}

impl Table {
    /// Evicts a connection of this address, or of any, if the server waits for the client of one.
    fn evict(&self, address: Option<IpAddr>) -> bool {
        let count = self.open.len();
        let start = fastrand::usize(..count.max(1));
        let sample = self
            .open
            .values()
            .cycle()
            .skip(start)
            .take(count.min(SAMPLE));
        // The sample may miss a single address.
        let victim = self.victim(sample, address);
        let victim = victim.or_else(|| self.victim(self.open.values(), address));
        victim.is_some_and(|open| open.activity.evict())
    }

    /// The connection to evict: first of those with a late request, then of the addresses with the most
    /// connections, then the one that has been waited for the longest.
    fn victim<'a>(
        &self,
        open: impl Iterator<Item = &'a Open>,
        address: Option<IpAddr>,
    ) -> Option<&'a Open> {
        let candidates = open.filter(|open| address.is_none_or(|address| open.address == address));
        let ranked = candidates.filter_map(|open| {
            let (waiting, since) = open.activity.waiting()?;
            let of_address = self.per_address.get(&open.address);
            Some(((waiting, Reverse(of_address), since), open))
        });
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, open)| open)
    }

    fn log(&mut self, address: IpAddr, is_of_address: bool, evicted: bool) {
        self.unlogged += 1;
        let now = Instant::now();
        if self
            .logged
            .is_some_and(|logged| now < logged + LOG_INTERVAL)
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
            connections = self.unlogged,
            "too many connections: {}",
            match evicted {
                true => "those that keep the server waiting are closed for new ones",
                false => "new ones are refused, since the server works on requests of all others",
            }
        );
        self.logged = Some(now);
        self.unlogged = 0;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        let Some(open) = table.open.remove(&self.number) else {
            return;
        };
        if let Some(count) = table.per_address.get_mut(&open.address) {
            *count -= 1;
            if *count == 0 {
                table.per_address.remove(&open.address);
            }
        }
        server_metrics::connections(table.open.len());
        drop(table);
        self.connections.0.closed.notify_waiters();
    }
}

/// The address that is counted: for IPv6 the network of 64 bits that one client commonly has whole.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// Descriptors for listeners, files that are read, the overrides, and connections that are being
/// refused.
const RESERVED: u64 = 64;

/// Connections of all clients, unless set: enough for any use, and bounded in memory.
const DEFAULT: usize = 10_000;

/// How many connections clients may have: as many as are set, or as the process has descriptors for.
/// Those to Redis, `to_redis`, are not among them.
pub(super) fn max_connections(set: Option<u32>, to_redis: usize) -> anyhow::Result<usize> {
    let descriptors = raise_limit();
    let reserved = RESERVED + to_redis as u64;
    let available = descriptors.saturating_sub(reserved).max(1);
    let available = usize::try_from(available).unwrap_or(usize::MAX);
    let Some(set) = set else {
        return Ok(available.min(DEFAULT));
    };
    let set = set as usize;
    if set > available {
        bail!(
            "listen.max_connections is {set}, and the limit of {descriptors} file descriptors allows \
             {available}: set less, or raise the limit (ulimit -n)"
        );
    }
    Ok(set)
}

/// Raises the limit of descriptors as far as the process may, and returns it. The usual limit of
/// 1,024 is low for the sake of `select`, which the server does not use.
fn raise_limit() -> u64 {
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
    use super::Connections;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// The evicted connection's task, which closes it.
    fn close_when_evicted(place: super::Place) {
        tokio::spawn(async move { place.activity.evicted().await });
    }

    #[tokio::test(start_paused = true)]
    async fn late_requests_are_evicted_before_idle_connections() {
        for sends_head in [false, true] {
            let connections = Connections::new(2, 2);
            let idle = connections.admit(address("10.0.0.1")).await.expect("room");
            drop(idle.activity.begin(Version::HTTP_11, 10));
            tokio::time::advance(Duration::from_secs(9)).await;
            let late = connections.admit(address("10.0.0.2")).await.expect("room");
            let _request = sends_head.then(|| late.activity.begin(Version::HTTP_11, 10));
            tokio::time::advance(Duration::from_secs(1)).await;
            close_when_evicted(late);

            assert!(connections.admit(address("10.0.0.3")).await.is_some());
            assert!(idle.activity.waiting().is_some(), "the idle one stays");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_client_outlives_idle_connections_of_a_large_group() {
        let connections = Connections::new(4, 3);
        let mut group = Vec::new();
        for _ in 0..3 {
            let place = connections.admit(address("10.0.0.1")).await.expect("room");
            drop(place.activity.begin(Version::HTTP_11, 10));
            group.push(place.activity.clone());
            close_when_evicted(place);
        }
        let client = connections.admit(address("10.0.0.2")).await.expect("room");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(connections.admit(address("10.0.0.3")).await.is_some());
        assert!(client.activity.waiting().is_some(), "the client stays");
        assert_eq!(
            group.iter().filter(|idle| idle.waiting().is_none()).count(),
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn connection_with_a_request_is_never_evicted() {
        let connections = Connections::new(1, 1);
        let busy = connections.admit(address("10.0.0.1")).await.expect("room");
        let request = busy.activity.begin(Version::HTTP_11, 10).expect("room");
        request.reach(Stage::Working);
        assert!(connections.admit(address("10.0.0.2")).await.is_none());
        drop(request);
        close_when_evicted(busy);
        assert!(connections.admit(address("10.0.0.2")).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn full_address_leaves_room_for_others() {
        let connections = Connections::new(10, 1);
        let one = connections
            .admit(address("2001:db8::1"))
            .await
            .expect("room");
        let request = one.activity.begin(Version::HTTP_11, 10).expect("room");
        request.reach(Stage::Working);
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
            super::group(address("::ffff:10.0.0.1")),
            address("10.0.0.1")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn closed_connection_frees_its_place() {
        let connections = Connections::new(1, 1);
        for _ in 0..3 {
            let place = connections.admit(address("10.0.0.1")).await.expect("room");
            let _request = place.activity.begin(Version::HTTP_2, 10).expect("room");
        }
        assert!(connections.table().per_address.is_empty());
    }
}
