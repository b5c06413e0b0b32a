//! The same items without the feature `metrics`: they do nothing.

use super::types::{DecisionResult, Labels};
use crate::quota::{Limits, Policy};

pub(crate) struct DecisionMeter;

impl DecisionMeter {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn reserve_rows(&self, _: &Limits) {}

    pub(crate) fn record(&self, _: &str, _: &Policy, _: DecisionResult, _remaining: u32) {}
}

pub(crate) struct LazyCounter;

impl LazyCounter {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn increment(&self, _name: &str, _: Labels<'_>) {}
}

pub(crate) struct LazyGauge;

impl LazyGauge {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn increment(&self, _name: &str, _: Labels<'_>, _change: f64) {}
}

pub(crate) struct LazyHistogram;

impl LazyHistogram {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn record(&self, _name: &str, _: Labels<'_>, _value: f64) {}
}

pub(crate) fn breaker(_store: &str, _lane: &str, _open: bool) {}

pub(crate) fn unidentified() {}
