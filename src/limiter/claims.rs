use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::events;
use crate::quota::{Limits, Scope};

/// Which layer counts under each scope and policy, so that two that share a count are warned of.
#[derive(Default)]
pub(crate) struct Claims(Mutex<HashMap<(Scope, u128), Claim>>);

/// Whatever a front door's layer is to itself: here it is only told from others.
type Layer = dyn Any + Send + Sync;

struct Claim {
    layer: Weak<Layer>,
    warned: bool,
}

impl Claims {
    /// Notes that a layer counts by these limits, and warns, once, if another one does too.
    pub(crate) fn claim(&self, scope: &Scope, limits: &Limits, layer: &Arc<Layer>) {
        let layer = Arc::downgrade(layer);
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for policy in limits.policies() {
            let claim = claims
                .entry((scope.clone(), policy.fingerprint()))
                .or_insert_with(|| Claim {
                    layer: layer.clone(),
                    warned: false,
                });
            if claim.layer.strong_count() == 0 {
                claim.layer = layer.clone();
            } else if !claim.layer.ptr_eq(&layer) && !claim.warned {
                claim.warned = true;
                events::shared_count(scope.as_str(), policy.name());
            }
        }
    }
}
