//! Counts in Redis or Valkey, shared by every process that asks the same server.
//!
//! A check goes `RedisStore` → `denials` (is it known to be denied?) → `link` (the queue before a
//! connection, and the task that empties it) → `batch` (many checks, one call) → `script`
//! (`check.lua`, which decides) and back, to the place that its `waiter` has for it. `sentinel` and
//! `cluster` say which server to ask.
//!
//! Three limits of time follow from one, the time that a check says it has left:
//!
//! - a waiter goes when that is over, and is not sent if the answer would come later (`batch`);
//! - an entry is good until the first of its waiters goes: after that the script does not do it, by
//!   the server's clock (`script`);
//! - a round trip is waited for until the last of its waiters goes, and for as long again, a second
//!   at most: then the connection is given up (`link`).

mod backoff;
mod batch;
#[cfg(feature = "bench")]
pub mod bench;
mod builder;
#[cfg(feature = "redis-cluster")]
mod cluster;
mod connection;
mod credentials;
mod denials;
mod endpoint;
mod link;
mod pace;
mod queue;
mod refusal;
mod script;
#[cfg(feature = "redis-sentinel")]
mod sentinel;
mod server;
mod servers;
#[cfg(feature = "redis-cluster")]
mod slots;
mod subject;
#[cfg(all(test, feature = "test-util"))]
mod tests;
#[cfg(feature = "redis-tls")]
mod tls;
mod url;
mod waiter;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

pub use self::builder::RedisStoreBuilder;
pub use self::credentials::RedisCredentials;
use self::denials::Denials;
use self::refusal::unavailable;
use self::script::{Operation, Script};
use self::servers::Servers;
use self::subject::Subject;
use self::waiter::Wait;
use super::check::{self, Check};
use super::error::StoreError;
use super::store::{Outcome, Store};
use super::verdict::Verdict;
use crate::error::RedisConfigError;
use crate::metrics::BatchMeter;

/// How long a check waits that does not say: one that is made without a limiter.
const UNSAID_PATIENCE: Duration = Duration::from_secs(2);

/// How long [`ping`](RedisStore::ping) waits for each server: to find it, to connect, and for its
/// answer.
const PING_PATIENCE: Duration = connection::PATIENCE.saturating_mul(2);

/// No check waits for longer, whatever it says.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

/// Counts in Redis (6.2 or later) or Valkey, shared by every process that asks the same server.
///
/// A script on the server decides, by the server's clock, in one round trip, all policies of a
/// check at once; checks that come while one is under way share the next. Connects on first use,
/// and again whenever it must. Used behind a [`Limiter`](crate::Limiter), which every
/// [`RateLimitLayer`](crate::RateLimitLayer) has, a server that is slow or gone holds no request up
/// for longer than the deadline. [The guide](crate::guide::redis) says how to run it, and what
/// happens when the server fails.
///
/// ```
/// use tollgate::{Quota, RateLimitLayer, RedisStore};
///
/// let store = RedisStore::new("redis://127.0.0.1:6379")?;
/// let layer = RateLimitLayer::new(Quota::per_minute(100), store);
/// # Ok::<(), tollgate::RedisConfigError>(())
/// ```
///
/// Cheap to clone; clones share connections, of which each Tokio runtime has its own. Needs one with
/// I/O and time enabled. A check that is made on the store itself, without a limiter, waits for two
/// seconds unless the `time_left` of the [`Check`] says otherwise.
#[derive(Clone)]
pub struct RedisStore {
    core: Arc<Core>,
}

impl RedisStore {
    /// A store on one server, at `redis://[user:password@]host[:port][/database]`, `rediss://` for
    /// TLS (feature `redis-tls`), or `redis+unix:///path[?user=…&pass=…&db=…]` for a Unix socket.
    ///
    /// A special character of a user or password is written percent-encoded, `@` as `%40`. The store
    /// speaks RESP2, which every server and proxy knows; `?protocol=resp3` makes it speak RESP3.
    ///
    /// # Errors
    ///
    /// If the URL is none. Whether the server is there is found out later: see
    /// [`ping`](RedisStore::ping).
    pub fn new(url: &str) -> Result<Self, RedisConfigError> {
        Self::builder(url).build()
    }

    /// A store on one server, with options.
    pub fn builder(url: &str) -> RedisStoreBuilder {
        RedisStoreBuilder::one(url)
    }

