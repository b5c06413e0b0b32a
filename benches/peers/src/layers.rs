//! The middlewares, each by the client's address and with headers on every response, as its own
//! documentation sets it up.

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

use crate::allowance::Allowance;

pub(crate) fn tollgate(
    allowance: Allowance,
    limiter: impl Into<Limiter>,
) -> tollgate::RateLimitLayer {
    tollgate::RateLimitLayer::new(allowance.tollgate(), limiter)
}

/// A response with the headers that tollgate adds to one that it allows, and nothing decided.
pub(crate) fn with_headers(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from_static("1000"));
    headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from_static("999"));
    headers.insert(X_RATELIMIT_RESET, HeaderValue::from_static("1"));
    response
}

pub(crate) fn tower_governor(
    allowance: Allowance,
) -> tower_governor::GovernorLayer<PeerIpKeyExtractor, StateInformationMiddleware, Body> {
    let config = GovernorConfigBuilder::default()
        .period(allowance.interval())
        .burst_size(allowance.burst())
        .use_headers()
        .finish();
    tower_governor::GovernorLayer::new(config.expect("neither number is zero"))
}

pub(crate) fn axum_governor(allowance: Allowance) -> axum_governor::GovernorLayer<IpAddr> {
    let config = axum_governor::GovernorConfigBuilder::default()
        .with_extractor(axum_governor::PeerIp::default())
        .expect_connect_info()
        .quota_default(allowance.governor().into())
        .finish();
    axum_governor::GovernorLayer::new(config.expect("nothing contradicts"))
}

/// Its own extractor does not know axum's `ConnectInfo`: with axum it is to be a closure.
pub(crate) fn rate_net(allowance: Allowance) -> rate_net::tower::RateLimitLayer<impl KeyExtractor> {
    let peer = |request: &RequestInfo<'_>| {
        let ConnectInfo(address) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
        Some(rate_net::Key::ip_prefix(address.ip(), 32, 64))
    };
    let limiter = allowance.rate_net().try_build();
    rate_net::tower::RateLimitLayer::new(limiter.expect("the numbers are good"), peer)
        .with_headers_on_success(true)
}

/// It adds no headers but `Retry-After` to a denial.
pub(crate) fn tower_rate_limit_redis<K: KeyResolver>(
    allowance: Allowance,
    key_resolver: K,
    connection: redis_0_32::aio::MultiplexedConnection,
) -> tower_rate_limit_redis::RateLimitLayer<K> {
    let capacity = u16::try_from(allowance.burst());
    tower_rate_limit_redis::RateLimitLayer::builder()
        .conn(connection)
        .key_resolver(key_resolver)
        .capacity(capacity.expect("it has sixteen bits"))
        .emission_interval(allowance.interval())
        .build()
}

/// What tower-rate-limit-redis needs to go by address: it has no resolvers of its own.
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
