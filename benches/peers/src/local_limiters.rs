//! The limiters that count in the process. Each is called in its fastest way, and has a table for
//! the number of identities of the contest.

use std::hash::Hash;
use std::net::IpAddr;

use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use rate_net::Eviction;
use tollgate::{Check, Checked, Identity, Limiter, Limits, LocalStore, Store};
use tollgate::store::Outcome;

use crate::token_bucket::TokenBucket;

/// A limiter that counts in the process.
pub(crate) trait LocalLimiter<Client>: Sync {
    /// The key of a client, which is made before the timed checks.
    type Key: Sync;

    fn key(client: &Client) -> Self::Key;

    /// Makes a limiter with room for this number of identities.
    fn for_identities(identities: usize) -> Self;

    /// Makes a check, and returns whether it was allowed.
    fn allows(&self, key: &Self::Key) -> bool;
}

/// tollgate's `LocalStore`, called through the trait `Store`. A check returns a verdict.
pub(crate) struct TollgateVerdict {
    store: LocalStore,
    limits: Limits,
}

impl<Client: Identify> LocalLimiter<Client> for TollgateVerdict {
    type Key = Identity;

    fn key(client: &Client) -> Identity {
        client.identity()
    }

    fn for_identities(identities: usize) -> Self {
        Self {
            store: LocalStore::with_capacity(identities.max(DEFAULT_CAPACITY)),
            limits: TokenBucket::INEXHAUSTIBLE.tollgate(),
        }
    }

    fn allows(&self, identity: &Identity) -> bool {
        match self.store.check(&Check::new(identity, &self.limits)) {
            Outcome::Ready(Ok(verdict)) => verdict.is_allowed(),
            other => panic!("not a verdict of a local store: {other:?}"),
        }
    }
}

/// tollgate's `Limiter` with a `LocalStore`. A check returns a decision with all that a client is
/// told. The limiter also updates metrics, for which no recorder is installed.
pub(crate) struct TollgateDecision {
    limiter: Limiter,
    limits: Limits,
}

impl<Client: Identify> LocalLimiter<Client> for TollgateDecision {
    type Key = Identity;

    fn key(client: &Client) -> Identity {
        client.identity()
    }

    fn for_identities(identities: usize) -> Self {
        Self {
            limiter: LocalStore::with_capacity(identities.max(DEFAULT_CAPACITY)).into(),
            limits: TokenBucket::INEXHAUSTIBLE.tollgate(),
        }
    }

    fn allows(&self, identity: &Identity) -> bool {
        match self.limiter.check(&Check::new(identity, &self.limits)) {
            Checked::Ready(decision) => {
                std::hint::black_box((decision.remaining(), decision.reset_after()));
                decision.is_allowed()
            }
            Checked::Pending(_) => panic!("a check of a local store is pending"),
        }
    }
}

/// The capacity of [`LocalStore::new`].
const DEFAULT_CAPACITY: usize = 100_000;

/// A client that has an identity for tollgate.
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

/// governor with its default store and its default clock.
pub(crate) struct Governor<K: Hash + Eq + Clone>(DefaultKeyedRateLimiter<K>);

impl<Client: Hash + Eq + Clone + Send + Sync> LocalLimiter<Client> for Governor<Client> {
    type Key = Client;

    fn key(client: &Client) -> Client {
        client.clone()
    }

    fn for_identities(identities: usize) -> Self {
        let state = DashMapStateStore::with_capacity(identities);
        let quota = TokenBucket::INEXHAUSTIBLE.governor();
        Self(RateLimiter::new(quota, state, DefaultClock::default()))
    }

    fn allows(&self, key: &Client) -> bool {
        self.0.check_key(key).is_ok()
    }
}

/// rate-net with its default clock, and a capacity of 1.5 times the identities, as it advises.
pub(crate) struct RateNet(rate_net::RateLimiter);

impl RateNet {
    fn new(identities: usize) -> Self {
        let capacity = (identities + identities / 2).max(rate_net::DEFAULT_MAX_KEYS);
        let limiter = TokenBucket::INEXHAUSTIBLE
            .rate_net()
            .eviction(Eviction::capacity(capacity))
            .try_build();
        Self(limiter.expect("a valid configuration"))
    }
}

impl LocalLimiter<String> for RateNet {
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

impl LocalLimiter<IpAddr> for RateNet {
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
