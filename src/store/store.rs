use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::check::{self, Check};
use super::error::StoreError;
use super::receipt::Receipt;
use super::verdict::Verdict;
use crate::quota::Status;

/// A boxed future, as stores return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Keeps the state of every identity under every policy, and decides checks by it.
///
/// An implementation must decide a check against all of its policies at once: it charges all of them
/// or, if any policy denies, none. It must never run a check twice. The suite
/// `tollgate::store::conformance` (feature `test-util`) tests both of any store.
/// [The guide](crate::guide::stores) shows how to write one.
pub trait Store: Send + Sync + 'static {
    /// Decides a check against every policy in it, charging all of them or none.
    fn check(&self, check: &Check<'_>) -> Outcome;

    /// Decides a check of a single policy without building a [`Verdict`], or returns `None` to have
    /// [`check`](Store::check) called instead. The result is the [`Status`] that
    /// [`Quota::step_within`](crate::Quota::step_within) returned for the charge, with the check's
    /// [`max_wait`](Check::max_wait).
    ///
    /// The limiter calls this only for a store that [cannot fail](Store::is_infallible), which can implement
    /// it for speed (bench: `steps::local::limiter`). Unless implemented, it returns `None`.
    fn check_now(&self, _check: &Check<'_>) -> Option<Status> {
        None
    }

    /// Deletes the state of the check's identity under each of the check's policies, in its scope.
    fn reset(&self, check: &Check<'_>) -> Outcome<()>;

    /// Returns whether the store can settle charges: it reserves the costs of checks that
    /// [reserve](Check::reserves), and returns a [`Receipt`] for each that it allows. Unless it can, the failure
    /// strategy decides checks under limits that reserve, and all other charges are final.
    fn can_settle(&self) -> bool {
        false
    }

    /// Settles a charge at the cost `used`: ends its reservation, refunds the difference to a window, or
    /// charges what exceeds the cost. `check` is the check that was charged.
    ///
    /// A receipt settles once. It settles nothing if the state was reset since, or if the reservation has
    /// lapsed. Unless implemented, the result is an error.
    fn settle(&self, _check: &Check<'_>, _receipt: &Receipt, _used: u32) -> Outcome<()> {
        Outcome::Ready(Err(StoreError::without_settlement()))
    }

    /// Renews the reservations of a charge before they lapse. A receipt without marks, or whose reservation
    /// has lapsed, reserves the cost anew, even above the limit.
    ///
    /// A store whose reservations do not lapse returns the receipt. Unless implemented, the result is an
    /// error.
    fn renew(&self, _check: &Check<'_>, _receipt: &Receipt) -> Outcome<Receipt> {
        Outcome::Ready(Err(StoreError::without_settlement()))
    }

    /// Returns the lane that this check uses: a part of the store that fails independently of the
    /// others, and has a circuit breaker of its own. In a cluster, each node is a lane.
    ///
    /// Few lanes should be in use at the same time.
    fn lane(&self, _check: &Check<'_>) -> usize {
        0
    }

    /// Returns the name of a lane in logs and metrics: unless implemented, its number. A store with
    /// servers returns the server's address.
    fn lane_name(&self, lane: usize) -> String {
        lane.to_string()
    }

    /// Tests whether a lane works again after it failed, in the same way as a real check. The caller
    /// waits for `time_left` at most.
    ///
    /// Unless implemented, this is a check of a reserved identity. A store with several lanes must
    /// implement it.
    fn probe(&self, _lane: usize, time_left: Duration) -> Outcome {
        self.check(&check::probe(time_left))
    }

    /// Returns the store's name in metrics.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// Returns a number that no other store of the process has. Two layers whose stores return the
    /// same number may share counts, which is logged as a warning.
    ///
    /// Unless implemented, this is the store's address. A store that is cheap to clone returns the
    /// address of the data that its clones share.
    fn instance(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Returns whether no check of this store can fail or wait, so that the limiter needs no circuit
    /// breaker and no fallback for it.
    fn is_infallible(&self) -> bool {
        false
    }
}

/// Implements `Store` for a smart pointer to a store.
macro_rules! impl_for_pointer {
    ($($pointer:ident)*) => {$(
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn check(&self, check: &Check<'_>) -> Outcome {
                (**self).check(check)
            }

            fn check_now(&self, check: &Check<'_>) -> Option<Status> {
                (**self).check_now(check)
            }

            fn reset(&self, check: &Check<'_>) -> Outcome<()> {
                (**self).reset(check)
            }

            fn can_settle(&self) -> bool {
                (**self).can_settle()
            }

            fn settle(&self, check: &Check<'_>, receipt: &Receipt, used: u32) -> Outcome<()> {
                (**self).settle(check, receipt, used)
            }

            fn renew(&self, check: &Check<'_>, receipt: &Receipt) -> Outcome<Receipt> {
                (**self).renew(check, receipt)
            }

            fn lane(&self, check: &Check<'_>) -> usize {
                (**self).lane(check)
            }

            fn lane_name(&self, lane: usize) -> String {
                (**self).lane_name(lane)
            }

            fn probe(&self, lane: usize, time_left: Duration) -> Outcome {
                (**self).probe(lane, time_left)
            }

            fn name(&self) -> &'static str {
                (**self).name()
            }

            fn instance(&self) -> usize {
                (**self).instance()
            }

            fn is_infallible(&self) -> bool {
                (**self).is_infallible()
            }
        }
    )*};
}

impl_for_pointer!(Arc Box);

/// A store's answer, which may be pending.
pub enum Outcome<T = Verdict> {
    /// The store has answered already, without allocating memory.
    Ready(Result<T, StoreError>),
    /// The answer must be awaited. The future may be dropped at any time; the store then charges the
    /// check's cost at most once.
    Pending(BoxFuture<Result<T, StoreError>>),
}

impl<T> Outcome<T> {
    /// Waits for the answer, if it is pending.
    pub async fn wait(self) -> Result<T, StoreError> {
        match self {
            Self::Ready(result) => result,
            Self::Pending(future) => future.await,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Outcome<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(result) => f.debug_tuple("Ready").field(result).finish(),
            Self::Pending(_) => f.write_str("Pending(..)"),
        }
    }
}
