use std::future::IntoFuture;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::join;
use tollgate::{Check, Identity, Limiter, Limits, Quota, Scope};

use super::limiters::Limiters;
use super::request::{Answer, Question, identity};
use crate::authentication::Caller;
use crate::configuration::Rules;
use crate::envoy::PerUnit;
use crate::error::Refusal;
use crate::limits::Overrides;

/// Decides questions by the current rules. All protocols share one.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    limiters: Arc<ArcSwap<Limiters>>,
    rules: Arc<ArcSwap<Rules>>,
    overrides: Overrides,
    /// Keeps the counts of Envoy's descriptors apart from those of keys.
    envoy_scope: Scope,
}

/// A question with the identity, limits and rules that apply to it.
struct Terms {
    identity: Identity,
    scope: Scope,
    limits: Limits,
    cost: u32,
    rules: Arc<Rules>,
}

impl Terms {
    fn check(&self) -> Check<'_> {
        Check::new(&self.identity, &self.limits)
            .scope(&self.scope)
            .cost(self.cost)
    }
}

/// Whether a question is charged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Check,
    Peek,
}

impl Gate {
    pub(crate) fn new(limiters: Limiters, rules: Rules, overrides: Overrides) -> Self {
        Self {
            limiters: Arc::new(ArcSwap::from_pointee(limiters)),
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            overrides,
            envoy_scope: Scope::new("envoy").expect("a good name"),
        }
    }

    /// The current rules.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Replaces the rules.
    pub(crate) fn follow(&self, rules: Rules) {
        let limiters = self.limiters.load().follow(&rules);
        self.limiters.store(Arc::new(limiters));
        self.rules.store(Arc::new(rules));
    }

    /// The limits that are set at run time.
    pub(crate) fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// Decides a question, and charges it if it is allowed.
    pub(crate) async fn check(
        &self,
        caller: &Caller,
        question: &Question,
    ) -> Result<Answer, Refusal> {
        self.ask(caller, question, Mode::Check).await
    }

    /// Decides a question without charging it.
    pub(crate) async fn peek(
        &self,
        caller: &Caller,
        question: &Question,
    ) -> Result<Answer, Refusal> {
        self.ask(caller, question, Mode::Peek).await
    }

    /// Resets the counts of a key, in the store and in the process.
    pub(crate) async fn reset(&self, question: &Question) -> Result<(), Refusal> {
        let terms = self.terms(&Caller::Operator, question)?;
        let limiter = self.limiter(&terms);
        let reset = limiter.reset(&terms.check()).await;
        reset.map_err(|error| {
            tracing::warn!(%error, "a count could not be reset");
            Refusal::unavailable("the store did not confirm the reset: try again")
        })
    }

    async fn ask(
        &self,
        caller: &Caller,
        question: &Question,
        mode: Mode,
    ) -> Result<Answer, Refusal> {
        let terms = self.terms(caller, question)?;
        let limiter = self.limiter(&terms);
        let decision = match mode {
            Mode::Check => limiter.check(&terms.check()).await,
            Mode::Peek => limiter.peek(&terms.check()).await,
        };
        Ok(Answer::from(&decision))
    }

    /// The identity and the limits that a question is about.
    fn terms(&self, caller: &Caller, question: &Question) -> Result<Terms, Refusal> {
        let subject = question.subject(caller)?;
        let identity = identity(&subject.key)?;
        let rules = self.rules();
        if question.limits.is_some() {
            rules.authenticator.check_given_limits(caller)?;
        }
        let catalog = &rules.catalog;
        let scope = catalog
            .scope_of(subject.tenant.as_deref())
            .map_err(|error| Refusal::invalid("tenant", error))?;
        let limits = match &question.limits {
            Some(limits) => limits.clone(),
            None => self
                .overrides
                .limits_of(catalog, scope.as_str(), &subject.key),
        };
        Ok(Terms {
            identity,
            scope,
            limits,
            cost: question.cost,
            rules,
        })
    }

    /// Decides a descriptor of Envoy's; `None` if its limit is 0.
    ///
    /// Envoy may ask with 0 hits whether to let a request through, and charge the hits once the response
    /// is done. Hits that exceed the limit are not charged, but recorded: questions with 0 hits are then
    /// denied until the unit ends.
    pub(crate) async fn check_descriptor(
        &self,
        rules: &Rules,
        counted: &str,
        per_unit: &PerUnit,
        hits: u32,
    ) -> Option<Answer> {
        let identity = Identity::new("descriptor", counted).expect("a good kind");
        let about = |limits| Check::new(&identity, limits).scope(&self.envoy_scope);
        let limits = about(per_unit.limits.as_ref()?);
        let over = about(&per_unit.over);
        let limiter = self.limiters.load().of_envoy().clone();
        let limiter = limiter.failure_strategy(rules.failure_strategy);
        if hits == 0 {
            let (left, over) = join(
                limiter.peek(&limits.cost(0)).into_future(),
                limiter.peek(&over).into_future(),
            )
            .await;
            return Some(Answer {
                allowed: over.remaining() > 0,
                ..Answer::from(&left)
            });
        }
        let decision = limiter.check(&limits.cost(hits)).await;
        if !decision.is_allowed() {
            // Only recorded, so metrics must not count it as a denial.
            limiter.shadow(true).check(&over).await;
        }
        Some(Answer::from(&decision))
    }

    fn limiter(&self, terms: &Terms) -> Limiter {
        let limiters = self.limiters.load();
        let limiter = limiters.of_tenant(terms.scope.as_str()).clone();
        limiter.failure_strategy(terms.rules.failure_strategy)
    }

    /// Whether the store is unavailable, found out by a question about a reserved identity.
    pub(crate) async fn is_degraded(&self) -> bool {
        let reserved = Identity::new("tollgate", "ready").expect("a good kind");
        let limits = Limits::from(Quota::per_second(1));
        let check = Check::new(&reserved, &limits);
        let limiter = self.limiters.load().of_others().clone();
        limiter.peek(&check).await.is_degraded()
    }
}
