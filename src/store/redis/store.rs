use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::endpoint::CONNECT_TIMEOUT;
use super::error::unavailable;
use super::fingerprint::Fingerprint;
use super::pending::{Answer, Request};
use super::script::Operation;
use super::settlement;
use super::shared::Shared;
use crate::store::check::{self, Check};
use crate::store::store::{Outcome, Store};
use crate::store::{Receipt, StoreError, Verdict};

/// The timeout of a check without `time_left`, which was made without a limiter.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum timeout of a check.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The timeout of [`ping`](RedisStore::ping) for each server: to connect, and to reply.
const PING_TIMEOUT: Duration = CONNECT_TIMEOUT.saturating_mul(2);

/// A store in Redis (6.2 or later) or Valkey, shared by every process that uses the same server.
///
/// A script on the server decides all policies of a check at once, by the server's clock, in one round
/// trip. Checks that arrive during a round trip share the next one. The store connects on first use,
/// and reconnects when it must. Behind a [`Limiter`](crate::Limiter), which every
/// [`RateLimitLayer`](crate::RateLimitLayer) has, a slow or unreachable server delays no request beyond
/// the deadline. [The guide](crate::guide::redis) describes operation and failures.
///
/// ```
/// use tollgate::{Quota, RateLimitLayer, RedisStore};
///
/// let store = RedisStore::new("redis://127.0.0.1:6379")?;
/// let layer = RateLimitLayer::new(Quota::per_minute(100), store);
/// # Ok::<(), tollgate::RedisConfigError>(())
/// ```
///
/// Cheap to clone. Clones share connections, of which each Tokio runtime has its own; the runtime needs
/// I/O and time enabled. A check on the store itself, without a limiter, has a timeout of two seconds
/// unless the [`Check`] has a `time_left`.
#[derive(Clone)]
pub struct RedisStore {
    pub(super) shared: Arc<Shared>,
}

impl RedisStore {
    /// Checks that the store works: connects if need be, runs the script, and writes a reserved key. In
    /// a cluster, does so on every node that owns hash slots.
    ///
    /// For a readiness endpoint, or to find a wrong configuration at startup. Each server has two seconds
    /// to connect and reply.
    ///
    /// # Errors
    ///
    /// Returns the first error of a server or of the connection to it, with the address and the cause.
    pub async fn ping(&self) -> Result<(), StoreError> {
        // The probe of the first lane discovers the other lanes of a cluster.
        let mut next = Some(0);
        while let Some(lane) = next {
            let probe = self.probe(lane, PING_TIMEOUT).wait();
            let answer = timeout(PING_TIMEOUT, probe).await;
            let timed_out = || {
                unavailable(format!("no reply within {PING_TIMEOUT:?}")).at(&self.lane_name(lane))
            };
            answer.unwrap_or_else(|_| Err(timed_out()))?;
            next = self.shared.topology.lane_after(lane);
        }
        Ok(())
    }

    fn submit_settlement(
        &self,
        operation: Operation,
        check: &Check<'_>,
        receipt: &Receipt,
        used: u32,
    ) -> Option<Answer> {
        let fingerprint = Fingerprint::new(check);
        let (shared, receipt) = (&self.shared, receipt.clone());
        settlement::submit(
            shared,
            operation,
            check.into_owned(),
            fingerprint,
            receipt,
            used,
        )
    }

    /// Sends a check or a reset to the server that has the identity's state.
    pub(super) fn submit(
        &self,
        operation: Operation,
        check: &Check<'_>,
        fingerprint: Fingerprint,
        is_probe: bool,
    ) -> Outcome {
        let Ok(runtime) = Handle::try_current() else {
            return Outcome::Ready(Err(unavailable(
                "RedisStore must be used within a Tokio runtime",
            )));
        };
        let timeout = match check.time_left {
            Duration::MAX => DEFAULT_TIMEOUT,
            time_left => time_left.min(MAX_TIMEOUT),
        };
        let deadline = check.started_at() + timeout;
        let topology = &self.shared.topology;
        let mut request = Request::new(
            operation,
            check.into_owned(),
            fingerprint,
            timeout,
            deadline,
        );
        request.is_probe = is_probe;
        request.slot = topology.slot(check.identity);
        let (pending, answer) = request.start();
        topology.submit(&self.shared, &runtime, pending);
        Outcome::Pending(Box::pin(answer))
    }
}

impl Store for RedisStore {
    fn check(&self, check: &Check<'_>) -> Outcome {
        let fingerprint = Fingerprint::new(check);
        if let Some(verdict) = self.shared.denials.get(&fingerprint, check) {
            self.shared.meter.cache_hit();
            return Outcome::Ready(Ok(verdict));
        }
        let operation = match check.reserves() {
            true => Operation::Reserve,
            false => Operation::Check,
        };
        self.submit(operation, check, fingerprint, false)
    }

    fn reset(&self, check: &Check<'_>) -> Outcome<()> {
        let fingerprint = Fingerprint::new(check);
        // A settlement that is sent after the reset must find it, even before the reset is answered.
        self.shared.denials.invalidate(&fingerprint, true);
        match self.submit(Operation::Reset, check, fingerprint, false) {
            Outcome::Ready(result) => Outcome::Ready(result.map(drop)),
            Outcome::Pending(answer) => {
                Outcome::Pending(Box::pin(async { answer.await.map(drop) }))
            }
        }
    }

    fn can_settle(&self) -> bool {
        true
    }

    fn settle(&self, check: &Check<'_>, receipt: &Receipt, used: u32) -> Outcome<()> {
        match self.submit_settlement(Operation::Settle, check, receipt, used) {
            None => Outcome::Ready(Ok(())),
            Some(answer) => Outcome::Pending(Box::pin(async { answer.await.map(drop) })),
        }
    }

    fn renew(&self, check: &Check<'_>, receipt: &Receipt) -> Outcome<Receipt> {
        let Some(answer) = self.submit_settlement(Operation::Renew, check, receipt, 0) else {
            return Outcome::Ready(Ok(receipt.clone()));
        };
        let receipt = receipt.clone();
        Outcome::Pending(Box::pin(async {
            let renewed = answer.await?.receipt;
            Ok(renewed.map_or(receipt, |renewed| *renewed))
        }))
    }

    fn lane(&self, check: &Check<'_>) -> usize {
        self.shared.topology.lane(check.identity)
    }

    fn probe(&self, lane: usize, time_left: Duration) -> Outcome {
        let Some(identity) = self.shared.topology.probe_identity(lane) else {
            // No check uses the lane any more, so there is nothing to wait for.
            return Outcome::Ready(Ok(Verdict::new(true, 0, [])));
        };
        let mut probe = check::probe(time_left);
        probe.identity = &identity;
        let fingerprint = Fingerprint::new(&probe);
        self.submit(Operation::Check, &probe, fingerprint, true)
    }

    fn lane_name(&self, lane: usize) -> String {
        self.shared.topology.lane_name(lane)
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn instance(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.shared.prefix)
            .finish_non_exhaustive()
    }
}
