use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};

use super::fixed::{Fixed, reduced_capacity};
use super::header::{Announcement, ResponseHeaders};
use super::rejection::{self, Rejection};
use crate::decision::Decision;
use crate::events;
use crate::identity::{Identify, Identity, Unidentified, UserOrIp};
use crate::limiter::Limiter;
use crate::quota::{Limits, Scope};

type LimitsFor = dyn Fn(&Parts, &Identity) -> Option<Limits> + Send + Sync;
type CostFor = dyn Fn(&Parts) -> u32 + Send + Sync;
type Skip = dyn Fn(&Parts) -> bool + Send + Sync;
type OnReject = dyn Fn(&Rejection<'_>) -> Response<Bytes> + Send + Sync;

/// All that a layer was told, and the decisions that follow from it alone.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) fixed: Arc<Fixed>,
    pub(super) limiter: Limiter,
    pub(super) scope: Scope,
    pub(super) identify: Arc<dyn Identify>,
    pub(super) limits_for: Option<Arc<LimitsFor>>,
    pub(super) cost_for: Option<Arc<CostFor>>,
    pub(super) skip: Option<Arc<Skip>>,
    pub(super) on_reject: Option<Arc<OnReject>>,
    pub(super) headers: ResponseHeaders,
    pub(super) refused_status: StatusCode,
    refused_body: Bytes,
    pub(super) unidentified_status: StatusCode,
    pub(super) expose_decision: bool,
    unidentified_logged: Arc<AtomicBool>,
}

/// What becomes of a request.
pub(super) enum Judgement {
    /// The inner service responds, and this is announced on its response.
    Pass(Announcement),
    /// This is the response.
    Reject(Response<Bytes>),
}

/// The status of refusals, unless another is set.
const REFUSED: StatusCode = StatusCode::TOO_MANY_REQUESTS;

impl Config {
    pub(super) fn new(limits: Limits, limiter: Limiter) -> Self {
        Self {
            fixed: Arc::new(Fixed::new(limits)),
            limiter,
            scope: Scope::default(),
            identify: Arc::new(UserOrIp::default()),
            limits_for: None,
            cost_for: None,
            skip: None,
            on_reject: None,
            headers: ResponseHeaders::default(),
            refused_status: REFUSED,
            refused_body: reduced_capacity(REFUSED),
            unidentified_status: StatusCode::INTERNAL_SERVER_ERROR,
            expose_decision: false,
            unidentified_logged: Arc::default(),
        }
    }

    pub(super) fn is_exempt(&self, parts: &Parts) -> bool {
        self.skip.as_ref().is_some_and(|skip| skip(parts))
    }

    pub(super) fn set_refused_status(&mut self, status: StatusCode) {
        self.refused_status = status;
        self.refused_body = reduced_capacity(status);
    }

    /// The body of a rejection.
    pub(super) fn rejection_body(&self, decision: &Decision<'_>) -> Bytes {
        match decision.is_refused() {
            true => self.refused_body.clone(),
            false => self.fixed.quota_exceeded(decision),
        }
    }

    /// What follows from not knowing who is asking, as in [`judge`](Config::judge).
    pub(super) fn unidentified(&self, parts: &Parts, reason: &Unidentified) -> Judgement {
        if !self.unidentified_logged.swap(true, Ordering::Relaxed) {
            events::unidentified(self.scope.as_str(), reason);
        }
        match self.limiter.is_shadow() {
            true => Judgement::Pass(Announcement::undecided()),
            false => {
                let response = rejection::unidentified(parts, self.unidentified_status);
                Judgement::Reject(response)
            }
        }
    }

    /// The limits of this very request, if it has its own.
    pub(super) fn own_limits(&self, parts: &Parts, identity: &Identity) -> Option<Limits> {
        self.limits_for
            .as_ref()
            .and_then(|limits_for| limits_for(parts, identity))
    }

    pub(super) fn cost(&self, parts: &Parts) -> u32 {
        self.cost_for.as_ref().map_or(1, |cost_for| cost_for(parts))
    }

    /// What follows from a decision.
    pub(super) fn judge(&self, decision: &Decision<'_>, parts: &mut Parts) -> Judgement {
        let shadow = self.limiter.is_shadow();
        let announcement = Announcement::new(decision, self.headers, &self.fixed, shadow);
        if decision.is_allowed() || shadow {
            if self.expose_decision {
                parts.extensions.insert(decision.clone().into_owned());
            }
            return Judgement::Pass(announcement);
        }
        let status = match decision.is_refused() {
            true => self.refused_status,
            false => StatusCode::TOO_MANY_REQUESTS,
        };
        let rejection = Rejection {
            config: self,
            decision,
            parts,
            status,
        };
        let mut response = match &self.on_reject {
            Some(on_reject) => on_reject(&rejection),
            None => rejection.response(),
        };
        rejection.complete(&mut response);
        announcement.write_to(response.headers_mut());
        Judgement::Reject(response)
    }
}
