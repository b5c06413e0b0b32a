use std::mem;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Extensions, Response};
use smallvec::SmallVec;

use super::body::ResponseBody;
use super::charged::{ChargedCall, ResponseRules, reset_soon};
use super::events;
use super::expose::{Additions, Expose, Exposed};
use super::limits_for::LimitsFor;
use super::rate_limit_headers::RateLimitHeaders;
use super::rejection::{Rejection, RejectionReason};
use super::rejection_body::RejectionBody;
use super::request_scopes::{MAX_SCOPES, NoScope, RequestScope, RequestScopes, ScopeFor};
use super::settings::ResponseSettings;
use super::templates::Templates;
use super::waiting::{Wait, Waiter, Waiters};
use crate::identity::{ExemptNetworks, Exemption, Identify, IdentifyError, Identity, UserOrIp};
use crate::limiter::{
    Acquired, Charge, Checked, Decision, LayerRegistration, Limiter, PendingDecision, Permit,
};
use crate::metrics;
use crate::quota::{Limits, Scope};
use crate::store::{BoxFuture, Check, OwnedCheck};

type LimitsForRequest = dyn Fn(&Parts, &Identity) -> LimitsFor + Send + Sync;
type CostFor = dyn Fn(&Parts) -> u32 + Send + Sync;
type Skip = dyn Fn(&Parts) -> bool + Send + Sync;
type Exempt = dyn Fn(&Identity) -> bool + Send + Sync;
type OnReject = dyn Fn(&Rejection<'_>) -> Response<RejectionBody> + Send + Sync;

/// Decides requests by a layer's settings.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) responses: ResponseSettings,
    pub(super) limiter: Limiter,
    scope: Scope,
    /// The limits as they were given. The templates have the same limits, named by the scope.
    limits: Limits,
    scope_for: Option<Arc<ScopeFor>>,
    scopes: PerLayer<RequestScopes>,
    pub(super) identify: Arc<dyn Identify>,
    pub(super) limits_for: Option<Arc<LimitsForRequest>>,
    pub(super) cost_for: Option<Arc<CostFor>>,
    pub(super) skip: Option<Arc<Skip>>,
    pub(super) exempt: Option<Arc<Exempt>>,
    pub(super) exempt_networks: Option<ExemptNetworks>,
    pub(super) on_reject: Option<Arc<OnReject>>,
    pub(super) expose: Expose,
    pub(super) response_rules: ResponseRules,
    /// Whether each request gets a permit.
    acquires: bool,
    /// Whether the layer limits a client: responses then get no headers.
    pub(super) is_outgoing: bool,
    pub(super) max_wait: Duration,
    /// The maximum number of waiting requests.
    pub(super) most_waiting: usize,
    waiters: PerLayer<Waiters>,
    has_logged_unidentified: PerLayer<AtomicBool>,
    has_logged_invalid_scope: PerLayer<AtomicBool>,
    has_logged_too_many_scopes: PerLayer<AtomicBool>,
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
    /// Call the inner service, and add to its response.
    Call(Additions),
    /// Call the inner service, and settle the charge by its response.
    CallCharged(Box<ChargedCall>),
    /// Wait, and then call the inner service as [`Handler::admit_after`] says.
    Wait(Box<Wait>),
    /// Send this rejection.
    Reject(Response<RejectionBody>),
}

/// How to call the inner service for an admitted request.
pub(super) enum Admitted {
    Plain(Additions),
    Charged(Box<ChargedCall>),
}

/// The result of [`Handler::decide`].
pub(super) enum Handled {
    Ready(Action),
    /// The service passes the result to [`Handler::enforce_pending`].
    Pending(Pending),
}

/// A decision that must be awaited.
pub(super) enum Pending {
    Decision(PendingDecision, Retained),
    Permit(BoxFuture<Permit>, Retained),
}

