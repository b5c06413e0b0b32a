use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, SharedString, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

use super::Operation;
use crate::decision::Decision;
use crate::identity::Identity;
use crate::quota::Policy;
use crate::store::StoreErrorKind;

/// One decision in so many tells how much it left. Odd, so that policies that take turns all do.
const SAMPLED: u32 = 17;

thread_local! {
    /// Each thread counts for itself, so that none waits for a number that another has changed.
    static SEEN: Cell<u32> = const { Cell::new(0) };
}

/// How many pairs of a kind and a policy are counted apart; a power of two. What comes after is
/// counted together, as `other`.
const SERIES: usize = 256;

/// A limiter's metrics: handles are made when first needed and kept.
pub(crate) struct Meter {
    store: &'static str,
    decisions: Box<[OnceLock<Decisions>; SERIES]>,
    other: OnceLock<Decisions>,
    degraded: OnceLock<Counter>,
    waited: OnceLock<Histogram>,
    /// By operation and outcome.
    operations: [OnceLock<Counter>; OPERATIONS * OUTCOMES],
    /// By kind.
    errors: [OnceLock<Counter>; StoreErrorKind::COUNT],
}

const OPERATIONS: usize = 4;
const OUTCOMES: usize = 3;

impl Operation {
    fn label(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Peek => "peek",
            Self::Reset => "reset",
            Self::Probe => "probe",
        }
    }
}

/// The metrics of one kind of identity under one policy.
struct Decisions {
    key: u64,
    allowed: Counter,
    blocked: Counter,
    shadow_blocked: Counter,
    remaining: Histogram,
}

impl Decisions {
    fn new(kind: &str, policy: impl Into<SharedString>, key: u64) -> Self {
        let policy = policy.into();
        let labels = || {
            [
                ("identity", SharedString::from(kind.to_owned())),
                ("policy", policy.clone()),
            ]
        };
        Self {
            allowed: counter!("rate_limit_allowed_total", &labels()),
            blocked: counter!("rate_limit_blocked_total", &labels()),
            shadow_blocked: counter!("rate_limit_shadow_blocked_total", &labels()),
            remaining: histogram!("rate_limit_remaining_ratio", "policy" => policy),
            key,
        }
    }
}

impl Meter {
    pub(crate) fn new(store: &'static str) -> Self {
        Self {
            store,
            decisions: Box::new([const { OnceLock::new() }; SERIES]),
            other: OnceLock::new(),
            degraded: OnceLock::new(),
            waited: OnceLock::new(),
            operations: [const { OnceLock::new() }; OPERATIONS * OUTCOMES],
            errors: [const { OnceLock::new() }; StoreErrorKind::COUNT],
        }
    }

    pub(crate) fn decided(&self, identity: &Identity, decision: &Decision<'_>, shadow: bool) {
        let decisions = self.decisions(identity.kind(), decision.policy());
        match (decision.is_allowed(), shadow) {
            (true, _) => decisions.allowed.increment(1),
            (false, false) => decisions.blocked.increment(1),
            (false, true) => decisions.shadow_blocked.increment(1),
        }
        let seen = SEEN.get();
        SEEN.set(if seen + 1 < SAMPLED { seen + 1 } else { 0 });
        if seen == 0 {
            let limit = f64::from(decision.limit());
            decisions
                .remaining
                .record(f64::from(decision.remaining()) / limit);
        }
        if decision.is_degraded() {
            let counter = || counter!("rate_limit_degraded_total", "store" => self.store);
            self.degraded.get_or_init(counter).increment(1);
        }
    }

