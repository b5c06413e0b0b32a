//! `envoy.service.ratelimit.v3.RateLimitService`.

use std::collections::HashSet;

use futures_util::future::join_all;
use tonic::{Request, Response, Status};

use super::call::{authorization, into_parts, refused, with_caller};
use super::envoy_response::{Outcome, ok, respond, status};
use crate::authentication::{Caller, bearer};
use crate::configuration::Rules;
use crate::decision::{Answer, Gate};
use crate::envoy::{Amount, Counted, Found, Label, Limit, PerUnit, Unit};
use crate::error::Refusal;
use crate::protocol::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_response::rate_limit;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use crate::protocol::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::server_metrics;

/// The most descriptors of a request. Each is a check of its own, and all of them are in flight
/// together. Envoy makes one for each action of a route.
const MOST_DESCRIPTORS: usize = 100;

/// The door.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) gate: Gate,
}

/// The check of a descriptor.
struct Plan {
    limit: Limit,
    label: Label,
    /// The name of the count.
    counted: String,
    hits: u64,
}

#[tonic::async_trait]
impl RateLimitService for Door {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let rules = self.gate.rules();
        let (caller, request) = into_parts(request).map_err(|refusal| refused(&refusal))?;
        let plans = plans(&rules, &caller, &request).map_err(|refusal| refused(&refusal))?;
        // Checks that are in flight together share round trips.
        let decided = plans
            .iter()
            .map(|plan| self.decide(&rules, &request.domain, plan.as_ref()));
        let outcomes = join_all(decided).await;
        Ok(Response::new(respond(&rules, outcomes)))
    }
}

/// Authenticates an Envoy.
pub(super) fn authenticate(gate: &Gate, request: Request<()>) -> Result<Request<()>, Status> {
    let rules = gate.rules();
    let tokens = &rules.envoy.tokens;
    let token = authorization(&request).and_then(bearer);
    let caller = match token.and_then(|token| tokens.get(token)) {
        Some(()) => Ok(Caller::Envoy),
        None if tokens.is_empty() && !rules.authenticator.required => Ok(Caller::Anybody),
        None => Err(Refusal::unauthenticated(
            "show one of the tokens in `envoy.tokens` as `authorization`",
        )),
    };
    with_caller(request, caller)
}

/// The check of each descriptor, or `None` if the descriptor has no limit.
fn plans(
    rules: &Rules,
    caller: &Caller,
    request: &RateLimitRequest,
) -> Result<Vec<Option<Plan>>, Refusal> {
    if request.domain.is_empty() {
        return Err(Refusal::invalid("domain", "must not be empty"));
    }
    if request.descriptors.is_empty() {
        return Err(Refusal::invalid("descriptors", "must not be empty"));
    }
    let count = request.descriptors.len();
    if count > MOST_DESCRIPTORS {
        let problem =
            format!("must be at most {MOST_DESCRIPTORS}, not {count}: send more requests");
        return Err(Refusal::invalid("descriptors", problem));
    }
    if let Some(index) = request
        .descriptors
        .iter()
        .position(|it| it.is_negative_hits)
    {
        // A fixed window may have ended since its hits were charged. Subtracted from the next one, they
        // would let through more than its limit; ignored or charged, they would be wrong too.
        return Err(Refusal::invalid(
            &format!("descriptors[{index}].is_negative_hits"),
            "hits cannot be refunded, because the window in which they were counted may have \
             ended: remove it, and charge hits once their number is known (in Envoy: \
             `apply_on_stream_done`)",
        ));
    }
    let mut descriptors = request.descriptors.iter();
    if descriptors.any(|descriptor| descriptor.limit.is_some()) {
        rules.authenticator.check_given_limits(caller)?;
    }
    let plans = request.descriptors.iter();
    let plans = plans.map(|descriptor| plan(rules, request, descriptor));
    let mut plans = plans.collect::<Result<Vec<_>, _>>()?;
    let limits = plans.iter().flatten().map(|plan| &plan.limit);
    let replaced: HashSet<_> = limits.flat_map(|limit| limit.replaces.clone()).collect();
    for plan in &mut plans {
        let is_replaced = |plan: &mut Plan| {
            let name = plan.limit.name.as_ref();
            name.is_some_and(|name| replaced.contains(name))
        };
        plan.take_if(is_replaced);
    }
    Ok(plans)
}

