//! The service `tollgate.v1.RateLimiter`.

use std::time::Duration;

use tollgate::Limits;
use tonic::{Request, Response, Status};

use super::call::{authorization, duration, error_status, into_parts, with_principal};
use crate::decision::{
    self, CallerLimit, DecisionRequest, DecisionResponse, DecisionService, outcome,
};
use crate::error::ApiError;
use crate::protocol::tollgate::v1;
use crate::protocol::tollgate::v1::rate_limiter_server::RateLimiter;
use crate::server_metrics;

#[derive(Debug)]
pub(super) struct RateLimiterService {
    pub(super) decisions: DecisionService,
}

#[tonic::async_trait]
impl RateLimiter for RateLimiterService {
    async fn check_limit(
        &self,
        request: Request<v1::CheckLimitRequest>,
    ) -> Result<Response<v1::CheckLimitResponse>, Status> {
        let response = self.check(request).await;
        server_metrics::record_check("grpc", outcome(&response));
        let status = Some(status(&response.map_err(|error| error_status(&error))?));
        Ok(Response::new(v1::CheckLimitResponse { status }))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let response = self.peek(request).await;
        let status = Some(status(&response.map_err(|error| error_status(&error))?));
        Ok(Response::new(v1::GetStatusResponse { status }))
    }
}

impl RateLimiterService {
    async fn check(
        &self,
        request: Request<v1::CheckLimitRequest>,
    ) -> Result<DecisionResponse, ApiError> {
        let (principal, request) = into_parts(request)?;
        let cost = request.cost.unwrap_or(1);
        let request = decision_request(request.key, request.tenant, request.limit, cost)?;
        self.decisions.check(&principal, &request).await
    }

    async fn peek(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<DecisionResponse, ApiError> {
        let (principal, request) = into_parts(request)?;
        let request = decision_request(request.key, request.tenant, request.limit, 0)?;
        self.decisions.peek(&principal, &request).await
    }
}

/// Authenticates a call, and counts it if that fails.
pub(super) fn authenticate(
    decisions: &DecisionService,
    request: Request<()>,
) -> Result<Request<()>, Status> {
    let settings = decisions.settings();
    let principal = settings.authenticator.authenticate(authorization(&request));
    if let Err(error) = &principal {
        server_metrics::record_check("grpc", error.outcome());
    }
    with_principal(request, principal)
}

fn decision_request(
    key: String,
    tenant: Option<String>,
    limit: Option<v1::Limit>,
    cost: u32,
) -> Result<DecisionRequest, ApiError> {
    Ok(DecisionRequest {
        // Protocol buffers do not distinguish an empty string from a missing one.
        key: (!key.is_empty()).then_some(key),
        tenant,
        limits: limit.map(caller_limits).transpose()?,
        cost,
    })
}

fn caller_limits(limit: v1::Limit) -> Result<Limits, ApiError> {
    let algorithm = match v1::Algorithm::try_from(limit.algorithm) {
        Ok(v1::Algorithm::Unspecified | v1::Algorithm::TokenBucket) => {
            decision::Algorithm::TokenBucket
        }
        Ok(v1::Algorithm::SlidingWindow) => decision::Algorithm::SlidingWindow,
        Ok(v1::Algorithm::FixedWindow) => decision::Algorithm::FixedWindow,
        Err(_) => return Err(ApiError::invalid("limit.algorithm", "is unknown")),
    };
    let interval = limit.interval.unwrap_or_default();
    let interval = Duration::try_from(interval)
        .map_err(|_| ApiError::invalid("limit.interval", "must not be negative"))?;
    let caller_limit = CallerLimit {
        rate: limit.rate,
        interval,
        burst: limit.burst,
        algorithm,
    };
    caller_limit.limits().map_err(|error| ApiError {
        field: error.field.map(|field| format!("limit.{field}")),
        ..error
    })
}

fn status(response: &DecisionResponse) -> v1::Status {
    v1::Status {
        allowed: response.allowed,
        limit: response.capacity,
        remaining: response.remaining,
        retry_after: response.retry_after.map(duration),
        reset_after: Some(duration(response.reset_after)),
        degraded: response.degraded,
    }
}
