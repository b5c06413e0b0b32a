//! `POST /check`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tollgate::Limits;

use super::body;
use super::headers::headers;
use super::problem::Problem;
use super::router::Door;
use crate::authentication::Caller;
use crate::decide::{Algorithm, Answer, GivenLimit, Question, Refusal, milliseconds};
use crate::meter;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    key: Option<String>,
    tenant: Option<String>,
    #[serde(default = "one")]
    cost: u32,
    rate: Option<u32>,
    interval: Option<String>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
}

const FIELDS: [&str; 7] = [
    "key",
    "tenant",
    "cost",
    "rate",
    "interval",
    "burst",
    "algorithm",
];

fn one() -> u32 {
    1
}

#[derive(Serialize)]
struct CheckResponse {
    allowed: bool,
    limit: u32,
    remaining: u32,
    /// `null` if the cost exceeds the capacity.
    retry_after_ms: Option<u64>,
    reset_after_ms: u64,
    degraded: bool,
}

pub(super) async fn check(State(door): State<Door>, request: Request) -> Result<Response, Problem> {
    let answer = match door.caller(request.headers()) {
        Ok(caller) => {
            let body = Bytes::from_request(request, &door).await;
            decide(&door, &caller, &body::received(body)?).await
        }
        // The body of a caller that must authenticate is not read.
        Err(refusal) => Err(refusal),
    };
    meter::answered("http", &answer);
    Ok(respond(&answer?))
}

async fn decide(door: &Door, caller: &Caller, body: &[u8]) -> Result<Answer, Refusal> {
    let question = question(body::read(body, &FIELDS)?)?;
    door.gate.check(caller, &question).await
}

fn question(request: CheckRequest) -> Result<Question, Refusal> {
    let limits = given(
        request.rate,
        request.interval.as_deref(),
        request.burst,
        request.algorithm,
    )?;
    Ok(Question {
        key: request.key,
        tenant: request.tenant,
        limits,
        cost: request.cost,
    })
}

/// The limits that a caller gives, if any.
pub(crate) fn given(
    rate: Option<u32>,
    interval: Option<&str>,
    burst: Option<u32>,
    algorithm: Option<Algorithm>,
) -> Result<Option<Limits>, Refusal> {
    let (rate, interval) = match (rate, interval) {
        (Some(rate), Some(interval)) => (rate, interval),
        (Some(_), None) => {
            return Err(Refusal::invalid(
                "interval",
                "is missing beside `rate`: write 1s",
            ));
        }
        (None, Some(_)) => {
            return Err(Refusal::invalid("rate", "is missing beside `interval`"));
        }
        (None, None) => {
            let only_with = |field| Refusal::invalid(field, "needs `rate` and `interval`");
            return match (burst, algorithm) {
                (Some(_), _) => Err(only_with("burst")),
                (_, Some(_)) => Err(only_with("algorithm")),
                (None, None) => Ok(None),
            };
        }
    };
    let interval = humantime::parse_duration(interval).map_err(|error| {
        let problem = format!("is no duration ({error}): write 1s, 500ms or 1m 30s");
        Refusal::invalid("interval", problem)
    })?;
    let given = GivenLimit {
        rate,
        interval,
        burst,
        algorithm: algorithm.unwrap_or_default(),
    };
    given.limits().map(Some)
}

pub(super) fn respond(answer: &Answer) -> Response {
    let body = CheckResponse {
        allowed: answer.allowed,
        limit: answer.limit,
        remaining: answer.remaining,
        retry_after_ms: answer.retry_after.map(milliseconds),
        reset_after_ms: milliseconds(answer.reset_after),
        degraded: answer.degraded,
    };
    (headers(answer), Json(body)).into_response()
}
