use std::sync::Arc;

use arc_swap::ArcSwap;
use tollgate::{Check, Identity, Limiter, Limits, Quota, Scope};

use super::answer::Answer;
use super::question::{Question, identity};
use super::refusal::Refusal;
use crate::configuration::Rules;

/// One limiter, and the rules by which it is asked; what all front doors share.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    limiter: Limiter,
    rules: Arc<ArcSwap<Rules>>,
}

/// Whether a question is paid for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Check,
    Peek,
}

impl Gate {
    pub(crate) fn new(limiter: Limiter, rules: Rules) -> Self {
        Self {
            limiter,
            rules: Arc::new(ArcSwap::from_pointee(rules)),
        }
    }

    /// Decides, and charges if it is allowed.
    pub(crate) async fn check(&self, question: &Question) -> Result<Answer, Refusal> {
        self.ask(question, Mode::Check).await
    }

    /// Looks what is left.
    pub(crate) async fn peek(&self, question: &Question) -> Result<Answer, Refusal> {
        self.ask(question, Mode::Peek).await
    }

    async fn ask(&self, question: &Question, mode: Mode) -> Result<Answer, Refusal> {
        let rules = self.rules.load();
        let identity = identity(&question.key)?;
        let tenant = question.tenant.as_deref();
        let tenant = tenant.unwrap_or(&rules.catalog.default_tenant);
        let scope = match rules.catalog.tenants.get(tenant) {
            Some(tenant) => tenant.scope.clone(),
            None => Scope::new(tenant).map_err(|error| Refusal::invalid("tenant", error))?,
        };
        let limits = match &question.limits {
            Some(limits) => limits.clone(),
            None => rules.catalog.limits_of(tenant, &question.key).clone(),
        };
        let limiter = self.limiter.clone();
        let limiter = limiter.failure_strategy(rules.failure_strategy);
        // A check may wait, and what is loaded is meant to be held for moments.
        drop(rules);
        let check = Check::new(&identity, &limits)
            .scope(&scope)
            .cost(question.cost);
        let decision = match mode {
            Mode::Check => limiter.check(&check).await,
            Mode::Peek => limiter.peek(&check).await,
        };
        Ok(Answer::from(&decision))
    }

    /// Whether the store is away, as a look at nobody's count tells.
    pub(crate) async fn is_degraded(&self) -> bool {
        let nobody = Identity::new("tollgate", "ready").expect("a good kind");
        let limits = Limits::from(Quota::per_second(1));
        let look = Check::new(&nobody, &limits);
        self.limiter.peek(&look).await.is_degraded()
    }
}