/// The result of a [`Pending`].
pub(super) enum Decided {
    Decision(Decision<'static>, Retained),
    Permit(Permit, Retained),
}

/// The parts of a request that a layer retains until the decision.
#[derive(Default)]
pub(super) struct Retained {
    waiter: Option<Waiter>,
    /// The identity, if the layer needs it after the decision.
    identity: Option<Identity>,
    /// The check to reset, if the layer has `reset_if`.
    reset: Option<OwnedCheck>,
}

impl Pending {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decided> {
        Poll::Ready(match self {
            Self::Decision(decision, retained) => {
                let decision = ready!(Pin::new(decision).poll(cx));
                Decided::Decision(decision, mem::take(retained))
            }
            Self::Permit(permit, retained) => {
                let permit = ready!(permit.as_mut().poll(cx));
                Decided::Permit(permit, mem::take(retained))
            }
        })
    }
}

impl Handler {
    pub(super) fn new(limits: Limits, limiter: Limiter) -> Self {
        let acquires = limits.is_reserving();
        Self {
            responses: ResponseSettings::new(limits.clone()),
            limiter,
            scope: Scope::default(),
            limits,
            scope_for: None,
            scopes: PerLayer::default(),
            identify: Arc::new(UserOrIp::default()),
            limits_for: None,
            cost_for: None,
            skip: None,
            exempt: None,
            exempt_networks: None,
            on_reject: None,
            expose: Expose::new(),
            response_rules: ResponseRules::default(),
            acquires,
            is_outgoing: false,
            max_wait: Duration::MAX,
            most_waiting: 1_000,
            waiters: PerLayer::default(),
            has_logged_unidentified: PerLayer::default(),
            has_logged_invalid_scope: PerLayer::default(),
            has_logged_too_many_scopes: PerLayer::default(),
            has_logged_double_charge: PerLayer::default(),
            has_logged_unknown_client: PerLayer::default(),
            registration: PerLayer::default(),
        }
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(super) fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
        self.name_limits();
    }

    /// Names the policies after the scope, after one of the two has changed.
    fn name_limits(&mut self) {
        let templates = Templates::new(self.limits.named_by(&self.scope));
        self.responses.templates = Arc::new(templates);
        self.scopes = PerLayer::default();
    }

    pub(super) fn set_scope_for(&mut self, scope_for: Arc<ScopeFor>) {
        self.scope_for = Some(scope_for);
        self.scopes = PerLayer::default();
    }

    /// Registers the layer, so that another layer that counts in the same entries is warned of.
    pub(super) fn register(&self) {
        let limits = self.responses.templates.limits();
        let register = || self.limiter.register_layer(&self.scope, limits);
        self.registration.0.get_or_init(register);
    }

