//! Sends checks again that the server has not run.

use std::mem;
use std::time::Duration;

use redis::ConnectionAddr;
use tokio::time::sleep;

use super::error::CallError;
use super::pending::PendingCheck;
use super::server_queue::WorkerSlot;
use crate::store::StoreError;

/// How many times a check is sent again after the server has replied that it did not run it.
const MAX_RETRIES: u32 = 4;

/// The delay before a retry while some keys of a hash slot are still on the other node.
const RESHARDING_RETRY_DELAY: Duration = Duration::from_millis(2);

/// Sends checks again that the server at `address` has not run, or answers them with the error if it
/// `is_final`.
pub(super) fn retry(
    worker: &WorkerSlot,
    address: &ConnectionAddr,
    checks: impl IntoIterator<Item = PendingCheck>,
    error: &CallError,
    is_final: bool,
) {
    let (shared, runtime) = (&worker.shared, &worker.runtime);
    let topology = &shared.topology;
    if matches!(error, CallError::NotPrimary(_) | CallError::Busy(_)) {
        topology.refresh(shared, runtime);
    }
    for mut check in checks {
        if error.is_resharding() && !mem::replace(&mut check.alone, true) {
            // The keys of other checks in the call may be the cause: Redis 6.2 redirects a call if any of
            // its keys is missing.
            topology.submit(shared, runtime, check);
            continue;
        }
        check.retries += 1;
        if is_final || check.retries > MAX_RETRIES {
            let error = StoreError::from(error.clone()).at(address);
            check.answer(Err(error));
            continue;
        }
        match error {
            CallError::Redirect(redirect) => {
                topology.redirect(shared, runtime, check, address, redirect);
            }
            CallError::TryAgain => {
                let (shared, handle) = (shared.clone(), runtime.clone());
                runtime.spawn(async move {
                    sleep(RESHARDING_RETRY_DELAY).await;
                    shared.topology.submit(&shared, &handle, check);
                });
            }
            _ => topology.submit(shared, runtime, check),
        }
    }
}
