use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, Response};
use smallvec::SmallVec;

use super::body::RejectionBody;
use super::events;
use super::limits_for::LimitsFor;
use super::rate_limit_headers::RateLimitHeaders;
use super::rejection::{self, Rejection};
use super::settings::ResponseSettings;
use super::waiting::{Wait, Waiter, Waiters};
use crate::identity::{ExemptNetworks, Exemption, Identify, IdentifyError, Identity, UserOrIp};
use crate::limiter::{Checked, Decision, LayerRegistration, Limiter, PendingDecision};
use crate::metrics;
use crate::quota::{Limits, Scope};
use crate::store::Check;

type LimitsForRequest = dyn Fn(&Parts, &Identity) -> LimitsFor + Send + Sync;
type CostFor = dyn Fn(&Parts) -> u32 + Send + Sync;
type Skip = dyn Fn(&Parts) -> bool + Send + Sync;
type Exempt = dyn Fn(&Identity) -> bool + Send + Sync;
type OnReject = dyn Fn(&Rejection<'_>) -> Response<Bytes> + Send + Sync;

/// Decides requests by a layer's settings.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) responses: ResponseSettings,
    pub(super) limiter: Limiter,
    pub(super) scope: Scope,
    pub(super) identify: Arc<dyn Identify>,
    pub(super) limits_for: Option<Arc<LimitsForRequest>>,
    pub(super) cost_for: Option<Arc<CostFor>>,
    pub(super) skip: Option<Arc<Skip>>,
    pub(super) exempt: Option<Arc<Exempt>>,
    pub(super) exempt_networks: Option<ExemptNetworks>,
    pub(super) on_reject: Option<Arc<OnReject>>,
    pub(super) expose_decision: bool,
    /// Whether the layer limits a client: responses then get no headers.
    pub(super) is_outgoing: bool,
    pub(super) max_wait: Duration,
    /// The maximum number of waiting requests.
    pub(super) most_waiting: usize,
    waiters: PerLayer<Waiters>,
    has_logged_unidentified: PerLayer<AtomicBool>,
    has_logged_double_charge: PerLayer<AtomicBool>,
    has_logged_unknown_client: PerLayer<AtomicBool>,
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
    Reject(Response<RejectionBody>),
    /// Wait, and then call the inner service with [`Handler::admit`].
    Wait(Box<Wait>),
}

/// The result of [`Handler::decide`].
pub(super) enum Handled {
    Ready(Action),
    /// The service passes the decision and the waiter to [`Handler::enforce`].
    Pending(PendingDecision, Option<Waiter>),
}

impl Handler {
    pub(super) fn new(limits: Limits, limiter: Limiter) -> Self {
        Self {
            responses: ResponseSettings::new(limits),
            limiter,
            scope: Scope::default(),
            identify: Arc::new(UserOrIp::default()),
            limits_for: None,
            cost_for: None,
            skip: None,
            exempt: None,
            exempt_networks: None,
            on_reject: None,
            expose_decision: false,
            is_outgoing: false,
            max_wait: Duration::MAX,
            most_waiting: 1_000,
            waiters: PerLayer::default(),
            has_logged_unidentified: PerLayer::default(),
            has_logged_double_charge: PerLayer::default(),
            has_logged_unknown_client: PerLayer::default(),
            registration: PerLayer::default(),
        }
    }

    /// Registers the layer, so that another layer that counts in the same entries is warned of.
    pub(super) fn register(&self) {
        let limits = self.responses.templates.limits();
        let register = || self.limiter.register_layer(&self.scope, limits);
        self.registration.0.get_or_init(register);
    }

    /// Decides a request.
    pub(super) fn decide(&self, parts: &mut Parts) -> Handled {
        if self.is_skipped(parts) {
            return Handled::Ready(Action::Call(None));
        }
        let identified = self.identify.identify(parts);
        let identity = match identified.and_then(IdentifyError::check_not_empty) {
            Err(reason) => return Handled::Ready(self.unidentified(parts, &reason)),
            Ok(identity) => identity,
        };
        if self.exempt.as_ref().is_some_and(|exempt| exempt(&identity)) {
            return Handled::Ready(Action::Call(None));
        }
        let limits_for = self.limits_for.as_ref();
        let cost_for = self.cost_for.as_ref();
        let own = limits_for.map(|limits_for| limits_for(parts, &identity));
        let limits = match &own {
            None | Some(LimitsFor::Layer) => self.responses.templates.limits(),
            Some(LimitsFor::Own(limits)) => limits,
            Some(LimitsFor::Unlimited) => return Handled::Ready(Action::Call(None)),
        };
        let cost = cost_for.map_or(1, |cost_for| cost_for(parts));
        if cfg!(debug_assertions) {
            self.warn_if_charged_twice(&mut parts.extensions);
        }
        let check = Check::new(&identity, limits).scope(&self.scope).cost(cost);
        if !check.has_applicable_policy() {
            let reason = IdentifyError::without_policy(&identity);
            return Handled::Ready(self.unidentified(parts, &reason));
        }
        let (check, waiter) = match limits.has_queue() {
            false => (check, None),
            true => self.enter_queue(check),
        };
        match self.limiter.check(&check) {
            Checked::Pending(decision) => Handled::Pending(decision, waiter),
            Checked::Ready(decision) => Handled::Ready(self.enforce(&decision, waiter, parts)),
        }
    }

