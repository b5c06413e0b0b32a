use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};

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
    pub(super) limits: Limits,
    pub(super) limiter: Limiter,
    pub(super) scope: Scope,
    pub(super) identify: Arc<dyn Identify>,
    pub(super) limits_for: Option<Arc<LimitsFor>>,
    pub(super) cost_for: Option<Arc<CostFor>>,
    pub(super) skip: Option<Arc<Skip>>,
    pub(super) on_reject: Option<Arc<OnReject>>,
    pub(super) headers: ResponseHeaders,
    pub(super) refused_status: StatusCode,
    pub(super) unidentified_status: StatusCode,
    pub(super) expose_decision: bool,
    unidentified_logged: Arc<AtomicBool>,
}

impl Config {
    pub(super) fn new(limits: Limits, limiter: Limiter) -> Self {
        Self {
            limits,
            limiter,
            scope: Scope::default(),
            identify: Arc::new(UserOrIp::default()),
            limits_for: None,
            cost_for: None,
            skip: None,
            on_reject: None,
            headers: ResponseHeaders::default(),
            refused_status: StatusCode::TOO_MANY_REQUESTS,
            unidentified_status: StatusCode::INTERNAL_SERVER_ERROR,
            expose_decision: false,
            unidentified_logged: Arc::default(),
        }
    }

    pub(super) fn is_exempt(&self, parts: &Parts) -> bool {
        self.skip.as_ref().is_some_and(|skip| skip(parts))
    }

    /// What follows from not knowing who is asking, as in [`judge`](Config::judge).
    pub(super) fn unidentified(
        &self,
        parts: &Parts,
        reason: &Unidentified,
    ) -> Result<Announcement, Box<Response<Bytes>>> {
        if !self.unidentified_logged.swap(true, Ordering::Relaxed) {
            events::unidentified(self.scope.as_str(), reason);
        }
        match self.limiter.is_shadow() {
            true => Ok(Announcement::undecided()),
            false => Err(Box::new(rejection::unidentified(
                parts,
                self.unidentified_status,
            ))),
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

    /// What follows from a decision: something to announce on the inner service's response, or a
    /// response in its place.
    pub(super) fn judge(
        &self,
        decision: &Decision<'_>,
        parts: &mut Parts,
    ) -> Result<Announcement, Box<Response<Bytes>>> {
        let shadow = self.limiter.is_shadow();
        let announcement = Announcement::new(decision, self.headers, shadow);
        if decision.is_allowed() || shadow {
            if self.expose_decision {
                parts.extensions.insert(decision.clone().into_owned());
            }
            return Ok(announcement);
        }
        let status = match decision.is_refused() {
            true => self.refused_status,
            false => StatusCode::TOO_MANY_REQUESTS,
        };
        let rejection = Rejection {
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
        Err(Box::new(response))
    }
}
