//! A process-wide registry of the layers that count under each store, scope and policy. Two layers that
//! share entries, most likely by accident, are warned of.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::events;
use crate::quota::{Kind, Limits, Scope};

static REGISTRY: LazyLock<Mutex<HashMap<PolicyKey, Layers>>> = LazyLock::new(Mutex::default);

fn registry() -> MutexGuard<'static, HashMap<PolicyKey, Layers>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Layers with equal keys share entries.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PolicyKey {
    /// [`Store::instance`](crate::Store::instance).
    store: usize,
    scope: Scope,
    /// The policy's fingerprint.
    policy: u128,
    level: Option<Kind>,
}

#[derive(Default)]
struct Layers {
    count: usize,
    has_warned: bool,
}

/// One layer's entry in the registry, which is removed when the layer is dropped.
pub(crate) struct LayerRegistration(Vec<PolicyKey>);

impl LayerRegistration {
    /// Registers a layer. Warns, once for each policy, if another layer shares its entries.
    pub(super) fn new(store: usize, scope: &Scope, limits: &Limits) -> Self {
        let keys = limits.policies().iter().map(|policy| {
            let key = PolicyKey {
                store,
                scope: scope.clone(),
                policy: policy.fingerprint(),
                level: policy.level().cloned(),
            };
            let mut registry = registry();
            let layers = registry.entry(key.clone()).or_default();
            layers.count += 1;
            if layers.count > 1 && !layers.has_warned {
                layers.has_warned = true;
                events::shared_count(scope.as_str(), policy.name());
            }
            key
        });
        Self(keys.collect())
    }
}

impl Drop for LayerRegistration {
    fn drop(&mut self) {
        let mut registry = registry();
        for key in &self.0 {
            if let Some(layers) = registry.get_mut(key) {
                layers.count -= 1;
                if layers.count == 0 {
                    registry.remove(key);
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
    fn dropped_registrations_leave_no_entries() {
        let scope = Scope::new("dropped-registrations").expect("a valid name");
        let is_ours = |key: &&PolicyKey| key.scope == scope;
        let limits = Limits::from(Quota::per_second(1));
        let registrations = [1, 1, 2].map(|store| LayerRegistration::new(store, &scope, &limits));
        assert_eq!(registry().keys().filter(is_ours).count(), 2);
        drop(registrations);
        assert_eq!(registry().keys().filter(is_ours).count(), 0);
    }
}
