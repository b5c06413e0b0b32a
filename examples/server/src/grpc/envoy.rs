//! The service `envoy.service.ratelimit.v3.RateLimitService`.

use std::collections::HashSet;

use futures_util::future::join_all;
use tonic::{Request, Response, Status};

use super::call::{authorization, error_status, into_parts, with_principal};
use super::envoy_response::{DescriptorOutcome, ok, respond, status};
use crate::authentication::{Principal, bearer_token};
use crate::configuration::ReloadableSettings;
use crate::decision::{DecisionResponse, DecisionService};
use crate::envoy::{Amount, CountKey, Limit, MatchedRule, PerUnit, RuleLabel, Unit};
use crate::error::ApiError;
use crate::protocol::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_response::rate_limit;
use crate::protocol::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use crate::protocol::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::server_metrics;

/// The maximum number of descriptors in a request, which are checked concurrently. Envoy sends one
/// for each action of a route.
const MAX_DESCRIPTORS: usize = 100;

#[derive(Debug)]
pub(super) struct EnvoyRateLimitService {
    pub(super) decisions: DecisionService,
}

/// The check of a descriptor.
struct DescriptorCheck {
    limit: Limit,
    label: RuleLabel,
    /// See [`CountKey`].
    count_key: String,
    hits: u64,
}

#[tonic::async_trait]
impl RateLimitService for EnvoyRateLimitService {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let settings = self.decisions.settings();
        let (principal, request) = into_parts(request).map_err(|error| error_status(&error))?;
        let checks = descriptor_checks(&settings, &principal, &request)
            .map_err(|error| error_status(&error))?;
        // Concurrent checks share round trips to Redis.
        let decided = checks
            .iter()
            .map(|check| self.decide(&settings, &request.domain, check.as_ref()));
        let outcomes = join_all(decided).await;
        Ok(Response::new(respond(&settings, outcomes)))
    }
}

/// Authenticates a call by the tokens of Envoy.
pub(super) fn authenticate(
    decisions: &DecisionService,
    request: Request<()>,
) -> Result<Request<()>, Status> {
    let settings = decisions.settings();
    let tokens = &settings.envoy.tokens;
    let token = authorization(&request).and_then(bearer_token);
    let principal = match token.and_then(|token| tokens.get(token)) {
        Some(()) => Ok(Principal::Envoy),
        None if tokens.is_empty() && !settings.authenticator.required => Ok(Principal::Anonymous),
        None => Err(ApiError::unauthenticated(
            "send one of the tokens in `envoy.tokens` as `authorization`",
        )),
    };
    with_principal(request, principal)
}

/// Returns the check of each descriptor, or `None` for a descriptor without a limit.
fn descriptor_checks(
    settings: &ReloadableSettings,
    principal: &Principal,
    request: &RateLimitRequest,
) -> Result<Vec<Option<DescriptorCheck>>, ApiError> {
    if request.domain.is_empty() {
        return Err(ApiError::invalid("domain", "must not be empty"));
    }
    if request.descriptors.is_empty() {
        return Err(ApiError::invalid("descriptors", "must not be empty"));
    }
    let count = request.descriptors.len();
    if count > MAX_DESCRIPTORS {
        let problem = format!("must be at most {MAX_DESCRIPTORS}, not {count}: send more requests");
        return Err(ApiError::invalid("descriptors", problem));
    }
    if let Some(index) = request
        .descriptors
        .iter()
        .position(|it| it.is_negative_hits)
    {
        // A fixed window may have ended since its hits were charged. A refund to the next window
        // would admit more hits than its limit, and to ignore or charge the hits would be wrong as
        // well.
        return Err(ApiError::invalid(
            &format!("descriptors[{index}].is_negative_hits"),
            "hits cannot be refunded, because the window in which they were counted may have \
             ended: remove it, and charge hits once their number is known (in Envoy: \
             `apply_on_stream_done`)",
        ));
    }
    let mut descriptors = request.descriptors.iter();
    if descriptors.any(|descriptor| descriptor.limit.is_some()) {
        settings.authenticator.check_caller_limits(principal)?;
    }
    let checks = request.descriptors.iter();
    let checks = checks.map(|descriptor| descriptor_check(settings, request, descriptor));
    let mut checks = checks.collect::<Result<Vec<_>, _>>()?;
    let limits = checks.iter().flatten().map(|check| &check.limit);
    let replaced: HashSet<_> = limits.flat_map(|limit| limit.replaces.clone()).collect();
    for check in &mut checks {
        let is_replaced = |check: &mut DescriptorCheck| {
            let name = check.limit.name.as_ref();
            name.is_some_and(|name| replaced.contains(name))
        };
        check.take_if(is_replaced);
    }
    Ok(checks)
}

