use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

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
    /// Rows of the policies of layers.
    reserved: Rows,
    /// Rows of other policies, and of further kinds.
    shared: Rows,
    /// The row of everything that has no row in the two tables.
    other: OnceLock<Row>,
    /// The number of used rows of each policy in `reserved`, by the hash of its name.
    used: RwLock<HashMap<u64, usize>>,
}

/// An open-addressed table that is never resized, so that a lookup takes no lock.
struct Rows(Box<[OnceLock<Row>; ROWS]>);

/// The size of a table: a power of two.
const ROWS: usize = 256;

/// The number of policies with reserved rows, and of kinds with a row of their own under each; one
/// more row counts all further kinds. Reserved rows fill half of their table, so that a lookup ends
/// after a few probes.
const RESERVED_POLICIES: usize = 32;
const KINDS_PER_POLICY: usize = 3;
const _: () = assert!(2 * RESERVED_POLICIES * (KINDS_PER_POLICY + 1) <= ROWS);

/// The number of slots that a lookup in `shared` probes.
const SHARED_PROBES: usize = 8;

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

impl Rows {
    fn new() -> Self {
        Self(Box::new([const { OnceLock::new() }; ROWS]))
    }

    /// Returns the slots that may hold a key, in the order in which they are filled.
    fn probe(&self, key: u64, probes: usize) -> impl Iterator<Item = &OnceLock<Row>> {
        (0..probes).map(move |probe| &self.0[(key as usize).wrapping_add(probe) % ROWS])
    }

    fn find(&self, key: u64, probes: usize) -> Option<&Row> {
        let mut filled = self.probe(key, probes).map_while(OnceLock::get);
        filled.find(|row| row.key == key)
    }

    fn find_or_add(&self, key: u64, probes: usize, new: impl Fn() -> Row) -> Option<&Row> {
        let mut rows = self.probe(key, probes).map(|row| row.get_or_init(&new));
        rows.find(|row| row.key == key)
    }
}

impl DecisionMeter {
    pub(crate) fn new() -> Self {
        Self {
            reserved: Rows::new(),
            shared: Rows::new(),
            other: OnceLock::new(),
            used: RwLock::default(),
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
        let mut used = self.used.write().unwrap_or_else(PoisonError::into_inner);
        for policy in limits.policies() {
            if used.len() < RESERVED_POLICIES {
                used.entry(policy.name_hash()).or_default();
            }
        }
    }

    fn row(&self, kind: &str, policy: &Policy) -> &Row {
        let key = row_key(kind, policy);
        let reserved = self.reserved.find(key, ROWS);
        reserved.unwrap_or_else(|| self.find_or_add_row(kind, policy, key))
    }

    /// Returns the row of a key that is not in `reserved`, and adds it if there is room.
    #[cold]
    fn find_or_add_row(&self, kind: &str, policy: &Policy, key: u64) -> &Row {
        if let Some(found) = self.shared.find(key, SHARED_PROBES) {
            return found;
        }
        let new = || Row::new(kind, policy.name().to_owned(), key);
        let used = self.used.read().unwrap_or_else(PoisonError::into_inner);
        let used_by_policy = used.get(&policy.name_hash()).copied();
        drop(used);
        if used_by_policy.is_some_and(|used| used < KINDS_PER_POLICY)
            && let Some(added) = self.add_reserved(policy, key, new)
        {
            return added;
        }
        if let Some(row) = self.shared.find_or_add(key, SHARED_PROBES, new) {
            return row;
        }
        // A layer's policy always keeps a row, however many kinds clients make up.
        let key = row_key("other", policy);
        let of_policy = || Row::new("other", policy.name().to_owned(), key);
        used_by_policy
            .and_then(|_| self.reserved.find_or_add(key, ROWS, of_policy))
            .unwrap_or_else(|| self.other.get_or_init(|| Row::new("other", "other", 0)))
    }

    /// Adds a reserved row, unless the policy's reserved rows are all used.
    fn add_reserved(&self, policy: &Policy, key: u64, new: impl Fn() -> Row) -> Option<&Row> {
        let mut used = self.used.write().unwrap_or_else(PoisonError::into_inner);
        let used_by_policy = used.get_mut(&policy.name_hash())?;
        // Another thread may have added the row before this one locked `used`.
        if let Some(found) = self.reserved.find(key, ROWS) {
            return Some(found);
        }
        if *used_by_policy == KINDS_PER_POLICY {
            return None;
        }
        *used_by_policy += 1;
        self.reserved.find_or_add(key, ROWS, new)
    }
}