    /// Decides a request.
    pub(super) fn decide(self: &Arc<Self>, parts: &mut Parts) -> Handled {
        if self.is_skipped(parts) {
            return Handled::Ready(self.exempt_request(parts, None, None));
        }
        let identified = self.identify.identify(parts);
        let identity = match identified.and_then(IdentifyError::check_not_empty) {
            Err(reason) => return Handled::Ready(self.unidentified(parts, &reason)),
            Ok(identity) => identity,
        };
        if self.exempt.as_ref().is_some_and(|exempt| exempt(&identity)) {
            return Handled::Ready(self.exempt_request(parts, Some(&identity), None));
        }
        let limits_for = self.limits_for.as_ref();
        let cost_for = self.cost_for.as_ref();
        let own = limits_for.map(|limits_for| limits_for(parts, &identity));
        let chosen = self.scope_for.as_ref();
        let chosen = chosen.and_then(|scope_for| self.request_scope(scope_for, parts));
        let (scope, limits) = match &chosen {
            None => (&self.scope, self.responses.templates.limits()),
            Some(chosen) => (&chosen.scope, &chosen.limits),
        };
        let limits = match &own {
            None | Some(LimitsFor::Layer) => limits,
            Some(LimitsFor::Own(limits)) => limits,
            Some(LimitsFor::Unlimited) => {
                return Handled::Ready(self.exempt_request(parts, Some(&identity), None));
            }
        };
        let cost = cost_for.map_or(1, |cost_for| cost_for(parts));
        // A client may send a request again through the same layer.
        if cfg!(debug_assertions) && !self.is_outgoing {
            self.warn_if_charged_twice(&mut parts.extensions);
        }
        let mut check = Check::new(&identity, limits).scope(scope).cost(cost);
        if !check.has_applicable_policy() {
            let reason = IdentifyError::without_policy(&identity);
            return Handled::Ready(self.unidentified(parts, &reason));
        }
        let waiter = match limits.has_queue() {
            false => None,
            true => self.enter_queue(&mut check),
        };
        let needs_identity = self.on_reject.is_some() || self.expose.has_identity();
        if self.acquires || own.is_some() && limits.is_reserving() {
            let settleable = match &own {
                Some(LimitsFor::Own(limits)) if self.settles() => limits.settleable().ok(),
                _ => None,
            };
            let check = check.limits(settleable.as_ref().unwrap_or(limits));
            let retained = Retained {
                waiter,
                identity: needs_identity.then(|| identity.clone()),
                reset: self.response_rules.reset(&check),
            };
            return self.acquire(&check, retained, parts);
        }
        match self.limiter.check(&check) {
            Checked::Pending(decision) => {
                let retained = Retained {
                    waiter,
                    identity: needs_identity.then_some(identity),
                    reset: None,
                };
                Handled::Pending(Pending::Decision(decision, retained))
            }
            Checked::Ready(decision) => {
                Handled::Ready(self.enforce(&decision, Some(&identity), waiter, parts))
            }
        }
    }

    /// Decides a request whose charge is settled later.
    #[cold]
    fn acquire(&self, check: &Check<'_>, retained: Retained, parts: &mut Parts) -> Handled {
        match self.limiter.charge(check) {
            Acquired::Pending(permit) => Handled::Pending(Pending::Permit(permit, retained)),
            Acquired::Ready(permit) => Handled::Ready(self.enforce_permit(permit, retained, parts)),
        }
    }

    /// Returns whether charges may be settled at another cost than they were made.
    fn settles(&self) -> bool {
        let rules = &self.response_rules;
        rules.charge_if.is_some() || rules.settle_by.is_some() || self.expose.has_charge()
    }

    /// Returns whether the layer needs a store that can settle charges.
    pub(super) fn needs_settlement(&self) -> bool {
        self.settles() || self.limits.is_reserving()
    }

    /// Prepares the layer's limits for settlements, after a rule for responses was set.
    #[track_caller]
    pub(super) fn update_limits(&mut self) {
        if self.settles() {
            let limits = self.limits.settleable();
            self.limits = limits.unwrap_or_else(|error| panic!("{error}"));
            self.name_limits();
        }
        let has_rules = self.settles() || self.response_rules.reset_if.is_some();
        self.acquires = has_rules || self.limits.is_reserving();
    }

    /// Allows a check to queue, unless too many requests of the layer wait already.
    #[cold]
    fn enter_queue(&self, check: &mut Check<'_>) -> Option<Waiter> {
        // Shadow mode charges as the enforcing layer would, and never waits.
        if self.limiter.is_shadow() {
            check.max_wait = Some(self.max_wait);
            return None;
        }
        // A waiter is added before the decision, so that a request that cannot wait is not charged.
        let waiter = self.waiters.0.enter(self.most_waiting);
        check.max_wait = waiter.as_ref().map(|_| self.max_wait);
        waiter
    }

    /// Returns the scope that a request chooses, or `None` for the layer's.
    fn request_scope(&self, scope_for: &ScopeFor, parts: &Parts) -> Option<Arc<RequestScope>> {
        let name = (scope_for.name)(parts)?;
        let new = || (scope_for.scope)(&self.scope, name);
        match self.scopes.0.get(name, new, &self.limits) {
            Ok(scope) => Some(scope),
            Err(reason) => {
                self.log_missing_scope(&reason);
                None
            }
        }
    }