    /// A store on a Redis Cluster, of which at least one of the nodes is reached at one of these
    /// URLs. User and password of the first are those of all nodes.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<'a>(urls: impl IntoIterator<Item = &'a str>) -> RedisStoreBuilder {
        RedisStoreBuilder::cluster(urls)
    }

    /// A store on whichever server the sentinels at these URLs name as the primary of `service`.
    ///
    /// User and password in the URLs are for the sentinels; those for the server are set on the
    /// builder. If the first URL asks for TLS, the server is connected to with TLS too.
    #[cfg(feature = "redis-sentinel")]
    pub fn sentinel<'a>(
        urls: impl IntoIterator<Item = &'a str>,
        service: &str,
    ) -> RedisStoreBuilder {
        RedisStoreBuilder::sentinel(urls, service)
    }

    /// Finds out whether checks can be decided: connects if need be, runs the script, and writes
    /// a reserved key. In a cluster, on every node that has slots.
    ///
    /// For a readiness endpoint, or to learn at start what is wrong. Each server has two seconds to
    /// connect and answer.
    ///
    /// # Errors
    ///
    /// The first error of a server, or of the connection to it, with the address and the cause.
    pub async fn ping(&self) -> Result<(), StoreError> {
        // The first answer tells which other lanes there are.
        let mut next = Some(0);
        while let Some(lane) = next {
            let probe = self.probe(lane, PING_PATIENCE).wait();
            let answer = timeout(PING_PATIENCE, probe).await;
            let too_slow = || unavailable("no answer in time").at(&self.lane_name(lane));
            answer.unwrap_or_else(|_| Err(too_slow()))?;
            next = self.core.servers.lane_after(lane);
        }
        Ok(())
    }
}

impl Store for RedisStore {
    fn check(&self, check: &Check<'_>) -> Outcome {
        let subject = Subject::new(check);
        if let Some(verdict) = self.core.denials.recall(&subject, check) {
            self.core.meter.remembered();
            return Outcome::Ready(Ok(verdict));
        }
        self.core.put(Operation::Check, check, subject, false)
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        let subject = Subject::new(check);
        match self.core.put(Operation::Reset, check, subject, false) {
            Outcome::Ready(result) => Outcome::Ready(result.map(drop)),
            Outcome::Pending(answer) => {
                Outcome::Pending(Box::pin(async { answer.await.map(drop) }))
            }
        }
    }

    fn lane(&self, check: &Check<'_>) -> usize {
        self.core.servers.lane(check.identity)
    }

    fn probe(&self, lane: usize, time_left: Duration) -> Outcome {
        let Some(identity) = self.core.servers.identity_in(lane) else {
            // Nothing goes by this lane any more.
            return Outcome::Ready(Ok(Verdict::new(true, 0, [])));
        };
        let mut probe = check::probe(time_left);
        probe.identity = &identity;
        let subject = Subject::new(&probe);
        self.core.put(Operation::Check, &probe, subject, true)
    }

    fn lane_name(&self, lane: usize) -> String {
        self.core.servers.lane_name(lane)
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn instance(&self) -> usize {
        Arc::as_ptr(&self.core).addr()
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.core.prefix)
            .finish_non_exhaustive()
    }
}

/// What all clones and tasks of a store share.
struct Core {
    prefix: String,
    most_keys: usize,
    longest_queue: usize,
    max_connection_age: Option<Duration>,
    script: Script,
    denials: Denials,
    meter: BatchMeter,
    servers: Servers,
}

impl Core {
    /// Puts a question to the server that has the identity's counts.
    fn put(
        self: &Arc<Self>,
        operation: Operation,
        check: &Check<'_>,
        subject: Subject,
        probes: bool,
    ) -> Outcome {
        let Ok(runtime) = Handle::try_current() else {
            return Outcome::Ready(Err(unavailable("RedisStore needs a Tokio runtime")));
        };
        let patience = match check.time_left {
            Duration::MAX => UNSAID_PATIENCE,
            said => said.min(LONGEST_PATIENCE),
        };
        let until = check.started_at() + patience;
        let mut wait = Wait::new(operation, check.into_owned(), subject, patience, until);
        wait.probes = probes;
        wait.slot = self.servers.slot_of(check.identity);
        let (waiter, answer) = wait.begin();
        self.servers.ask(self, &runtime, waiter);
        Outcome::Pending(Box::pin(answer))
    }
}
