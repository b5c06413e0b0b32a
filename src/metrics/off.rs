use std::time::Duration;

use super::Operation;
use crate::identity::Identity;
use crate::limiter::Decision;
use crate::quota::Limits;
use crate::store::StoreErrorKind;

pub(crate) struct Meter;

impl Meter {
    pub(crate) fn new(_store: &'static str) -> Self {
        Self
    }

    pub(crate) fn configure(&self, _: &Limits) {}

    pub(crate) fn decided(&self, _: &Identity, _: &Decision<'_>, _shadow: bool) {}

    pub(crate) fn operation(&self, _: Operation, _: Option<StoreErrorKind>) {}

    pub(crate) fn waited(&self, _: Duration) {}
}

pub(crate) fn unidentified() {}

pub(crate) fn breaker(_store: &str, _lane: &str, _open: bool) {}

pub(crate) struct TableMeter;

impl TableMeter {
    pub(crate) fn new(_store: &'static str) -> Self {
        Self
    }

    pub(crate) fn live(&self, _change: i64) {}

    pub(crate) fn evicted(&self) {}
}

#[cfg(feature = "redis")]
pub(crate) struct BatchMeter;

#[cfg(feature = "redis")]
impl BatchMeter {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn batch(&self, _checks: usize) {}

    pub(crate) fn remembered(&self) {}
}