fn descriptor_check(
    settings: &ReloadableSettings,
    request: &RateLimitRequest,
    descriptor: &RateLimitDescriptor,
) -> Result<Option<DescriptorCheck>, ApiError> {
    let hits = descriptor.hits_addend;
    let hits = hits.unwrap_or_else(|| request.hits_addend.max(1).into());
    let entries = descriptor.entries.iter();
    let entries: Vec<_> = entries.map(|entry| (&*entry.key, &*entry.value)).collect();
    let domain = &request.domain;
    if let Some(limit_override) = &descriptor.limit {
        // As in Envoy ratelimit, an unknown domain has no limits.
        if !settings.envoy.rules.contains(domain) {
            return Ok(None);
        }
        let mut count_key = CountKey::of(domain);
        for (key, value) in entries {
            count_key.add_value(key, value);
        }
        return Ok(Some(DescriptorCheck {
            limit: caller_limit(limit_override)?,
            label: RuleLabel {
                text: "given".to_owned(),
                is_unbounded: false,
            },
            count_key: count_key.into_string(),
            hits,
        }));
    }
    let found = settings.envoy.rules.find(domain, &entries);
    Ok(found.map(
        |MatchedRule {
             limit,
             label,
             count_key,
         }| DescriptorCheck {
            limit: limit.clone(),
            label,
            count_key,
            hits,
        },
    ))
}

fn caller_limit(limit_override: &RateLimitOverride) -> Result<Limit, ApiError> {
    // Envoy ratelimit reads this number as a unit of the response, which has a week.
    let unit = match rate_limit::Unit::try_from(limit_override.unit) {
        Ok(rate_limit::Unit::Second) => Unit::Second,
        Ok(rate_limit::Unit::Minute) => Unit::Minute,
        Ok(rate_limit::Unit::Hour) => Unit::Hour,
        Ok(rate_limit::Unit::Day) => Unit::Day,
        Ok(rate_limit::Unit::Week) => Unit::Week,
        Ok(rate_limit::Unit::Month) => Unit::Month,
        Ok(rate_limit::Unit::Year) => Unit::Year,
        Ok(rate_limit::Unit::Unknown) | Err(_) => {
            let problem = "must be SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR";
            return Err(ApiError::invalid("descriptors.limit.unit", problem));
        }
    };
    let per_unit = PerUnit::new(limit_override.requests_per_unit, unit);
    Ok(Limit {
        amount: Amount::PerUnit(per_unit),
        name: None,
        replaces: Vec::new(),
        shadow: false,
        quota_mode: false,
        metadata: None,
    })
}

impl EnvoyRateLimitService {
    async fn decide(
        &self,
        settings: &ReloadableSettings,
        domain: &str,
        check: Option<&DescriptorCheck>,
    ) -> DescriptorOutcome {
        let Some(check) = check else {
            return DescriptorOutcome {
                status: ok(None, 0),
                is_denied: false,
                quota_mode: false,
                metadata: None,
            };
        };
        let (status, is_denied, outcome) = match &check.limit.amount {
            Amount::Unlimited => (ok(None, u32::MAX), false, "unlimited"),
            Amount::PerUnit(per_unit) => {
                let response = self.check(settings, check, per_unit).await;
                let is_allowed = response.is_some_and(|response| response.allowed);
                let is_denied = !is_allowed && !check.limit.shadow;
                let name = check.limit.name.as_deref();
                let status = status(name, per_unit, response.as_ref(), is_denied);
                let outcome = match (is_allowed, is_denied) {
                    (true, _) => "ok",
                    (false, true) => "over_limit",
                    (false, false) => "shadow",
                };
                (status, is_denied, outcome)
            }
        };
        let RuleLabel { text, is_unbounded } = &check.label;
        server_metrics::record_envoy_hits(domain, text, *is_unbounded, outcome, check.hits);
        let is_under = !is_denied && matches!(check.limit.amount, Amount::PerUnit(_));
        let metadata = check.limit.metadata.as_ref().filter(|_| is_under);
        DescriptorOutcome {
            status,
            is_denied,
            quota_mode: check.limit.quota_mode,
            metadata: metadata.cloned(),
        }
    }

    async fn check(
        &self,
        settings: &ReloadableSettings,
        descriptor_check: &DescriptorCheck,
        per_unit: &PerUnit,
    ) -> Option<DecisionResponse> {
        let check = async |per_unit, hits| {
            let decisions = &self.decisions;
            decisions
                .check_descriptor(settings, &descriptor_check.count_key, per_unit, hits)
                .await
        };
        match u32::try_from(descriptor_check.hits) {
            Ok(hits) => check(per_unit, hits).await,
            // More hits than u32::MAX exceed every limit, so the check is against a smaller one.
            Err(_) => {
                let requests = per_unit.requests.min(u32::MAX - 1);
                check(&PerUnit::new(requests, per_unit.unit), u32::MAX).await
            }
        }
    }
}
