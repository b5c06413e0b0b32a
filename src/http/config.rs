use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, HeaderMap, Request, Response, StatusCode};
use smallvec::SmallVec;

use super::body::RejectionBody;
use super::fixed::{Fixed, reduced_capacity};
use super::header::{Announcement, ResponseHeaders};
use super::rejection::{self, Head, Rejection};
use crate::decision::Decision;
use crate::events;
use crate::identity::{Identifier, IdentifyError, Identity};
use crate::limiter::{Checked, Claim, Limiter, PendingDecision};
use crate::metrics;
use crate::quota::{Limits, Scope};
use crate::store::Check;

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
    pub(super) identifier: Identifier,
    pub(super) limits_for: Option<Arc<LimitsFor>>,
    pub(super) cost_for: Option<Arc<CostFor>>,
    pub(super) skip: Option<Arc<Skip>>,
    pub(super) on_reject: Option<Arc<OnReject>>,
    pub(super) headers: ResponseHeaders,
    pub(super) refused_status: StatusCode,
    refused_body: RejectionBody,
    pub(super) unidentified_status: StatusCode,
    pub(super) expose_decision: bool,
    pub(super) grpc_responses: bool,
    unidentified_logged: OfOneLayer<AtomicBool>,
    charged_twice_logged: OfOneLayer<AtomicBool>,
    /// The layer's claim on its counts, from its first service on.
    claim: OfOneLayer<OnceLock<Claim>>,
}

/// A value that a layer does not share with the layers that are cloned from it and then changed.
#[derive(Default)]
struct OfOneLayer<T>(T);

impl<T: Default> Clone for OfOneLayer<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A request extension of debug builds: the layers that have charged the request, by address.
#[derive(Clone, Default)]
struct ChargedBy(SmallVec<[usize; 4]>);

/// What to do with a request.
pub(super) enum Next {
    /// The inner service responds; with these headers, unless the layer has nothing to say.
    Call(Option<Announcement>),
    /// The request is turned away, with this response.
    Answer(Response<RejectionBody>),
    /// The request is turned away, with a response that the application makes.
    Reject(Decision<'static>),
    /// The limiter has not decided yet.
    Await(PendingDecision),
}

/// The status of refusals, unless another is set.
const REFUSED: StatusCode = StatusCode::TOO_MANY_REQUESTS;

impl Config {
    pub(super) fn new(limits: Limits, limiter: Limiter) -> Self {
        Self {
            fixed: Arc::new(Fixed::new(limits)),
            limiter,
            scope: Scope::default(),
            identifier: Identifier::default(),
            limits_for: None,
            cost_for: None,
            skip: None,
            on_reject: None,
            headers: ResponseHeaders::default(),
            refused_status: REFUSED,
            refused_body: reduced_capacity(REFUSED),
            unidentified_status: StatusCode::INTERNAL_SERVER_ERROR,
            expose_decision: false,
            grpc_responses: true,
            unidentified_logged: OfOneLayer::default(),
            charged_twice_logged: OfOneLayer::default(),
            claim: OfOneLayer::default(),
        }
    }

    /// Claims the layer's counts, so that another layer that shares them by accident is warned of.
    pub(super) fn claim_counts(&self) {
        let claim = || self.limiter.claim(&self.scope, self.fixed.limits());
        self.claim.0.get_or_init(claim);
    }