    /// Returns whether a request is exempt before its identity is known.
    fn is_skipped(&self, parts: &Parts) -> bool {
        if self.skip.as_ref().is_some_and(|skip| skip(parts)) {
            return true;
        }
        let Some(networks) = &self.exempt_networks else {
            return false;
        };
        let exemption = networks.exempt(self.identify.client_ip(), parts);
        if let Exemption::UnknownClient { peer } = exemption {
            let has_logged = &self.has_logged_unknown_client.0;
            if !has_logged.swap(true, Ordering::Relaxed) {
                events::unknown_client(self.scope.as_str(), peer);
            }
        }
        exemption == Exemption::Exempt
    }

    /// Allows a check to queue, unless too many requests of the layer wait already.
    #[cold]
    fn enter_queue<'a>(&self, check: Check<'a>) -> (Check<'a>, Option<Waiter>) {
        // Shadow mode charges as the enforcing layer would, and never waits.
        if self.limiter.is_shadow() {
            return (check.max_wait(self.max_wait), None);
        }
        // A waiter is added before the decision, so that a request that cannot wait is not charged.
        match self.waiters.0.enter(self.most_waiting) {
            Some(waiter) => (check.max_wait(self.max_wait), Some(waiter)),
            None => (check.max_wait(Duration::ZERO), None),
        }
    }

    /// Admits, delays or rejects a request.
    #[inline]
    pub(super) fn enforce(
        &self,
        decision: &Decision<'_>,
        waiter: Option<Waiter>,
        parts: &mut Parts,
    ) -> Action {
        let is_shadow = self.limiter.is_shadow();
        if !decision.is_allowed() && !is_shadow {
            return Action::Reject(self.reject(decision, parts));
        }
        if decision.is_delayed() && !is_shadow {
            return Action::Wait(Box::new(Wait::new(decision, waiter)));
        }
        Action::Call(self.admit(decision, parts))
    }

    /// Prepares a request for the inner service. Returns the headers to add to its response.
    #[inline]
    pub(super) fn admit(
        &self,
        decision: &Decision<'_>,
        parts: &mut Parts,
    ) -> Option<RateLimitHeaders> {
        let (responses, is_shadow) = (&self.responses, self.limiter.is_shadow());
        if self.expose_decision {
            parts.extensions.insert(decision.clone().into_owned());
        }
        if self.is_outgoing {
            return None;
        }
        let (headers, templates) = (responses.headers, &responses.templates);
        let headers = RateLimitHeaders::new(decision, headers, templates, is_shadow);
        Some(headers)
    }

    fn reject(&self, decision: &Decision<'_>, parts: &Parts) -> Response<RejectionBody> {
        let rejection = Rejection {
            settings: &self.responses,
            decision,
            parts,
        };
        let mut response = match &self.on_reject {
            None => rejection.complete_response(),
            Some(on_reject) => {
                let mut response = on_reject(&rejection);
                rejection.complete(response.headers_mut());
                response.map(RejectionBody::from)
            }
        };
        if self.is_outgoing {
            let decision = decision.clone().into_owned();
            response.extensions_mut().insert(decision);
        }
        response
    }

    /// Handles a request without an identity: rejects it, except in shadow mode.
    #[cold]
    fn unidentified(&self, parts: &Parts, reason: &IdentifyError) -> Action {
        metrics::unidentified();
        if !self.has_logged_unidentified.0.swap(true, Ordering::Relaxed) {
            events::unidentified(self.scope.as_str(), reason);
        }
        match self.limiter.is_shadow() {
            true if self.is_outgoing => Action::Call(None),
            true => Action::Call(Some(RateLimitHeaders::shadow_unidentified())),
            false => Action::Reject(rejection::unidentified(&self.responses, parts, reason)),
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
}
