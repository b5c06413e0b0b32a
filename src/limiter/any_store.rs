use std::any::Any;
use std::ops::Deref;
use std::task::{Context, Poll};

use crate::quota::Status;
#[cfg(feature = "redis")]
use crate::store::{Answer, RedisStore};
use crate::store::{
    BoxFuture, Check, LocalStore, Outcome, OwnedCheck, Reply, Store, StoreError, Verdict,
};

/// A store of any kind. The one in the process is known, since it decides faster than it could be
/// asked, and the one in Redis, since it keeps what it was asked.
pub(super) enum AnyStore {
    Local(LocalStore),
    #[cfg(feature = "redis")]
    Redis(RedisStore),
    Other(Box<dyn Store>),
}

/// A check that waits for its answer.
pub(super) enum Waiting {
    #[cfg(feature = "redis")]
    Redis(Answer),
    Other(OwnedCheck, BoxFuture<Result<Verdict, StoreError>>),
}

impl AnyStore {
    pub(super) fn new(store: impl Store) -> Self {
        fn known<S: 'static>(store: &mut dyn Any) -> Option<S> {
            store.downcast_mut::<Option<S>>()?.take()
        }
        let mut store = Some(store);
        if let Some(local) = known(&mut store) {
            return Self::Local(local);
        }
        #[cfg(feature = "redis")]
        if let Some(redis) = known(&mut store) {
            return Self::Redis(redis);
        }
        Self::Other(Box::new(store.expect("it is another")))
    }

    /// What there is to tell where the store in the process has decided.
    #[inline]
    pub(super) fn decide_one(&self, check: &Check<'_>) -> Option<Status> {
        match self {
            Self::Local(local) => local.decide_one(check),
            _ => None,
        }
    }

    /// Asks after [`decide_one`](AnyStore::decide_one) did not decide.
    pub(super) fn ask(&self, check: &Check<'_>) -> Reply<Waiting> {
        let outcome = match self {
            Self::Local(local) => local.check_row(check),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => {
                return match redis.ask(check) {
                    Reply::Known(result) => Reply::Known(result),
                    Reply::Pending(answer) => Reply::Pending(Waiting::Redis(answer)),
                };
            }
            Self::Other(other) => other.check(check),
        };
        match outcome {
            Outcome::Ready(result) => Reply::Known(result),
            Outcome::Pending(answer) => Reply::Pending(Waiting::Other(check.into_owned(), answer)),
        }
    }
}

impl Waiting {
    /// What is waited for, without what was carried to the store.
    pub(super) fn check(&self) -> Check<'_> {
        let check = match self {
            #[cfg(feature = "redis")]
            Self::Redis(answer) => answer.check(),
            Self::Other(check, _) => check.borrow(),
        };
        check.carrying(None)
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Verdict, StoreError>> {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(answer) => answer.poll(context),
            Self::Other(_, answer) => answer.as_mut().poll(context),
        }
    }
}

impl Deref for AnyStore {
    type Target = dyn Store;

    fn deref(&self) -> &dyn Store {
        match self {
            Self::Local(local) => local,
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis,
            Self::Other(other) => &**other,
        }
    }
}
