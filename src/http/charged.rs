//! Requests whose charge is settled by the response, or that take slots until the response has ended.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::response;
use tokio::runtime::Handle;

use super::expose::Exposed;
use crate::limiter::{Limiter, Permit};
use crate::store::{Check, OwnedCheck};

type ChargeIf = dyn Fn(&response::Parts) -> bool + Send + Sync;
type SettleBy = dyn Fn(&response::Parts) -> Option<u32> + Send + Sync;
type ResetIf = dyn Fn(&response::Parts) -> bool + Send + Sync;

/// How a layer settles charges by the response.
#[derive(Clone, Default)]
pub(super) struct ResponseRules {
    pub(super) charge_if: Option<Arc<ChargeIf>>,
    pub(super) settle_by: Option<Arc<SettleBy>>,
    pub(super) reset_if: Option<Arc<ResetIf>>,
}

/// An admitted request with a permit.
pub(super) struct ChargedCall {
    pub(super) permit: Permit,
    /// The values that the layer exposes in the response.
    pub(super) exposed: Option<Box<Exposed>>,
    /// The check to reset, if the layer has `reset_if`.
    pub(super) reset: Option<OwnedCheck>,
}

impl ResponseRules {
    /// Returns the check to reset by the response, if the layer has `reset_if`.
    pub(super) fn reset(&self, check: &Check<'_>) -> Option<OwnedCheck> {
        self.reset_if.is_some().then(|| check.into_owned())
    }

    /// Settles a charge by its response.
    pub(super) fn settle(&self, parts: &response::Parts, permit: &Permit) {
        if self
            .charge_if
            .as_ref()
            .is_some_and(|charge_if| !charge_if(parts))
        {
            permit.charge().refund();
        } else if let Some(used) = self
            .settle_by
            .as_ref()
            .and_then(|settle_by| settle_by(parts))
        {
            permit.charge().settle(used);
        }
    }
}

/// Resets a check: at once if the store can, and otherwise in a task.
pub(super) fn reset_soon(limiter: Limiter, check: OwnedCheck) {
    let mut reset = Box::pin(async move {
        // The limiter counts failures.
        let _ = limiter.reset(&check.borrow()).await;
    });
    let is_pending = {
        let reset = pin!(&mut reset);
        reset.poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending
    };
    if is_pending && let Ok(runtime) = Handle::try_current() {
        runtime.spawn(reset);
    }
}
