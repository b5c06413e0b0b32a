use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, HeaderMap, Request, Response};
use smallvec::SmallVec;

use super::body::RejectionBody;
use super::events;
use super::rate_limit_headers::RateLimitHeaders;
use super::rejection::{self, Rejection, RequestHead};
use super::settings::ResponseSettings;
use crate::identity::{Identifier, IdentifyError, Identity};
use crate::limiter::{Checked, Decision, LayerRegistration, Limiter, PendingDecision};
use crate::metrics;
use crate::quota::{Limits, Scope};
use crate::store::Check;

type LimitsFor = dyn Fn(&Parts, &Identity) -> Option<Limits> + Send + Sync;
type CostFor = dyn Fn(&Parts) -> u32 + Send + Sync;
type Skip = dyn Fn(&Parts) -> bool + Send + Sync;
type OnReject = dyn Fn(&Rejection<'_>) -> Response<Bytes> + Send + Sync;

/// Decides requests by a layer's settings.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) responses: ResponseSettings,
    pub(super) limiter: Limiter,
    pub(super) scope: Scope,
    pub(super) identifier: Identifier,
    pub(super) limits_for: Option<Arc<LimitsFor>>,
    pub(super) cost_for: Option<Arc<CostFor>>,
    pub(super) skip: Option<Arc<Skip>>,
    pub(super) on_reject: Option<Arc<OnReject>>,
    pub(super) expose_decision: bool,
    has_logged_unidentified: PerLayer<AtomicBool>,
    has_logged_double_charge: PerLayer<AtomicBool>,
    /// Set when the layer is first applied to a service.
    registration: PerLayer<OnceLock<LayerRegistration>>,
}

/// A value that is reset when a layer is cloned in order to change it.
#[derive(Default)]
struct PerLayer<T>(T);

impl<T: Default> Clone for PerLayer<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A request extension of debug builds: the addresses of the handlers that have charged the request.
#[derive(Clone, Default)]
struct ChargedBy(SmallVec<[usize; 4]>);

/// An instruction for the service that has a request.
pub(super) enum Action {
    /// Call the inner service, and add headers to its response. A request that the layer skips has none.
    Call(Option<RateLimitHeaders>),
    /// Send this rejection.
    Respond(Response<RejectionBody>),
    /// Send the rejection that the application's `on_reject` makes.
    Reject(Decision<'static>),
    /// Wait for the limiter's decision.
    Wait(PendingDecision),
}

impl Handler {
    pub(super) fn new(limits: Limits, limiter: Limiter) -> Self {
        Self {
            responses: ResponseSettings::new(limits),
            limiter,
            scope: Scope::default(),
            identifier: Identifier::default(),
            limits_for: None,
            cost_for: None,
            skip: None,
            on_reject: None,
            expose_decision: false,
            has_logged_unidentified: PerLayer::default(),
            has_logged_double_charge: PerLayer::default(),
            registration: PerLayer::default(),
        }
    }

    /// Registers the layer, so that another layer that counts in the same entries is warned of.
    pub(super) fn register(&self) {
        let limits = self.responses.templates.limits();
        let register = || self.limiter.register_layer(&self.scope, limits);
        self.registration.0.get_or_init(register);
    }

    /// Identifies a request without taking it apart. Returns `None` if a closure needs the request's
    /// [`Parts`]: to split a request and join it again moves it twice (bench: `steps::allow`).
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

    /// Decides a request by the layer's closures.
    pub(super) fn decide_by_parts(&self, parts: &mut Parts) -> Action {
        if self.skip.as_ref().is_some_and(|skip| skip(parts)) {
            return Action::Call(None);
        }
        let identity = match self.identifier.identify(parts) {
            Err(reason) => return self.unidentified(RequestHead::of_parts(parts), &reason),
            Ok(identity) => identity,
        };
        let limits_for = self.limits_for.as_ref();
        let cost_for = self.cost_for.as_ref();
        let limits = limits_for.and_then(|limits_for| limits_for(parts, &identity));
        let cost = cost_for.map_or(1, |cost_for| cost_for(parts));
        let head = RequestHead {
            method: &parts.method,
            version: parts.version,
            headers: &parts.headers,
        };
        self.decide(
            &identity,
            limits.as_ref(),
            cost,
            head,
            &mut parts.extensions,
        )
    }

