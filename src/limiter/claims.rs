//! The layers that count under each store, scope and policy, of the whole process: two layers that
//! share a count by accident are warned of.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::events;
use crate::quota::{Limits, Scope};

static CLAIMED: LazyLock<Mutex<HashMap<Count, Claimants>>> = LazyLock::new(Mutex::default);

fn claimed() -> MutexGuard<'static, HashMap<Count, Claimants>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Count {
    /// [`Store::instance`](crate::Store::instance).
    store: usize,
    scope: Scope,
    /// The policy's fingerprint.
    policy: u128,
}

#[derive(Default)]
struct Claimants {
    layers: usize,
    warned: bool,
}

/// One layer's claim on its counts, which ends when it is dropped.
pub(crate) struct Claim(Vec<Count>);

impl Claim {
    /// Claims the counts of one more layer, and warns, once for each count, if another layer has
    /// claimed them too.
    pub(super) fn new(store: usize, scope: &Scope, limits: &Limits) -> Self {
        let counts = limits.policies().iter().map(|policy| {
            let count = Count {
                store,
                scope: scope.clone(),
                policy: policy.fingerprint(),
            };
            let mut claimed = claimed();
            let claimants = claimed.entry(count.clone()).or_default();
            claimants.layers += 1;
            if claimants.layers > 1 && !claimants.warned {
                claimants.warned = true;
                events::shared_count(scope.as_str(), policy.name());
            }
            count
        });
        Self(counts.collect())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = claimed();
        for count in &self.0 {
            if let Some(claimants) = claimed.get_mut(count) {
                claimants.layers -= 1;
                if claimants.layers == 0 {
                    claimed.remove(count);
                }
            }
        }
    }
}

#[cfg(all(test, not(tollgate_loom)))]
mod tests {
    use super::*;
    use crate::quota::Quota;

    #[test]
    fn dropped_claims_free_their_entries() {
        let scope = Scope::new("dropped-claims").expect("a good name");
        let is_ours = |count: &&Count| count.scope == scope;
        let limits = Limits::from(Quota::per_second(1));
        let claims = [1, 1, 2].map(|store| Claim::new(store, &scope, &limits));
        assert_eq!(claimed().keys().filter(is_ours).count(), 2);
        drop(claims);
        assert_eq!(claimed().keys().filter(is_ours).count(), 0);
    }
}
