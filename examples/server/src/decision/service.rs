use std::future::IntoFuture;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::join;
use tollgate::{Check, Identity, Kind, Limiter, Limits, Quota, Scope};

use super::limiters::Limiters;
use super::request::{DecisionRequest, DecisionResponse, identity};
use crate::authentication::Principal;
use crate::configuration::ReloadableSettings;
use crate::envoy::PerUnit;
use crate::error::ApiError;
use crate::limits::{Overrides, invalid_tenant};

/// The kind of the identities of Envoy's descriptors.
const DESCRIPTOR: Kind = Kind::new("descriptor");

/// Decides the requests of all protocols, by the settings in force. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct DecisionService {
    limiters: Arc<ArcSwap<Limiters>>,
    settings: Arc<ArcSwap<ReloadableSettings>>,
    overrides: Overrides,
    /// Keeps the counts of Envoy's descriptors apart from the counts of keys.
    envoy_scope: Scope,
}

/// A request with its identity, and with the limits and settings that apply to it.
struct ResolvedRequest {
    identity: Identity,
    scope: Scope,
    limits: Limits,
    cost: u32,
    settings: Arc<ReloadableSettings>,
}

impl ResolvedRequest {
    fn check(&self) -> Check<'_> {
        Check::new(&self.identity, &self.limits)
            .scope(&self.scope)
            .cost(self.cost)
    }
}

/// Whether an allowed request is charged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Check,
    Peek,
}

impl DecisionService {
    pub(crate) fn new(
        limiters: Limiters,
        settings: ReloadableSettings,
        overrides: Overrides,
    ) -> Self {
        Self {
            limiters: Arc::new(ArcSwap::from_pointee(limiters)),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            overrides,
            envoy_scope: Scope::new("envoy").expect("a valid scope"),
        }
    }

    /// Returns the settings in force.
    pub(crate) fn settings(&self) -> Arc<ReloadableSettings> {
        self.settings.load_full()
    }

    /// Puts changed settings into force.
    pub(crate) fn replace_settings(&self, settings: ReloadableSettings) {
        let limiters = self.limiters.load().for_changed_settings(&settings);
        self.limiters.store(Arc::new(limiters));
        self.settings.store(Arc::new(settings));
    }

    /// Returns the limits that are set at run time.
    pub(crate) fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// Decides a request, and charges it if it is allowed.
    pub(crate) async fn check(
        &self,
        principal: &Principal,
        request: &DecisionRequest,
    ) -> Result<DecisionResponse, ApiError> {
        self.decide(principal, request, Mode::Check).await
    }

    /// Decides a request without charging it.
    pub(crate) async fn peek(
        &self,
        principal: &Principal,
        request: &DecisionRequest,
    ) -> Result<DecisionResponse, ApiError> {
        self.decide(principal, request, Mode::Peek).await
    }

    /// Resets the counts of a key, in the store and in the process.
    pub(crate) async fn reset(&self, request: &DecisionRequest) -> Result<(), ApiError> {
        let resolved = self.resolve(&Principal::Operator, request)?;
        let limiter = self.limiter(&resolved);
        let reset = limiter.reset(&resolved.check()).await;
        reset.map_err(|error| {
            tracing::warn!(%error, "the store did not confirm the reset of a count");
            ApiError::unavailable("the store did not confirm the reset: try again")
        })
    }

    async fn decide(
        &self,
        principal: &Principal,
        request: &DecisionRequest,
        mode: Mode,
    ) -> Result<DecisionResponse, ApiError> {
        let resolved = self.resolve(principal, request)?;
        let limiter = self.limiter(&resolved);
        let decision = match mode {
            Mode::Check => limiter.check(&resolved.check()).await,
            Mode::Peek => limiter.peek(&resolved.check()).await,
        };
        Ok(DecisionResponse::from(&decision))
    }

    /// Finds the identity and the limits of a request.
    fn resolve(
        &self,
        principal: &Principal,
        request: &DecisionRequest,
    ) -> Result<ResolvedRequest, ApiError> {
        let target = request.target(principal)?;
        let identity = identity(&target.key)?;
        let settings = self.settings();
        if request.limits.is_some() {
            settings.authenticator.check_caller_limits(principal)?;
        }
        let configured_limits = &settings.configured_limits;
        let scope = configured_limits
            .scope_of(target.tenant.as_deref())
            .map_err(|_| {
                let tenant = target.tenant.as_deref().unwrap_or_default();
                ApiError::invalid("tenant", invalid_tenant(tenant))
            })?;
        let limits = match &request.limits {
            Some(limits) => limits.clone(),
            None => self
                .overrides
                .limits_of(configured_limits, scope.as_str(), &target.key),
        };
        Ok(ResolvedRequest {
            identity,
            scope,
            limits,
            cost: request.cost,
            settings,
        })
    }

    /// Decides a descriptor of an Envoy request. Returns `None` if its limit is 0.
    ///
    /// Envoy may send 0 hits before it forwards a request, and charge the hits once the response is
    /// complete. Hits that exceed the limit are not charged, but recorded in `per_unit.exceeded`,
    /// so that checks with 0 hits are denied until the unit ends.
    pub(crate) async fn check_descriptor(
        &self,
        settings: &ReloadableSettings,
        count_key: &str,
        per_unit: &PerUnit,
        hits: u32,
    ) -> Option<DecisionResponse> {
        let identity = Identity::new(&DESCRIPTOR, count_key);
        let check = |limits| Check::new(&identity, limits).scope(&self.envoy_scope);
        let limits = check(per_unit.limits.as_ref()?);
        let exceeded = check(&per_unit.exceeded);
        let limiter = self.limiters.load().of_envoy().clone();
        let limiter = limiter.failure_strategy(settings.failure_strategy);
        if hits == 0 {
            let (decision, exceeded) = join(
                limiter.peek(&limits.cost(0)).into_future(),
                limiter.peek(&exceeded).into_future(),
            )
            .await;
            return Some(DecisionResponse {
                allowed: exceeded.remaining() > 0,
                ..DecisionResponse::from(&decision)
            });
        }
        let decision = limiter.check(&limits.cost(hits)).await;
        if !decision.is_allowed() {
            // In shadow mode, so that metrics do not count a second denial.
            limiter.shadow(true).check(&exceeded).await;
        }
        Some(DecisionResponse::from(&decision))
    }

    fn limiter(&self, resolved: &ResolvedRequest) -> Limiter {
        let limiters = self.limiters.load();
        let limiter = limiters.of_tenant(resolved.scope.as_str()).clone();
        limiter.failure_strategy(resolved.settings.failure_strategy)
    }

    /// Returns whether the store is unavailable, by checking a reserved identity.
    pub(crate) async fn is_degraded(&self) -> bool {
        let reserved = Identity::new(&Kind::new("tollgate"), "ready");
        let limits = Limits::from(Quota::per_second(1));
        let check = Check::new(&reserved, &limits);
        let limiter = self.limiters.load().of_others().clone();
        limiter.peek(&check).await.is_degraded()
    }
}