    #[cold]
    fn log_missing_scope(&self, reason: &NoScope) {
        let scope = self.scope.as_str();
        let is_first =
            |has_logged: &PerLayer<AtomicBool>| !has_logged.0.swap(true, Ordering::Relaxed);
        match reason {
            NoScope::InvalidName(error) if is_first(&self.has_logged_invalid_scope) => {
                events::invalid_scope(scope, error);
            }
            NoScope::TooMany if is_first(&self.has_logged_too_many_scopes) => {
                events::too_many_scopes(scope, MAX_SCOPES);
            }
            _ => {}
        }
    }

    /// Calls the inner service for a request that is not limited.
    fn exempt_request(
        &self,
        parts: &mut Parts,
        identity: Option<&Identity>,
        headers: Option<RateLimitHeaders>,
    ) -> Action {
        if self.expose.is_empty() {
            let exposed = None;
            return Action::Call(Additions { headers, exposed });
        }
        let decision = Decision::exempt(self.responses.templates.limits());
        if self.expose.has_charge() {
            parts.extensions.insert(Charge::none(&decision));
        }
        let exposed = self.exposed(&decision, identity, parts);
        Action::Call(Additions { headers, exposed })
    }

    /// Inserts what the layer exposes into a request. Returns it for the response.
    #[inline]
    fn exposed(
        &self,
        decision: &Decision<'_>,
        identity: Option<&Identity>,
        parts: &mut Parts,
    ) -> Option<Box<Exposed>> {
        let exposed = self.expose.select(decision, identity);
        if let Some(exposed) = &exposed {
            exposed.insert_into_request(&mut parts.extensions);
        }
        exposed
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

    /// Admits, delays or rejects a request.
    #[inline]
    fn enforce(
        &self,
        decision: &Decision<'_>,
        identity: Option<&Identity>,
        waiter: Option<Waiter>,
        parts: &mut Parts,
    ) -> Action {
        let is_shadow = self.limiter.is_shadow();
        if !decision.is_allowed() && !is_shadow {
            return Action::Reject(self.deny(decision, identity, parts));
        }
        // Without a waiter, the check did not queue, or the layer is in shadow mode.
        if let Some(waiter) = waiter
            && decision.is_delayed()
        {
            self.limiter.record_delay(decision);
            let identity = identity.filter(|_| self.expose.has_identity()).cloned();
            let decision = decision.clone().into_owned().after_delay();
            return Action::Wait(Box::new(Wait::new(decision, identity, waiter)));
        }
        Action::Call(self.admit(decision, identity, parts))
    }

    /// Admits, delays or rejects a request whose decision was pending.
    pub(super) fn enforce_pending(&self, decided: Decided, parts: &mut Parts) -> Action {
        match decided {
            Decided::Permit(permit, retained) => self.enforce_permit(permit, retained, parts),
            Decided::Decision(decision, retained) => {
                let identity = retained.identity.as_ref();
                self.enforce(&decision, identity, retained.waiter, parts)
            }
        }
    }

    /// Admits, delays or rejects a request with a permit.
    fn enforce_permit(&self, permit: Permit, retained: Retained, parts: &mut Parts) -> Action {
        let Retained {
            waiter,
            identity,
            reset,
        } = retained;
        let (decision, is_shadow) = (permit.decision(), self.limiter.is_shadow());
        if !decision.is_allowed() && !is_shadow {
            return Action::Reject(self.deny(decision, identity.as_ref(), parts));
        }
        if self.expose.has_charge() {
            parts.extensions.insert(permit.charge().clone());
        }
        if let Some(waiter) = waiter
            && decision.is_delayed()
        {
            self.limiter.record_delay(decision);
            let wait = Wait::new(decision.clone(), identity, waiter);
            let exposed = None;
            let call = ChargedCall {
                permit,
                exposed,
                reset,
            };
            return Action::Wait(Box::new(wait.charged(call)));
        }
        let exposed = self.exposed(decision, identity.as_ref(), parts);
        Action::CallCharged(Box::new(ChargedCall {
            permit,
            exposed,
            reset,
        }))
    }

    /// Prepares a request for the inner service. Returns what to add to its response.
    #[inline]
    fn admit(
        &self,
        decision: &Decision<'_>,
        identity: Option<&Identity>,
        parts: &mut Parts,
    ) -> Additions {
        let exposed = self.exposed(decision, identity, parts);
        let headers = self.headers(decision);
        Additions { headers, exposed }
    }

    /// Prepares a request that has waited for the inner service.
    pub(super) fn admit_after(&self, wait: &mut Wait, parts: &mut Parts) -> Admitted {
        let charged = wait.take_charged();
        let (decision, identity) = wait.decision();
        match charged {
            None => Admitted::Plain(self.admit(decision, identity, parts)),
            Some(mut call) => {
                call.exposed = self.exposed(decision, identity, parts);
                Admitted::Charged(call)
            }
        }
    }

    /// Settles the charge by the response. The body keeps the permit until it has ended.
    pub(super) fn finish<B>(
        &self,
        call: ChargedCall,
        response: Response<B>,
    ) -> Response<ResponseBody<B>> {
        let ChargedCall {
            permit,
            exposed,
            reset,
        } = call;
        let (parts, body) = response.into_parts();
        self.response_rules.settle(&parts, &permit);
        if let Some(reset_if) = &self.response_rules.reset_if
            && let Some(check) = reset
            && reset_if(&parts)
        {
            reset_soon(self.limiter.clone(), check);
        }
        let mut response = Response::from_parts(parts, body);
        let headers = self.headers(&permit.charge().settled_decision());
        Additions { headers, exposed }.add_to(&mut response);
        response.map(|body| ResponseBody::charged(body, permit))
    }

    /// Returns the headers to add to a response. A layer that limits a client adds no headers.
    #[inline]
    pub(super) fn headers(&self, decision: &Decision<'_>) -> Option<RateLimitHeaders> {
        if self.is_outgoing {
            return None;
        }
        let (responses, is_shadow) = (&self.responses, self.limiter.is_shadow());
        let (headers, templates) = (responses.headers, Some(&*responses.templates));
        Some(RateLimitHeaders::new(
            decision, headers, templates, is_shadow,
        ))
    }

    fn deny(
        &self,
        decision: &Decision<'_>,
        identity: Option<&Identity>,
        parts: &Parts,
    ) -> Response<RejectionBody> {
        let reason = RejectionReason::of(decision);
        let mut response = self.reject(reason, identity, parts);
        if self.is_outgoing {
            let decision = decision.clone().into_owned();
            response.extensions_mut().insert(decision);
        }
        if self.expose.is_in_response()
            && let Some(exposed) = self.expose.select(decision, identity)
        {
            exposed.insert_into_response(response.extensions_mut());
        }
        response
    }

    fn reject(
        &self,
        reason: RejectionReason<'_>,
        identity: Option<&Identity>,
        parts: &Parts,
    ) -> Response<RejectionBody> {
        let rejection = Rejection {
            settings: &self.responses,
            reason,
            identity,
            parts,
        };
        match &self.on_reject {
            None => rejection.complete_response(),
            Some(on_reject) => {
                let mut response = on_reject(&rejection);
                rejection.complete(response.headers_mut());
                response
            }
        }
    }

    /// Handles a request without an identity: rejects it, except in shadow mode.
    #[cold]
    fn unidentified(&self, parts: &mut Parts, reason: &IdentifyError) -> Action {
        metrics::unidentified();
        if !self.has_logged_unidentified.0.swap(true, Ordering::Relaxed) {
            events::unidentified(self.scope.as_str(), reason);
        }
        match self.limiter.is_shadow() {
            true => {
                let headers = RateLimitHeaders::shadow_unidentified();
                let headers = (!self.is_outgoing).then_some(headers);
                self.exempt_request(parts, None, headers)
            }
            false => {
                let reason = RejectionReason::Unidentified(reason);
                Action::Reject(self.reject(reason, None, parts))
            }
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