fn plan(
    rules: &Rules,
    request: &RateLimitRequest,
    descriptor: &RateLimitDescriptor,
) -> Result<Option<Plan>, Refusal> {
    let hits = descriptor.hits_addend;
    let hits = hits.unwrap_or_else(|| request.hits_addend.max(1).into());
    let entries = descriptor.entries.iter();
    let entries: Vec<_> = entries.map(|entry| (&*entry.key, &*entry.value)).collect();
    let domain = &request.domain;
    if let Some(given) = &descriptor.limit {
        // As in Envoy ratelimit, an unknown domain has no limits.
        if !rules.envoy.rules.knows(domain) {
            return Ok(None);
        }
        let mut counted = Counted::of(domain);
        for (key, value) in entries {
            counted.add_plain(key, value);
        }
        return Ok(Some(Plan {
            limit: given_limit(given)?,
            label: Label {
                text: "given".to_owned(),
                is_open: false,
            },
            counted: counted.into_string(),
            hits,
        }));
    }
    let found = rules.envoy.rules.find(domain, &entries);
    Ok(found.map(
        |Found {
             limit,
             label,
             counted,
         }| Plan {
            limit: limit.clone(),
            label,
            counted,
            hits,
        },
    ))
}

fn given_limit(given: &RateLimitOverride) -> Result<Limit, Refusal> {
    // Envoy ratelimit reads this number as a unit of the response, among which there is a week.
    let unit = match rate_limit::Unit::try_from(given.unit) {
        Ok(rate_limit::Unit::Second) => Unit::Second,
        Ok(rate_limit::Unit::Minute) => Unit::Minute,
        Ok(rate_limit::Unit::Hour) => Unit::Hour,
        Ok(rate_limit::Unit::Day) => Unit::Day,
        Ok(rate_limit::Unit::Week) => Unit::Week,
        Ok(rate_limit::Unit::Month) => Unit::Month,
        Ok(rate_limit::Unit::Year) => Unit::Year,
        Ok(rate_limit::Unit::Unknown) | Err(_) => {
            let problem = "must be SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR";
            return Err(Refusal::invalid("descriptors.limit.unit", problem));
        }
    };
    let per_unit = PerUnit::new(given.requests_per_unit, unit);
    Ok(Limit {
        amount: Amount::PerUnit(per_unit),
        name: None,
        replaces: Vec::new(),
        shadow: false,
        quota_mode: false,
        metadata: None,
    })
}

impl Door {
    async fn decide(&self, rules: &Rules, domain: &str, plan: Option<&Plan>) -> Outcome {
        let Some(plan) = plan else {
            return Outcome {
                status: ok(None, 0),
                is_denied: false,
                quota_mode: false,
                metadata: None,
            };
        };
        let (status, is_denied, outcome) = match &plan.limit.amount {
            Amount::Unlimited => (ok(None, u32::MAX), false, "unlimited"),
            Amount::PerUnit(per_unit) => {
                let answer = self.check(rules, plan, per_unit).await;
                let is_allowed = answer.is_some_and(|answer| answer.allowed);
                let is_denied = !is_allowed && !plan.limit.shadow;
                let name = plan.limit.name.as_deref();
                let status = status(name, per_unit, answer.as_ref(), is_denied);
                let outcome = match (is_allowed, is_denied) {
                    (true, _) => "ok",
                    (false, true) => "over_limit",
                    (false, false) => "shadow",
                };
                (status, is_denied, outcome)
            }
        };
        let Label { text, is_open } = &plan.label;
        server_metrics::hits(domain, text, *is_open, outcome, plan.hits);
        let is_under = !is_denied && matches!(plan.limit.amount, Amount::PerUnit(_));
        let metadata = plan.limit.metadata.as_ref().filter(|_| is_under);
        Outcome {
            status,
            is_denied,
            quota_mode: plan.limit.quota_mode,
            metadata: metadata.cloned(),
        }
    }

    async fn check(&self, rules: &Rules, plan: &Plan, per_unit: &PerUnit) -> Option<Answer> {
        let check = async |per_unit, hits| {
            let gate = &self.gate;
            gate.check_descriptor(rules, &plan.counted, per_unit, hits)
                .await
        };
        match u32::try_from(plan.hits) {
            Ok(hits) => check(per_unit, hits).await,
            // More hits than any limit: they fit into none, not even into one of u32::MAX.
            Err(_) => {
                let requests = per_unit.requests.min(u32::MAX - 1);
                check(&PerUnit::new(requests, per_unit.unit), u32::MAX).await
            }
        }
    }
}
