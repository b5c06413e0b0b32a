use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use metrics::{Counter, Histogram, SharedString, counter, histogram};

use super::types::DecisionResult;
use crate::quota::{Limits, Policy};

/// One decision in this many records what it left. The number is odd, so that all policies are sampled
/// if a thread alternates between two.
const SAMPLE_INTERVAL: u32 = 17;

thread_local! {
    /// Decisions since the last sample: per thread, so that threads do not contend for a counter.
    static SINCE_SAMPLE: Cell<u32> = const { Cell::new(0) };
}

/// The metrics of decisions, by kind of identity and policy name.
///
/// The number of rows is bounded, because requests may bring their own policies and kinds. The
/// policies of layers have reserved rows; everything that has no row is counted as `other`.
pub(crate) struct DecisionMeter {
    /// An open-addressed table that is never resized, so that a lookup takes no lock, which would add a
    /// tenth to a decision even without contention (bench: `steps::local::limiter`).
    rows: Box<[OnceLock<Row>; SLOTS]>,
    /// The row of everything that has no row in the table.
    other: OnceLock<Row>,
    used: Mutex<UsedRows>,
}

/// The numbers of used rows.
#[derive(Default)]
struct UsedRows {
    /// The reserved rows of each policy, by the hash of its name.
    reserved: HashMap<u64, usize>,
    /// The rows of other policies, and of further kinds.
    shared: usize,
}

/// The size of the table: a power of two.
const SLOTS: usize = 512;

/// The number of policies with reserved rows, and of kinds with a row of their own under each; one
/// more row counts all further kinds.
const RESERVED_POLICIES: usize = 32;
const KINDS_PER_POLICY: usize = 3;

const MAX_SHARED: usize = 128;

// At most half of the slots are filled, so that a lookup ends after a few probes.
const _: () = assert!(2 * (RESERVED_POLICIES * (KINDS_PER_POLICY + 1) + MAX_SHARED) <= SLOTS);

/// Computes the FNV-1a hash of the kind, starting from a hash of the policy's name.
fn row_key(kind: &str, policy: &Policy) -> u64 {
    kind.bytes().fold(policy.name_hash(), |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The metrics of one kind of identity under one policy.
struct Row {
    key: u64,
    allowed: Counter,
    blocked: Counter,
    shadow_blocked: Counter,
    remaining: Histogram,
}

impl Row {
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

impl DecisionMeter {
    pub(crate) fn new() -> Self {
        Self {
            rows: Box::new([const { OnceLock::new() }; SLOTS]),
            other: OnceLock::new(),
            used: Mutex::default(),
        }
    }

    /// Counts a decision, and records the remaining share of the policy's capacity if it is sampled.
    pub(crate) fn record(
        &self,
        kind: &str,
        policy: &Policy,
        result: DecisionResult,
        remaining: u32,
    ) {
        let row = self.row(kind, policy);
        match result {
            DecisionResult::Allowed => row.allowed.increment(1),
            DecisionResult::Blocked => row.blocked.increment(1),
            DecisionResult::ShadowBlocked => row.shadow_blocked.increment(1),
        }
        let since = SINCE_SAMPLE.get();
        let next = since + 1;
        SINCE_SAMPLE.set(if next < SAMPLE_INTERVAL { next } else { 0 });
        if since == 0 {
            let capacity = f64::from(policy.quota().capacity());
            row.remaining.record(f64::from(remaining) / capacity);
        }
    }

    /// Reserves rows for a layer's policies, which policies of requests cannot use.
    pub(crate) fn reserve_rows(&self, limits: &Limits) {
        let reserved = &mut self.used().reserved;
        for policy in limits.policies() {
            if reserved.len() < RESERVED_POLICIES {
                reserved.entry(policy.name_hash()).or_default();
            }
        }
    }

    fn used(&self) -> MutexGuard<'_, UsedRows> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, kind: &str, policy: &Policy) -> &Row {
        let key = row_key(kind, policy);
        self.find(key)
            .unwrap_or_else(|| self.add(kind, policy, key))
    }

    /// Returns the slots that may hold a key, in the order in which they are filled.
    fn probe(&self, key: u64) -> impl Iterator<Item = &OnceLock<Row>> {
        (0..SLOTS).map(move |probe| &self.rows[(key as usize).wrapping_add(probe) % SLOTS])
    }

    fn find(&self, key: u64) -> Option<&Row> {
        let mut filled = self.probe(key).map_while(OnceLock::get);
        filled.find(|row| row.key == key)
    }

    /// Adds a row if there is room for it, and returns the row that counts the key.
    #[cold]
    fn add(&self, kind: &str, policy: &Policy, key: u64) -> &Row {
        let mut used = self.used();
        // Another thread may have added the row before this one locked `used`.
        if let Some(added) = self.find(key) {
            return added;
        }
        let (shared, of_policy) = (used.shared, used.reserved.get_mut(&policy.name_hash()));
        match of_policy {
            Some(rows) if *rows < KINDS_PER_POLICY => *rows += 1,
            _ if shared < MAX_SHARED => used.shared += 1,
            // A layer's policy always keeps a row, however many kinds clients make up.
            Some(_) => {
                let key = row_key("other", policy);
                return self.find_or_insert("other", policy, key);
            }
            None => return self.other.get_or_init(|| Row::new("other", "other", 0)),
        }
        self.find_or_insert(kind, policy, key)
    }

    fn find_or_insert(&self, kind: &str, policy: &Policy, key: u64) -> &Row {
        let new = || Row::new(kind, policy.name().to_owned(), key);
        let mut rows = self.probe(key).map(|slot| slot.get_or_init(new));
        rows.find(|row| row.key == key)
            .expect("half of the slots are empty")
    }
}
