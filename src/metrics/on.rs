use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, SharedString, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

use super::Operation;
use crate::identity::Identity;
use crate::limiter::Decision;
use crate::quota::{Limits, Policy};
use crate::store::StoreErrorKind;

/// One decision in so many tells how much it left. Odd, so that policies that take turns all do.
const SAMPLED: u32 = 17;

thread_local! {
    /// Each thread counts for itself, so that none waits for a number that another has changed.
    static SEEN: Cell<u32> = const { Cell::new(0) };
}

/// A limiter's metrics: handles are made when first needed and kept.
pub(crate) struct Meter {
    store: &'static str,
    /// Rows of the policies of layers.
    configured: Rows,
    /// Rows of the policies that a request brings along, and of further kinds.
    others: Rows,
    /// The row of all that finds no room in the two tables.
    other: OnceLock<Decisions>,
    /// By a policy's name: how many of the rows that are kept for it are taken.
    kept: RwLock<HashMap<u64, usize>>,
    degraded: OnceLock<Counter>,
    waited: OnceLock<Histogram>,
    /// By operation and outcome.
    operations: [OnceLock<Counter>; OPERATIONS * OUTCOMES],
    /// By kind.
    errors: [OnceLock<Counter>; StoreErrorKind::COUNT],
}

/// Decisions by kind of identity and name of policy: an open-addressed table that is never resized,
/// so that a lookup takes no lock.
struct Rows(Box<[OnceLock<Decisions>; ROWS]>);

/// A power of two.
const ROWS: usize = 256;

/// The number of policies of layers for which rows are kept, and of kinds for each, besides one row for
/// all further kinds. The rows that are kept fill half of their table, so that a lookup finds its row,
/// or a free one, after a few steps.
const CONFIGURED_POLICIES: usize = 32;
const KINDS_PER_POLICY: usize = 3;
const _: () = assert!(2 * CONFIGURED_POLICIES * (KINDS_PER_POLICY + 1) <= ROWS);

/// FNV-1a over the kind, begun with a hash of the policy's name.
fn row_key(kind: &str, policy: &Policy) -> u64 {
    kind.bytes().fold(policy.name_hash(), |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The number of rows among which a row of `others` is looked for.
const PROBES: usize = 8;

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

impl Rows {
    fn new() -> Self {
        Self(Box::new([const { OnceLock::new() }; ROWS]))
    }

    /// The rows in which a key may be, in the order in which they are taken.
    fn probe(&self, key: u64, probes: usize) -> impl Iterator<Item = &OnceLock<Decisions>> {
        (0..probes).map(move |probe| &self.0[(key as usize).wrapping_add(probe) % ROWS])
    }

    fn find(&self, key: u64, probes: usize) -> Option<&Decisions> {
        let mut taken = self.probe(key, probes).map_while(OnceLock::get);
        taken.find(|row| row.key == key)
    }

    fn find_or_add(
        &self,
        key: u64,
        probes: usize,
        new: impl Fn() -> Decisions,
    ) -> Option<&Decisions> {
        let mut rows = self.probe(key, probes).map(|row| row.get_or_init(&new));
        rows.find(|row| row.key == key)
    }
}

impl Meter {
    pub(crate) fn new(store: &'static str) -> Self {
        Self {
            store,
            configured: Rows::new(),
            others: Rows::new(),
            other: OnceLock::new(),
            kept: RwLock::default(),
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
            let capacity = f64::from(decision.capacity());
            decisions
                .remaining
                .record(f64::from(decision.remaining()) / capacity);
        }
        if decision.is_degraded() {
            let counter = || counter!("rate_limit_degraded_total", "store" => self.store);
            self.degraded.get_or_init(counter).increment(1);
        }
    }

    /// Keeps rows for the policies of a layer, which no policy that a request brings along can take.
    pub(crate) fn configure(&self, limits: &Limits) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        for policy in limits.policies() {
            if kept.len() < CONFIGURED_POLICIES {
                kept.entry(policy.name_hash()).or_default();
            }
        }
    }

    /// The metrics of a kind of identity under a policy of that name.
    fn decisions(&self, kind: &str, policy: &Policy) -> &Decisions {
        let key = row_key(kind, policy);
        let configured = self.configured.find(key, ROWS);
        configured.unwrap_or_else(|| self.other_decisions(kind, policy, key))
    }

    /// The metrics where they are not in a row that is kept, or not yet.
    #[cold]
    fn other_decisions(&self, kind: &str, policy: &Policy, key: u64) -> &Decisions {
        if let Some(found) = self.others.find(key, PROBES) {
            return found;
        }
        let new = || Decisions::new(kind, policy.name().to_owned(), key);
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let taken = kept.get(&policy.name_hash()).copied();
        drop(kept);
        if taken.is_some_and(|taken| taken < KINDS_PER_POLICY)
            && let Some(added) = self.add_configured(policy, key, new)
        {
            return added;
        }
        if let Some(row) = self.others.find_or_add(key, PROBES, new) {
            return row;
        }
        // No kind, however many a client makes up, takes a configured policy out of the metrics.
        let key = row_key("other", policy);
        let of_policy = || Decisions::new("other", policy.name().to_owned(), key);
        taken
            .and_then(|_| self.configured.find_or_add(key, ROWS, of_policy))
            .unwrap_or_else(|| {
                self.other
                    .get_or_init(|| Decisions::new("other", "other", 0))
            })
    }

    /// Adds a row of a configured policy, unless its rows are taken.
    fn add_configured(
        &self,
        policy: &Policy,
        key: u64,
        new: impl Fn() -> Decisions,
    ) -> Option<&Decisions> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let taken = kept.get_mut(&policy.name_hash())?;
        // Another thread may have added the row before this one got the lock.
        if let Some(found) = self.configured.find(key, ROWS) {
            return Some(found);
        }
        if *taken == KINDS_PER_POLICY {
            return None;
        }
        *taken += 1;
        self.configured.find_or_add(key, ROWS, new)
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

/// Counts a request without an identity.
pub(crate) fn unidentified() {
    counter!("rate_limit_unidentified_total").increment(1);
}

/// How many lanes have a label of their own. Servers may change their addresses, and each label stays.
const MOST_LANES: usize = 1_000;

/// The label of a lane: its name, or `other` once very many lanes have had their breakers open.
fn lane_label(name: &str) -> String {
    static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if !names.contains(name) {
        if names.len() >= MOST_LANES {
            return "other".into();
        }
        names.insert(name.into());
    }
    name.into()
}

/// Counts a lane's breaker in or out of those that are open: several limiters may have stores of
/// one name.
pub(crate) fn breaker(store: &'static str, lane: &str, open: bool) {
    let change = if open { 1.0 } else { -1.0 };
    gauge!("rate_limit_breaker_open", "store" => store, "lane" => lane_label(lane))
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
    describe_counter!(
        "rate_limit_unidentified_total",
        count,
        "Requests without an identity, rejected unless their layer is in shadow mode"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_labels_are_bounded() {
        let names = (0..3 * MOST_LANES).map(|port| format!("10.0.0.1:{port}"));
        let labels: BTreeSet<_> = names.map(|name| lane_label(&name)).collect();
        assert_eq!(labels.len(), MOST_LANES + 1);
        assert!(labels.contains("other"));
        assert_eq!(lane_label("10.0.0.1:0"), "10.0.0.1:0");
    }
}