    /// The metrics of the binding policy: an open-addressed table that is never resized, so that
    /// finding them takes no lock.
    fn decisions(&self, kind: &str, policy: &Policy) -> &Decisions {
        // FNV-1a: kinds and policies are few, and none of them is a client's choice.
        let hash = kind
            .bytes()
            .fold(policy.fingerprint() as u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let new = || Decisions::new(kind, policy.name().to_owned(), hash);
        for probe in 0..8 {
            let index = (hash as usize).wrapping_add(probe) % SERIES;
            let entry = self.decisions[index].get_or_init(new);
            if entry.key == hash {
                return entry;
            }
        }
        self.other
            .get_or_init(|| Decisions::new("other", "other", 0))
    }

    /// Counts what was asked of the store, and how it went.
    pub(crate) fn operation(&self, operation: Operation, error: Option<StoreErrorKind>) {
        let (outcome, status) = match error {
            None => (0, "ok"),
            Some(StoreErrorKind::TimedOut) => (1, "timed_out"),
            Some(_) => (2, "error"),
        };
        let counter = || {
            counter!(
                "rate_limit_store_operations_total",
                "store" => self.store, "operation" => operation.label(), "status" => status,
            )
        };
        let index = operation as usize * OUTCOMES + outcome;
        self.operations[index].get_or_init(counter).increment(1);
        if let Some(kind) = error {
            let counter = || counter!("rate_limit_errors_total", "kind" => kind.as_str());
            self.errors[kind as usize].get_or_init(counter).increment(1);
        }
    }

    /// How long a check waited for the store.
    pub(crate) fn waited(&self, time: Duration) {
        let histogram = || histogram!("rate_limit_check_duration_seconds", "store" => self.store);
        self.waited.get_or_init(histogram).record(time);
    }
}

/// Counts a lane's breaker in or out of those that are open: several limiters may have stores of
/// one name.
pub(crate) fn breaker(store: &'static str, lane: usize, open: bool) {
    let change = if open { 1.0 } else { -1.0 };
    gauge!("rate_limit_breaker_open", "store" => store, "lane" => lane.to_string())
        .increment(change);
}

/// A table's metrics, added to those of other tables of the same name.
pub(crate) struct TableMeter {
    store: &'static str,
    live: OnceLock<Gauge>,
    evicted: OnceLock<Counter>,
}

impl TableMeter {
    pub(crate) fn new(store: &'static str) -> Self {
        Self {
            store,
            live: OnceLock::new(),
            evicted: OnceLock::new(),
        }
    }

    /// So many more counts are live, or fewer.
    pub(crate) fn live(&self, change: i64) {
        let gauge = || gauge!("rate_limit_active_identities", "store" => self.store);
        if change != 0 {
            self.live.get_or_init(gauge).increment(change as f64);
        }
    }

    pub(crate) fn evicted(&self) {
        let counter = || counter!("rate_limit_evictions_total", "store" => self.store);
        self.evicted.get_or_init(counter).increment(1);
    }
}

/// What a store that batches checks counts.
#[cfg(feature = "redis")]
pub(crate) struct BatchMeter {
    sizes: OnceLock<Histogram>,
    remembered: OnceLock<Counter>,
}

#[cfg(feature = "redis")]
impl BatchMeter {
    pub(crate) fn new() -> Self {
        Self {
            sizes: OnceLock::new(),
            remembered: OnceLock::new(),
        }
    }

    /// So many checks went by one round trip.
    pub(crate) fn batch(&self, checks: usize) {
        let histogram = || histogram!("rate_limit_batch_size", "store" => "redis");
        self.sizes.get_or_init(histogram).record(checks as f64);
    }

    /// A check was denied from memory.
    pub(crate) fn remembered(&self) {
        let counter = || counter!("rate_limit_denial_memory_hits_total", "store" => "redis");
        self.remembered.get_or_init(counter).increment(1);
    }
}

/// Registers units and descriptions of all metrics with the installed recorder.
///
/// Call it once, after installing the recorder and before serving: handles are made at the first
/// request that needs them, from the recorder that is installed then.
pub fn describe_metrics() {
    let count = Unit::Count;
    describe_counter!(
        "rate_limit_allowed_total",
        count,
        "Requests let through, by kind of identity and binding policy"
    );
    describe_counter!(
        "rate_limit_blocked_total",
        count,
        "Requests denied, by kind of identity and binding policy"
    );
    describe_counter!(
        "rate_limit_shadow_blocked_total",
        count,
        "Requests that a shadow layer would have denied"
    );
    describe_counter!(
        "rate_limit_degraded_total",
        count,
        "Requests decided by the failure strategy"
    );
    describe_counter!("rate_limit_errors_total", count, "Store errors, by kind");
    describe_counter!(
        "rate_limit_store_operations_total",
        count,
        "Calls of the store, by operation and status"
    );
    describe_counter!(
        "rate_limit_evictions_total",
        count,
        "Live counts forgotten because their places were all taken"
    );
    describe_histogram!(
        "rate_limit_check_duration_seconds",
        Unit::Seconds,
        "How long checks waited for the store; checks decided on the spot are not timed"
    );
    describe_histogram!(
        "rate_limit_remaining_ratio",
        count,
        "What a decision left of the binding policy's limit, 0 to 1, sampled"
    );
    #[cfg(feature = "redis")]
    describe_histogram!(
        "rate_limit_batch_size",
        count,
        "How many checks shared a round trip"
    );
    #[cfg(feature = "redis")]
    describe_counter!(
        "rate_limit_denial_memory_hits_total",
        count,
        "Checks denied from memory, without a round trip"
    );
    describe_gauge!(
        "rate_limit_active_identities",
        count,
        "Live counts in the process, estimated"
    );
    describe_gauge!(
        "rate_limit_breaker_open",
        count,
        "How many breakers of a store's lane are open"
    );
}
