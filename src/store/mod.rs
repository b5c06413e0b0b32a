//! Where counts live: the [`Store`] trait, and the store in the process.
//!
//! A store only decides. What a client is told is computed from its [`Verdict`] by
//! [`Quota::step`](crate::Quota::step), in one place, for every store. Stores know nothing of
//! failure strategies: that is the [`Limiter`](crate::Limiter)'s part.
//! [The guide](crate::guide::stores) shows how to write one.

mod check;
mod error;
mod local;
#[cfg(feature = "redis")]
mod redis;
mod verdict;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use check::Carried;
pub use check::{Check, OwnedCheck};
pub use error::{StoreError, StoreErrorKind};
pub use local::LocalStore;
pub(crate) use local::Table;
#[cfg(feature = "redis")]
pub(crate) use redis::Answer;
#[cfg(feature = "bench")]
pub use redis::bench;
#[cfg(feature = "redis")]
pub use redis::{RedisCredentials, RedisStore, RedisStoreBuilder};
pub(crate) use verdict::PerPolicy;
pub use verdict::{Step, Verdict};

/// A boxed future, as stores return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where counts live.
///
/// Implementations must decide a check against all its policies at once: all are charged, or, if
/// any denies, none. They must never run a check twice. The suite in `test_util::conformance`
/// (feature `test-util`) proves it of any store.
pub trait Store: Send + Sync + 'static {
    /// Decides a check against every policy in it, charging all of them or none.
    fn check(&self, check: &Check<'_>) -> Outcome;

    /// Forgets what was counted for the check's identity, scope and policies.
    fn reset(&self, check: &Check<'_>) -> Outcome<()>;

    /// Which of the store's independent parts this check would use: each has its own breaker.
    ///
    /// Few lanes should be in use at one time. In a cluster, each node is one.
    fn lane(&self, _check: &Check<'_>) -> usize {
        0
    }

    /// The name of a lane in logs and metrics: its number, unless implemented. A store with servers
    /// returns the server's address.
    fn lane_name(&self, lane: usize) -> String {
        lane.to_string()
    }

    /// Finds out whether a lane works again after it failed, by the same means as a real check.
    /// The answer is waited for as long as `time_left`.
    ///
    /// Unless implemented, this is a check of a reserved identity. A store of several lanes must
    /// implement it.
    fn probe(&self, _lane: usize, time_left: Duration) -> Outcome {
        self.check(&check::probe(time_left))
    }

    /// The store's name in metrics.
    fn name(&self) -> &'static str {
        "custom"
    }

    /// A number that tells this store from every other one in the process: two layers whose stores
    /// have the same number may share counts, which is warned of.
    ///
    /// Unless implemented, this is the store's address. A store that is cheap to clone returns the
    /// address of what its clones share.
    fn instance(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Whether no check of this store can fail or wait, so that it needs no breaker, and no
    /// fallback that remembers what it decided.
    fn is_infallible(&self) -> bool {
        false
    }
}

/// A pointer to a store is the store.
macro_rules! pointer {
    ($($pointer:ident)*) => {$(
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn check(&self, check: &Check<'_>) -> Outcome {
                (**self).check(check)
            }

            fn reset(&self, check: &Check<'_>) -> Outcome<()> {
                (**self).reset(check)
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

pointer!(Arc Box);

/// What a store of this crate says to a check, before a future of it is boxed.
pub(crate) enum Reply<P> {
    Known(Result<Verdict, StoreError>),
    Pending(P),
}

/// A store's answer: there already, or a round trip away.
pub enum Outcome<T = Verdict> {
    /// Decided on the spot: nothing was allocated and nobody need be woken.
    Ready(Result<T, StoreError>),
    /// To be awaited. Dropping it must be safe: at most this check's own cost is charged.
    Pending(BoxFuture<Result<T, StoreError>>),
}

impl<T> Outcome<T> {
    /// Waits, if need be.
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
