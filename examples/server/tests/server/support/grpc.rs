//! Clients of the gRPC listener, and the messages that they send.
//!
//! [`connect`] returns a client of tollgate's own service, and [`connect_envoy`] one of the service
//! that Envoy calls. [`call`] is a call as hyper sends it, for tests of connections.

use hyper::Request;
use tonic::transport::Channel;

use super::protocol::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use super::protocol::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use super::protocol::envoy::service::ratelimit::v3::RateLimitRequest;
use super::protocol::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use super::protocol::tollgate::v1::CheckLimitRequest;
use super::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;

/// The paths of the methods, for [`call`].
pub(crate) const CHECK_LIMIT: &str = "/tollgate.v1.RateLimiter/CheckLimit";
pub(crate) const SHOULD_RATE_LIMIT: &str =
    "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
pub(crate) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Connects a client of `tollgate.v1.RateLimiter`.
pub(crate) async fn connect(url: String) -> RateLimiterClient<Channel> {
    RateLimiterClient::connect(url).await.unwrap()
}

/// Connects a client of `envoy.service.ratelimit.v3.RateLimitService`.
pub(crate) async fn connect_envoy(url: String) -> RateLimitServiceClient<Channel> {
    RateLimitServiceClient::connect(url).await.unwrap()
}

/// Returns a check of this key under the configured limits.
pub(crate) fn check_request(key: impl Into<String>) -> CheckLimitRequest {
    CheckLimitRequest {
        key: key.into(),
        ..Default::default()
    }
}

/// Returns a descriptor with these entries, each a key and a value.
pub(crate) fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |&(key, value): &(&str, &str)| Entry {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    RateLimitDescriptor {
        entries: entries.iter().map(entry).collect(),
        ..Default::default()
    }
}

/// Returns a request of Envoy with these descriptors.
pub(crate) fn envoy_request(
    domain: &str,
    descriptors: impl IntoIterator<Item = RateLimitDescriptor>,
) -> RateLimitRequest {
    RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: descriptors.into_iter().collect(),
        hits_addend: 0,
    }
}

/// Returns a request with this message and this bearer token.
pub(crate) fn with_token<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Returns the HTTP/2 request of a call. The body has a message with its prefix of five bytes.
pub(crate) fn call<B>(path: &str, body: B) -> Request<B> {
    Request::post(format!("http://server{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}