    /// Who is asking, if no closure is to be asked. Closures are given a request's parts, for which
    /// it is taken apart and put together again: moved twice.
    pub(super) fn identify_by_head(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<Result<Identity, IdentifyError>> {
        if self.skip.is_some() || self.limits_for.is_some() || self.cost_for.is_some() {
            return None;
        }
        self.identifier.identify_head(headers, extensions)
    }

    /// What to do where there are closures.
    pub(super) fn next_by_parts(&self, parts: &mut Parts) -> Next {
        if self.skip.as_ref().is_some_and(|skip| skip(parts)) {
            return Next::Call(None);
        }
        let identity = match self.identifier.identify(parts) {
            Err(reason) => {
                let head = Head::of_parts(&parts.method, parts.version, &parts.headers);
                return self.unidentified(head, &reason);
            }
            Ok(identity) => identity,
        };
        let limits_for = self.limits_for.as_ref();
        let cost_for = self.cost_for.as_ref();
        let own_limits = limits_for.and_then(|limits_for| limits_for(parts, &identity));
        let cost = cost_for.map_or(1, |cost_for| cost_for(parts));
        let head = Head::of_parts(&parts.method, parts.version, &parts.headers);
        let extensions = &mut parts.extensions;
        self.ask(&identity, own_limits.as_ref(), cost, head, extensions)
    }

    /// Asks the limiter, under the request's own limits if it has any.
    pub(super) fn ask(
        &self,
        identity: &Identity,
        own_limits: Option<&Limits>,
        cost: u32,
        head: Head<'_>,
        extensions: &mut Extensions,
    ) -> Next {
        if cfg!(debug_assertions) {
            self.warn_if_charged_twice(extensions);
        }
        let check = Check::new(identity, own_limits.unwrap_or(self.fixed.limits()))
            .scope(&self.scope)
            .cost(cost);
        match self.limiter.check(&check) {
            Checked::Pending(decision) => Next::Await(decision),
            Checked::Ready(decision) if self.lets_pass(&decision) => {
                Next::Call(Some(self.announce(&decision, extensions)))
            }
            Checked::Ready(decision) if self.on_reject.is_some() => {
                Next::Reject(decision.into_owned())
            }
            Checked::Ready(decision) => {
                Next::Answer(rejection::complete_response(self, &decision, head))
            }
        }
    }

    /// What to do with a request without an identity: it is rejected, except in shadow mode.
    #[cold]
    pub(super) fn unidentified(&self, head: Head<'_>, reason: &IdentifyError) -> Next {
        metrics::unidentified();
        if !self.unidentified_logged.0.swap(true, Ordering::Relaxed) {
            events::unidentified(self.scope.as_str(), reason);
        }
        match self.limiter.is_shadow() {
            true => Next::Call(Some(Announcement::undecided())),
            false => Next::Answer(rejection::unidentified(self, head, reason)),
        }
    }

    /// Warns, once, if this very layer has charged the request before, for instance as a layer of the
    /// router and of a route.
    fn warn_if_charged_twice(&self, extensions: &mut Extensions) {
        let layer = ptr::from_ref(self).addr();
        let ChargedBy(layers) = extensions.get_or_insert_default();
        if !layers.contains(&layer) {
            layers.push(layer);
        } else if !self.charged_twice_logged.0.swap(true, Ordering::Relaxed) {
            events::charged_twice(self.scope.as_str());
        }
    }

    pub(super) fn set_refused_status(&mut self, status: StatusCode) {
        self.refused_status = status;
        self.refused_body = reduced_capacity(status);
    }

    /// The body of a rejection.
    pub(super) fn rejection_body(&self, decision: &Decision<'_>) -> RejectionBody {
        match decision.is_refused() {
            true => self.refused_body.clone(),
            false => self.fixed.quota_exceeded(decision),
        }
    }

    /// Whether the inner service responds.
    pub(super) fn lets_pass(&self, decision: &Decision<'_>) -> bool {
        decision.is_allowed() || self.limiter.is_shadow()
    }

    /// What to announce on the inner service's response, and to the service itself.
    #[inline]
    pub(super) fn announce(
        &self,
        decision: &Decision<'_>,
        extensions: &mut Extensions,
    ) -> Announcement {
        if self.expose_decision {
            extensions.insert(decision.clone().into_owned());
        }
        Announcement::new(
            decision,
            self.headers,
            &self.fixed,
            self.limiter.is_shadow(),
        )
    }

    /// The response to a request that is turned away.
    pub(super) fn reject<B>(
        &self,
        decision: &Decision<'_>,
        request: Request<B>,
    ) -> Response<RejectionBody> {
        let Some(on_reject) = &self.on_reject else {
            return rejection::complete_response(self, decision, Head::of_request(&request));
        };
        let (parts, _) = request.into_parts();
        let rejection = Rejection {
            config: self,
            decision,
            parts: &parts,
        };
        let mut response = on_reject(&rejection);
        rejection::complete(self, decision, response.headers_mut());
        response.map(RejectionBody::from)
    }

    /// The status of a rejection.
    pub(super) fn status(&self, decision: &Decision<'_>) -> StatusCode {
        match decision.is_refused() {
            true => self.refused_status,
            false => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}
