use std::any::Any;
use std::ops::Deref;

use crate::quota::Status;
use crate::store::{Check, LocalStore, Outcome, Store};

/// A store of any kind. The one in the process is known, since it decides faster than it could be
/// asked.
pub(super) enum AnyStore {
    Local(LocalStore),
    Other(Box<dyn Store>),
}

impl AnyStore {
    pub(super) fn new(store: impl Store) -> Self {
        let mut store = Some(store);
        let any: &mut dyn Any = &mut store;
        match any
            .downcast_mut::<Option<LocalStore>>()
            .and_then(Option::take)
        {
            Some(local) => Self::Local(local),
            None => Self::Other(Box::new(store.expect("it is no local store"))),
        }
    }

    /// What there is to tell where the store in the process has decided.
    #[inline]
    pub(super) fn decide_one(&self, check: &Check<'_>) -> Option<Status> {
        match self {
            Self::Local(local) => local.decide_one(check),
            Self::Other(_) => None,
        }
    }

    /// Asks after [`decide_one`](AnyStore::decide_one) did not decide.
    pub(super) fn check_undecided(&self, check: &Check<'_>) -> Outcome {
        match self {
            Self::Local(local) => local.check_row(check),
            Self::Other(other) => other.check(check),
        }
    }
}

impl Deref for AnyStore {
    type Target = dyn Store;

    fn deref(&self) -> &dyn Store {
        match self {
            Self::Local(local) => local,
            Self::Other(other) => &**other,
        }
    }
}
