//! `envoy.service.ratelimit.v3.RateLimitService`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use prost_types::Struct;
use tonic::{Request, Response, Status};

use super::draft_headers;
use super::limiter::duration;
use super::refused::{authorization, refused};
use crate::authentication::bearer;
use crate::configuration::Rules;
use crate::decide::{Answer, Gate, Refusal};
use crate::envoy::{Amount, Counted, Found, Limit, PerUnit, Unit, told};
use crate::meter;
use crate::protocol::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit,
};
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use crate::protocol::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::protocol::envoy::r#type::v3::RateLimitUnit;

/// The door.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) gate: Gate,
}

/// What is to be decided of a descriptor.
struct Plan {
    limit: Limit,
    /// The rule, in metrics.
    label: String,
    counted: String,
    hits: u32,
}

/// What became of a descriptor.
struct Outcome {
    status: DescriptorStatus,
    is_denied: bool,
    quota_mode: bool,
    /// What there is to tell of a rule that lets through.
    metadata: Option<Arc<Struct>>,
}

#[tonic::async_trait]
impl RateLimitService for Door {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let rules = self.gate.rules();
        authenticate(&rules, authorization(&request)).map_err(|refusal| refused(&refusal))?;
        let request = request.into_inner();
        let plans = plans(&rules, &request).map_err(|refusal| refused(&refusal))?;
        // Each is decided by itself, and together they share round trips.
        let decided = plans
            .iter()
            .map(|plan| self.decide(&rules, &request.domain, plan.as_ref()));
        let outcomes = join_all(decided).await;
        Ok(Response::new(respond(&rules, outcomes)))
    }
}

fn authenticate(rules: &Rules, header: Option<&str>) -> Result<(), Refusal> {
    let tokens = &rules.envoy.tokens;
    if tokens.is_empty() && !rules.authenticator.required {
        return Ok(());
    }
    let known = header.and_then(bearer).and_then(|token| tokens.get(token));
    known.copied().ok_or_else(|| {
        Refusal::unauthenticated("show one of the tokens in `envoy.tokens` as `authorization`")
    })
}

