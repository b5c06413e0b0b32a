use std::time::Duration;

use super::Operation;
use crate::decision::Decision;
use crate::identity::Identity;
use crate::store::StoreErrorKind;

pub(crate) struct Meter;

impl Meter {
    pub(crate) fn new(_store: &'static str) -> Self {
        Self
    }

    pub(crate) fn decided(&self, _: &Identity, _: &Decision<'_>, _shadow: bool) {}

    pub(crate) fn operation(&self, _: Operation, _: Option<StoreErrorKind>) {}

    pub(crate) fn waited(&self, _: Duration) {}

    pub(crate) fn breaker(&self, _lane: usize, _open: bool) {}
}

pub(crate) fn active_identities(_store: &'static str, _estimate: u64) {}

pub(crate) fn evicted(_store: &'static str) {}
