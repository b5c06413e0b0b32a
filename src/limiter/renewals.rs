//! Renews the reservations of open charges, before they lapse in the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::open_charge::OpenCharge;

/// The interval at which the task looks for reservations to renew: less than a third of a second, the shortest
/// reservation.
const INTERVAL: Duration = Duration::from_millis(200);

/// The open charges of a limiter whose reservations lapse, and whether a task renews them.
#[derive(Clone, Default)]
pub(super) struct Renewals(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    charges: Vec<Weak<OpenCharge>>,
    is_running: bool,
}

impl Renewals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a charge. Starts the task if need be, and if there is a runtime.
    pub(super) fn add(&self, charge: &Arc<OpenCharge>) {
        let mut state = self.state();
        state.charges.push(Arc::downgrade(charge));
        if state.is_running {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            state.is_running = true;
            drop(state);
            let task = Task {
                renewals: self.clone(),
                has_ended: false,
            };
            runtime.spawn(task.run());
        }
    }
}

/// The task that renews reservations. It ends when no charge is open. If its runtime shuts down, the next
/// charge starts another one.
struct Task {
    renewals: Renewals,
    /// Whether the task has ended by itself. Another task may run since.
    has_ended: bool,
}

impl Task {
    async fn run(mut self) {
        loop {
            sleep(INTERVAL).await;
            let now = Instant::now();
            let due: Vec<_> = {
                let mut state = self.renewals.state();
                state.charges.retain(|charge| charge.strong_count() > 0);
                if state.charges.is_empty() {
                    // Under the lock, so that the next charge starts another task.
                    state.is_running = false;
                    self.has_ended = true;
                    return;
                }
                let open = state.charges.iter().filter_map(Weak::upgrade);
                open.filter(|charge| charge.is_due(now)).collect()
            };
            for charge in due {
                tokio::spawn(async move { charge.renew().await });
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.has_ended {
            self.renewals.state().is_running = false;
        }
    }
}