/// What is to be decided, for each descriptor; None where there is no limit.
fn plans(rules: &Rules, request: &RateLimitRequest) -> Result<Vec<Option<Plan>>, Refusal> {
    if request.domain.is_empty() {
        return Err(Refusal::invalid("domain", "must not be empty"));
    }
    if request.descriptors.is_empty() {
        return Err(Refusal::invalid("descriptors", "must not be empty"));
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
    let hits = match descriptor.hits_addend {
        Some(hits) => u32::try_from(hits).unwrap_or(u32::MAX),
        None => request.hits_addend.max(1),
    };
    let entries = descriptor.entries.iter();
    let entries: Vec<_> = entries.map(|entry| (&*entry.key, &*entry.value)).collect();
    let domain = &request.domain;
    if let Some(given) = &descriptor.limit {
        // Only in a domain that is known.
        if !rules.envoy.rules.knows(domain) {
            return Ok(None);
        }
        let mut counted = Counted::of(domain);
        for (key, value) in entries {
            counted.add_plain(key, value);
        }
        return Ok(Some(Plan {
            limit: given_limit(given)?,
            label: "given".to_owned(),
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
    let unit = match RateLimitUnit::try_from(given.unit) {
        Ok(RateLimitUnit::Second) => Unit::Second,
        Ok(RateLimitUnit::Minute) => Unit::Minute,
        Ok(RateLimitUnit::Hour) => Unit::Hour,
        Ok(RateLimitUnit::Day) => Unit::Day,
        Ok(RateLimitUnit::Month) => Unit::Month,
        Ok(RateLimitUnit::Year) => Unit::Year,
        Ok(RateLimitUnit::Unknown) | Err(_) => {
            return Err(Refusal::invalid(
                "descriptors.limit.unit",
                "is none that is known",
            ));
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
                let answer = self
                    .gate
                    .check_descriptor(rules, &plan.counted, per_unit, plan.hits)
                    .await;
                let is_allowed = answer.is_some_and(|answer| answer.allowed);
                let is_denied = !is_allowed && !plan.limit.shadow;
                let status = status(plan, per_unit, answer.as_ref(), is_denied);
                let outcome = match (is_allowed, is_denied) {
                    (true, _) => "ok",
                    (false, true) => "over_limit",
                    (false, false) => "shadow",
                };
                (status, is_denied, outcome)
            }
        };
        meter::hits(domain, &plan.label, outcome, plan.hits);
        let is_under = !is_denied && matches!(plan.limit.amount, Amount::PerUnit(_));
        let metadata = plan.limit.metadata.as_ref().filter(|_| is_under);
        Outcome {
            status,
            is_denied,
            quota_mode: plan.limit.quota_mode,
            metadata: metadata.cloned(),
        }
    }
}

fn ok(current_limit: Option<RateLimit>, limit_remaining: u32) -> DescriptorStatus {
    DescriptorStatus {
        code: Code::Ok.into(),
        current_limit,
        limit_remaining,
        duration_until_reset: None,
    }
}

fn status(
    plan: &Plan,
    per_unit: &PerUnit,
    answer: Option<&Answer>,
    is_denied: bool,
) -> DescriptorStatus {
    let limit = RateLimit {
        requests_per_unit: per_unit.requests,
        unit: unit(per_unit.unit).into(),
        name: plan.limit.name.clone().unwrap_or_default(),
    };
    // Of one who is over the limit nothing is left, whatever less would still fit.
    let remaining = answer.filter(|answer| answer.allowed);
    let until_reset = match answer.map(|answer| answer.reset_after) {
        Some(until_reset) if !until_reset.is_zero() => until_reset,
        _ => until_next(per_unit.unit),
    };
    let code = if is_denied { Code::OverLimit } else { Code::Ok };
    DescriptorStatus {
        code: code.into(),
        duration_until_reset: Some(duration(until_reset)),
        ..ok(Some(limit), remaining.map_or(0, |answer| answer.remaining))
    }
}

/// How long until the unit of the clock ends, where nothing was counted that could tell.
fn until_next(unit: Unit) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let unit = unit.duration().as_secs();
    Duration::from_secs(unit - now.unwrap_or_default().as_secs() % unit)
}

fn unit(unit: Unit) -> rate_limit::Unit {
    match unit {
        Unit::Second => rate_limit::Unit::Second,
        Unit::Minute => rate_limit::Unit::Minute,
        Unit::Hour => rate_limit::Unit::Hour,
        Unit::Day => rate_limit::Unit::Day,
        Unit::Week => rate_limit::Unit::Week,
        Unit::Month => rate_limit::Unit::Month,
        Unit::Year => rate_limit::Unit::Year,
    }
}

fn respond(rules: &Rules, outcomes: Vec<Outcome>) -> RateLimitResponse {
    let is_denied = outcomes
        .iter()
        .any(|outcome| outcome.is_denied && !outcome.quota_mode);
    let mut quotas = outcomes
        .iter()
        .filter(|outcome| outcome.quota_mode)
        .peekable();
    let no_quota_left = quotas.peek().is_some() && quotas.all(|outcome| outcome.is_denied);
    let code = match is_denied || no_quota_left {
        true => Code::OverLimit,
        false => Code::Ok,
    };
    let metadata = outcomes
        .iter()
        .filter_map(|outcome| outcome.metadata.as_deref());
    let dynamic_metadata = told(metadata);
    let statuses: Vec<_> = outcomes.into_iter().map(|outcome| outcome.status).collect();
    let headers = match rules.envoy.response_headers {
        true => draft_headers::of(&statuses),
        false => Vec::new(),
    };
    RateLimitResponse {
        overall_code: code.into(),
        statuses,
        response_headers_to_add: headers,
        dynamic_metadata,
    }
}
