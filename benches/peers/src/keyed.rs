//! The limiters that count in the process, each by the quickest way it has to ask it, and with a
//! table made for as many identities as will come.

use std::hash::Hash;
use std::net::IpAddr;

use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use rate_net::Eviction;
use tollgate::{Check, Checked, Identity, Limiter, Limits, LocalStore, Outcome, Store};

use crate::allowance::Allowance;

/// Asked whether a client is allowed one more request.
pub(crate) trait Keyed<Client>: Sync {
    /// What stands for a client, made before it is needed.
    type Key: Sync;

    fn key(client: &Client) -> Self::Key;

    fn for_identities(identities: usize) -> Self;

    fn allows(&self, key: &Self::Key) -> bool;
}

/// The store in the process, by the trait that any store has: its verdict.
pub(crate) struct TollgateVerdict {
    store: LocalStore,
    limits: Limits,
}

impl<Client: Identify> Keyed<Client> for TollgateVerdict {
    type Key = Identity;

    fn key(client: &Client) -> Identity {
        client.identity()
    }

    fn for_identities(identities: usize) -> Self {
        Self {
            store: LocalStore::with_capacity(identities.max(DEFAULT_CAPACITY)),
            limits: Allowance::ENOUGH.tollgate(),
        }
    }

    fn allows(&self, identity: &Identity) -> bool {
        match self.store.check(&Check::new(identity, &self.limits)) {
            Outcome::Ready(Ok(verdict)) => verdict.is_allowed(),
            other => panic!("a local store does not answer {other:?}"),
        }
    }
}

/// The limiter upon that store: all that a client is told, and the metrics, which nobody records.
pub(crate) struct TollgateDecision {
    limiter: Limiter,
    limits: Limits,
}

impl<Client: Identify> Keyed<Client> for TollgateDecision {
    type Key = Identity;

    fn key(client: &Client) -> Identity {
        client.identity()
    }

    fn for_identities(identities: usize) -> Self {
        Self {
            limiter: LocalStore::with_capacity(identities.max(DEFAULT_CAPACITY)).into(),
            limits: Allowance::ENOUGH.tollgate(),
        }
    }

    fn allows(&self, identity: &Identity) -> bool {
        match self.limiter.check(&Check::new(identity, &self.limits)) {
            Checked::Ready(decision) => {
                std::hint::black_box((decision.remaining(), decision.reset_after()));
                decision.is_allowed()
            }
            Checked::Pending(_) => panic!("a local store does not wait"),
        }
    }
}

/// What [`LocalStore::new`] has room for.
const DEFAULT_CAPACITY: usize = 100_000;

pub(crate) trait Identify {
    fn identity(&self) -> Identity;
}

impl Identify for IpAddr {
    fn identity(&self) -> Identity {
        Identity::ip(*self)
    }
}

impl Identify for String {
    fn identity(&self) -> Identity {
        Identity::user(self)
    }
}

/// Its default store, made large enough, and its default clock.
pub(crate) struct Governor<K: Hash + Eq + Clone>(DefaultKeyedRateLimiter<K>);

impl<Client: Hash + Eq + Clone + Send + Sync> Keyed<Client> for Governor<Client> {
    type Key = Client;

    fn key(client: &Client) -> Client {
        client.clone()
    }

    fn for_identities(identities: usize) -> Self {
        let state = DashMapStateStore::with_capacity(identities);
        let quota = Allowance::ENOUGH.governor();
        Self(RateLimiter::new(quota, state, DefaultClock::default()))
    }

    fn allows(&self, key: &Client) -> bool {
        self.0.check_key(key).is_ok()
    }
}

/// Its default clock, and the headroom that it advises: half as much again.
pub(crate) struct RateNet(rate_net::RateLimiter);

impl RateNet {
    fn new(identities: usize) -> Self {
        let capacity = (identities + identities / 2).max(rate_net::DEFAULT_MAX_KEYS);
        let limiter = Allowance::ENOUGH
            .rate_net()
            .eviction(Eviction::capacity(capacity))
            .try_build();
        Self(limiter.expect("the numbers are good"))
    }
}

impl Keyed<String> for RateNet {
    type Key = String;

    fn key(client: &String) -> String {
        client.clone()
    }

    fn for_identities(identities: usize) -> Self {
        Self::new(identities)
    }

    fn allows(&self, key: &String) -> bool {
        self.0.check_bytes(key).is_allow()
    }
}

impl Keyed<IpAddr> for RateNet {
    type Key = IpAddr;

    fn key(client: &IpAddr) -> IpAddr {
        *client
    }

    fn for_identities(identities: usize) -> Self {
        Self::new(identities)
    }

    fn allows(&self, key: &IpAddr) -> bool {
        self.0.check(*key).is_allow()
    }
}
