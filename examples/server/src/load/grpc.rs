//! `CheckLimit`, all on one connection.

use axum::http::Uri;
use prost_types::Duration;
use tollgate::{Algorithm, Quota};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status};

use super::client::Answer;
use super::failure::{Failure, causes};
use crate::protocol::tollgate::v1;
use crate::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;

#[derive(Debug)]
pub(super) struct Grpc {
    client: RateLimiterClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    limit: Option<v1::Limit>,
}

impl Grpc {
    pub(super) fn new(uri: Uri, token: Option<&str>, limit: Option<Quota>) -> anyhow::Result<Self> {
        let token = token.map(|token| format!("Bearer {token}").parse());
        Ok(Self {
            client: RateLimiterClient::new(Endpoint::from(uri).connect_lazy()),
            authorization: token.transpose()?,
            limit: limit.map(given).transpose()?,
        })
    }

    pub(super) async fn check(&self, key: String) -> Result<Answer, Failure> {
        let mut request = Request::new(v1::CheckLimitRequest {
            key,
            limit: self.limit,
            ..Default::default()
        });
        if let Some(token) = &self.authorization {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        let response = self.client.clone().check_limit(request).await;
        let response = response.map_err(|status| failure(&status))?.into_inner();
        let status = response
            .status
            .ok_or_else(|| Failure::new("an answer that is none", "it has no status"))?;
        Ok(Answer {
            allowed: status.allowed,
            degraded: status.degraded,
        })
    }
}

fn failure(status: &Status) -> Failure {
    if causes(status).any(|cause| cause.is::<ConnectError>()) {
        return Failure::of("cannot connect", status);
    }
    // What the server said has no cause here.
    match std::error::Error::source(status) {
        Some(cause) => Failure::of("connection lost", cause),
        None => Failure::new(name(status.code()), status.message()),
    }
}

/// As in the protocol: `INVALID_ARGUMENT`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for (index, letter) in format!("{code:?}").char_indices() {
        if index > 0 && letter.is_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn given(quota: Quota) -> anyhow::Result<v1::Limit> {
    let (algorithm, burst) = match quota.algorithm() {
        Algorithm::SlidingWindow => (v1::Algorithm::SlidingWindow, None),
        Algorithm::FixedWindow => (v1::Algorithm::FixedWindow, None),
        _ => (v1::Algorithm::TokenBucket, Some(quota.capacity())),
    };
    Ok(v1::Limit {
        rate: quota.limit(),
        interval: Some(Duration::try_from(quota.period())?),
        burst,
        algorithm: algorithm.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named_as_in_the_protocol() {
        assert_eq!(name(Code::InvalidArgument), "INVALID_ARGUMENT");
        assert_eq!(name(Code::Unauthenticated), "UNAUTHENTICATED");
    }
}
