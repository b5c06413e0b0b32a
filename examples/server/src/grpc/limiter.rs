//! `tollgate.v1.RateLimiter`.

use std::time::Duration;

use tollgate::Limits;
use tonic::{Code, Request, Response, Status};

use crate::decide::{self, Answer, Gate, GivenLimit, Question, Refusal, RefusalKind};
use crate::meter;
use crate::protocol::tollgate::v1;
use crate::protocol::tollgate::v1::rate_limiter_server::RateLimiter;

/// The door.
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
        let request = request.into_inner();
        let cost = request.cost.unwrap_or(1);
        let question = question(request.key, request.tenant, request.limit, cost);
        let answer = match question {
            Ok(question) => self.gate.check(&question).await,
            Err(refusal) => Err(refusal),
        };
        meter::answered("grpc", &answer);
        let status = Some(status(&answer.map_err(refused)?));
        Ok(Response::new(v1::CheckLimitResponse { status }))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let request = request.into_inner();
        let question = question(request.key, request.tenant, request.limit, 0);
        let answer = self.gate.peek(&question.map_err(refused)?).await;
        let status = Some(status(&answer.map_err(refused)?));
        Ok(Response::new(v1::GetStatusResponse { status }))
    }
}

fn question(
    key: String,
    tenant: Option<String>,
    limit: Option<v1::Limit>,
    cost: u32,
) -> Result<Question, Refusal> {
    Ok(Question {
        key,
        tenant,
        limits: limit.map(given).transpose()?,
        cost,
    })
}

fn given(limit: v1::Limit) -> Result<Limits, Refusal> {
    let algorithm = match v1::Algorithm::try_from(limit.algorithm) {
        Ok(v1::Algorithm::Unspecified | v1::Algorithm::TokenBucket) => {
            decide::Algorithm::TokenBucket
        }
        Ok(v1::Algorithm::SlidingWindow) => decide::Algorithm::SlidingWindow,
        Ok(v1::Algorithm::FixedWindow) => decide::Algorithm::FixedWindow,
        Err(_) => return Err(Refusal::invalid("limit.algorithm", "is none that is known")),
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

fn duration(duration: Duration) -> prost_types::Duration {
    // The longest is ten years.
    duration.try_into().unwrap_or_default()
}

fn refused(refusal: Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::Invalid => Code::InvalidArgument,
    };
    let message = match refusal.field {
        Some(field) => format!("`{field}`: {}", refusal.problem),
        None => refusal.problem,
    };
    Status::new(code, message)
}