    /// Decides a request of an identity, by the layer's limits if the request has none of its own.
    pub(super) fn decide(
        &self,
        identity: &Identity,
        limits: Option<&Limits>,
        cost: u32,
        head: RequestHead<'_>,
        extensions: &mut Extensions,
    ) -> Action {
        if cfg!(debug_assertions) {
            self.warn_if_charged_twice(extensions);
        }
        let limits = limits.unwrap_or(self.responses.templates.limits());
        let check = Check::new(identity, limits).scope(&self.scope).cost(cost);
        match self.limiter.check(&check) {
            Checked::Pending(decision) => Action::Wait(decision),
            Checked::Ready(decision) if self.admits(&decision) => {
                Action::Call(Some(self.admit(&decision, extensions)))
            }
            Checked::Ready(decision) if self.on_reject.is_some() => {
                Action::Reject(decision.into_owned())
            }
            Checked::Ready(decision) => {
                Action::Respond(rejection::response(&self.responses, &decision, head))
            }
        }
    }

    /// Handles a request without an identity: rejects it, except in shadow mode.
    #[cold]
    pub(super) fn unidentified(&self, head: RequestHead<'_>, reason: &IdentifyError) -> Action {
        metrics::unidentified();
        if !self.has_logged_unidentified.0.swap(true, Ordering::Relaxed) {
            events::unidentified(self.scope.as_str(), reason);
        }
        match self.limiter.is_shadow() {
            true => Action::Call(Some(RateLimitHeaders::shadow_unidentified())),
            false => Action::Respond(rejection::unidentified(&self.responses, head, reason)),
        }
    }

    /// Warns, once, if the same layer has charged the request before, for instance as a layer of the router
    /// and of a route.
    fn warn_if_charged_twice(&self, extensions: &mut Extensions) {
        let handler = ptr::from_ref(self).addr();
        let ChargedBy(handlers) = extensions.get_or_insert_default();
        if !handlers.contains(&handler) {
            handlers.push(handler);
        } else if !self
            .has_logged_double_charge
            .0
            .swap(true, Ordering::Relaxed)
        {
            events::charged_twice(self.scope.as_str());
        }
    }

    /// Returns whether the inner service is called.
    pub(super) fn admits(&self, decision: &Decision<'_>) -> bool {
        decision.is_allowed() || self.limiter.is_shadow()
    }

    /// Exposes the decision to the inner service, and returns the headers for its response.
    #[inline]
    pub(super) fn admit(
        &self,
        decision: &Decision<'_>,
        extensions: &mut Extensions,
    ) -> RateLimitHeaders {
        if self.expose_decision {
            extensions.insert(decision.clone().into_owned());
        }
        let responses = &self.responses;
        let is_shadow = self.limiter.is_shadow();
        RateLimitHeaders::new(decision, responses.headers, &responses.templates, is_shadow)
    }

    /// Rejects a request.
    pub(super) fn reject<B>(
        &self,
        decision: &Decision<'_>,
        request: Request<B>,
    ) -> Response<RejectionBody> {
        let responses = &self.responses;
        let Some(on_reject) = &self.on_reject else {
            return rejection::response(responses, decision, RequestHead::of_request(&request));
        };
        let (parts, _) = request.into_parts();
        let mut response = on_reject(&Rejection {
            settings: responses,
            decision,
            parts: &parts,
        });
        rejection::complete(responses, decision, response.headers_mut());
        response.map(RejectionBody::from)
    }
}
