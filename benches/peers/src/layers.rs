//! Makes the layers of the compared crates. Each layer uses the client's address as its key and is set up
//! as the documentation of its crate shows, with headers on every response if it has that option.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::ConnectInfo;
use governor::middleware::StateInformationMiddleware;
use http::{HeaderValue, Request, Response, StatusCode};
use rate_net::tower::{KeyExtractor, RequestInfo};
use tollgate::Limiter;
use tollgate::header::{X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET};
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::PeerIpKeyExtractor;
use tower_rate_limit_redis::KeyResolver;

use crate::token_bucket::TokenBucket;

pub(crate) fn tollgate(
    bucket: TokenBucket,
    limiter: impl Into<Limiter>,
) -> tollgate::RateLimitLayer {
    tollgate::RateLimitLayer::new(bucket.tollgate(), limiter)
}

/// Adds the headers that tollgate adds to the response to an allowed request, without any check.
pub(crate) fn with_headers(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from_static("1000"));
    headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from_static("999"));
    headers.insert(X_RATELIMIT_RESET, HeaderValue::from_static("1"));
    response
}

pub(crate) fn tower_governor(
    bucket: TokenBucket,
) -> tower_governor::GovernorLayer<PeerIpKeyExtractor, StateInformationMiddleware, Body> {
    let config = GovernorConfigBuilder::default()
        .period(bucket.interval())
        .burst_size(bucket.burst())
        .use_headers()
        .finish();
    tower_governor::GovernorLayer::new(config.expect("neither number is zero"))
}

pub(crate) fn axum_governor(bucket: TokenBucket) -> axum_governor::GovernorLayer<IpAddr> {
    let config = axum_governor::GovernorConfigBuilder::default()
        .with_extractor(axum_governor::PeerIp::default())
        .expect_connect_info()
        .quota_default(bucket.governor().into())
        .finish();
    axum_governor::GovernorLayer::new(config.expect("a valid configuration"))
}

/// Returns the layer of rate-net. A closure extracts the key, because the crate's own extractor does not
/// read axum's `ConnectInfo`.
pub(crate) fn rate_net(bucket: TokenBucket) -> rate_net::tower::RateLimitLayer<impl KeyExtractor> {
    let peer = |request: &RequestInfo<'_>| {
        let ConnectInfo(address) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
        Some(rate_net::Key::ip_prefix(address.ip(), 32, 64))
    };
    let limiter = bucket.rate_net().try_build();
    rate_net::tower::RateLimitLayer::new(limiter.expect("a valid configuration"), peer)
        .with_headers_on_success(true)
}

/// Returns the layer of tower-rate-limit-redis, whose only header is `Retry-After` on a denial.
pub(crate) fn tower_rate_limit_redis<K: KeyResolver>(
    bucket: TokenBucket,
    key_resolver: K,
    connection: redis_0_32::aio::MultiplexedConnection,
) -> tower_rate_limit_redis::RateLimitLayer<K> {
    let capacity = u16::try_from(bucket.burst());
    tower_rate_limit_redis::RateLimitLayer::builder()
        .conn(connection)
        .key_resolver(key_resolver)
        .capacity(capacity.expect("the burst fits into 16 bits"))
        .emission_interval(bucket.interval())
        .build()
}

/// Resolves the key for tower-rate-limit-redis, which has no key resolvers of its own: the client's
/// address.
#[derive(Clone)]
pub(crate) struct PeerAddress;

impl KeyResolver for PeerAddress {
    type Key = String;
    type ErrorBody = Body;

    fn key<T>(&self, request: &Request<T>) -> Result<String, Response<Body>> {
        match request.extensions().get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(address)) => Ok(address.ip().to_string()),
            None => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                Err(response)
            }
        }
    }
}
