//! `tollgate.v1.RateLimiter`.

use std::time::Duration;

use tollgate::Limits;
use tonic::{Request, Response, Status};

use super::call::{authorization, into_parts, refused, with_caller};
use crate::decision::{self, Answer, Gate, GivenLimit, Question, outcome};
use crate::error::Refusal;
use crate::protocol::tollgate::v1;
use crate::protocol::tollgate::v1::rate_limiter_server::RateLimiter;
use crate::server_metrics;

/// The implementation of the service.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) gate: Gate,
}

#[tonic::async_trait]
impl RateLimiter for Door {
    async fn check_limit(
        &self,
        request: Request<v1::CheckLimitRequest>,
    ) -> Result<Response<v1::CheckLimitResponse>, Status> {
        let answer = self.check(request).await;
        server_metrics::check("grpc", outcome(&answer));
        let status = Some(status(&answer.map_err(|refusal| refused(&refusal))?));
        Ok(Response::new(v1::CheckLimitResponse { status }))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let answer = self.peek(request).await;
        let status = Some(status(&answer.map_err(|refusal| refused(&refusal))?));
        Ok(Response::new(v1::GetStatusResponse { status }))
    }
}

impl Door {
    async fn check(&self, request: Request<v1::CheckLimitRequest>) -> Result<Answer, Refusal> {
        let (caller, request) = into_parts(request)?;
        let cost = request.cost.unwrap_or(1);
        let question = question(request.key, request.tenant, request.limit, cost)?;
        self.gate.check(&caller, &question).await
    }

    async fn peek(&self, request: Request<v1::GetStatusRequest>) -> Result<Answer, Refusal> {
        let (caller, request) = into_parts(request)?;
        let question = question(request.key, request.tenant, request.limit, 0)?;
        self.gate.peek(&caller, &question).await
    }
}

/// Authenticates the caller of a method.
pub(super) fn authenticate(gate: &Gate, request: Request<()>) -> Result<Request<()>, Status> {
    let rules = gate.rules();
    let caller = rules.authenticator.authenticate(authorization(&request));
    if let Err(refusal) = &caller {
        server_metrics::check("grpc", refusal.outcome());
    }
    with_caller(request, caller)
}

fn question(
    key: String,
    tenant: Option<String>,
    limit: Option<v1::Limit>,
    cost: u32,
) -> Result<Question, Refusal> {
    Ok(Question {
        // Protocol buffers do not tell an empty text from a missing one.
        key: (!key.is_empty()).then_some(key),
        tenant,
        limits: limit.map(given).transpose()?,
        cost,
    })
}

fn given(limit: v1::Limit) -> Result<Limits, Refusal> {
    let algorithm = match v1::Algorithm::try_from(limit.algorithm) {
        Ok(v1::Algorithm::Unspecified | v1::Algorithm::TokenBucket) => {
            decision::Algorithm::TokenBucket
        }
        Ok(v1::Algorithm::SlidingWindow) => decision::Algorithm::SlidingWindow,
        Ok(v1::Algorithm::FixedWindow) => decision::Algorithm::FixedWindow,
        Err(_) => return Err(Refusal::invalid("limit.algorithm", "is unknown")),
    };
    let interval = limit.interval.unwrap_or_default();
    let interval = Duration::try_from(interval)
        .map_err(|_| Refusal::invalid("limit.interval", "must not be negative"))?;
    let given = GivenLimit {
        rate: limit.rate,
        interval,
        burst: limit.burst,
        algorithm,
    };
    given.limits().map_err(|refusal| Refusal {
        field: refusal.field.map(|field| format!("limit.{field}")),
        ..refusal
    })
}

fn status(answer: &Answer) -> v1::Status {
    v1::Status {
        allowed: answer.allowed,
        limit: answer.limit,
        remaining: answer.remaining,
        retry_after: answer.retry_after.map(duration),
        reset_after: Some(duration(answer.reset_after)),
        degraded: answer.degraded,
    }
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    // No period is longer than ten years, so this does not fail.
    duration.try_into().unwrap_or_default()
}
