//! Times each step of a decision in the process, to find the step that has become slower.
//!
//! ```sh
//! cargo bench --bench steps                    # all steps
//! cargo bench --bench steps -- local           # the steps with this in their names
//! ```
//!
//! Times depend on the machine and its load. The bench `instructions` counts instructions instead.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use futures_util::FutureExt;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::Empty;
use tollgate::store::State;
use tollgate::{
    Check, ClientIp, Identify, Identity, Limiter, Limits, LocalStore, PeerAddr, Policy, Quota,
    RateLimitLayer, ResponseHeaders, Store, UserId, UserOrIp,
};
use tower::{Layer, Service, service_fn};

const NOW: u64 = 1_700_000_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);
const PEER: [u8; 4] = [10, 0, 0, 5];

fn main() {
    divan::main();
}

/// Returns a request from one peer address.
fn request() -> Request<()> {
    let mut request = Request::default();
    let peer = SocketAddr::from((PEER, 443));
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

/// Finding the identity of a request.
mod identify {
    use super::*;

    fn parts() -> Parts {
        request().into_parts().0
    }

    /// Uses the address of the connection.
    #[divan::bench]
    fn peer_address(bencher: Bencher<'_, '_>) {
        let (identify, parts) = (UserOrIp::default(), parts());
        bencher.bench(|| identify.identify(&parts));
    }

    /// Reads `X-Forwarded-For` with three addresses, the last of which is a trusted proxy.
    #[divan::bench]
    fn forwarded_address(bencher: Bencher<'_, '_>) {
        let proxies = "10.0.0.0/8".parse().expect("a network");
        let identify = UserOrIp::new(ClientIp::behind([proxies]).expect("a network"));
        let mut parts = parts();
        let list = HeaderValue::from_static("6.6.6.6, 203.0.113.7, 10.0.0.9");
        parts.headers.insert("x-forwarded-for", list);
        bencher.bench(|| identify.identify(&parts));
    }

    /// Uses the `UserId` in the request's extensions.
    #[divan::bench]
    fn user(bencher: Bencher<'_, '_>) {
        let (identify, mut parts) = (UserOrIp::default(), parts());
        parts.extensions.insert(UserId::new("42"));
        bencher.bench(|| identify.identify(&parts));
    }
}

/// The arithmetic of a quota: `Quota::step`.
mod step {
    use super::*;

    fn step(bencher: Bencher<'_, '_>, quota: Quota) {
        let (state, _) = quota.step(State::default(), NOW, 500);
        let step = |(quota, state): (Quota, State)| quota.step(state, NOW + 1_000, 1);
        bencher.bench(|| step(divan::black_box((quota, state))));
    }

    #[divan::bench]
    fn token_bucket(bencher: Bencher<'_, '_>) {
        step(bencher, Quota::per_minute(1_000));
    }

    #[divan::bench]
    fn sliding_window(bencher: Bencher<'_, '_>) {
        step(bencher, Quota::sliding_window(1_000, DAY));
    }

    #[divan::bench]
    fn fixed_window(bencher: Bencher<'_, '_>) {
        step(bencher, Quota::fixed_window(1_000, DAY));
    }
}

/// The arguments of a bench: the number of policies, and whether the check is allowed.
const CASES: [(usize, bool); 4] = [(1, true), (1, false), (2, true), (2, false)];

/// Returns limits for one of [`CASES`].
fn limits((policies, allowed): (usize, bool)) -> Limits {
    let never_denies = Quota::per_second(1_000_000_000);
    let first = if allowed {
        never_denies
    } else {
        Quota::per_day(1)
    };
    let named = [("first", first), ("second", never_denies)];
    let named = named.into_iter().take(policies);
    Limits::new(named.map(|(name, quota)| Policy::new(name, quota))).expect("two names")
}

/// Checks of a known identity, counted in the process.
mod local {
    use super::*;

    /// A check by the store, up to its verdict.
    #[divan::bench(args = CASES)]
    fn store(bencher: Bencher<'_, '_>, case: (usize, bool)) {
        let (store, identity, limits) = (LocalStore::new(), identity(), limits(case));
        let check = Check::new(&identity, &limits);
        let _ = store.check(&check);
        bencher.bench(|| store.check(divan::black_box(&check)));
    }

    /// The same, with two threads that charge one entry at the same time.
    #[divan::bench(threads = 2)]
    fn contended(bencher: Bencher<'_, '_>) {
        let (store, identity, limits) = (LocalStore::new(), identity(), limits((1, true)));
        let check = Check::new(&identity, &limits);
        let _ = store.check(&check);
        bencher.bench(|| store.check(divan::black_box(&check)));
    }

    /// A check by a limiter on the store, up to its decision.
    #[divan::bench(args = CASES)]
    fn limiter(bencher: Bencher<'_, '_>, case: (usize, bool)) {
        let limiter = Limiter::from(LocalStore::new());
        let (identity, limits) = (identity(), limits(case));
        let check = Check::new(&identity, &limits);
        let _ = limiter.check(&check);
        bencher.bench(|| limiter.check(divan::black_box(&check)));
    }

    /// A check with a permit, which is settled when it is dropped.
    #[divan::bench(args = [
        Quota::fixed_window(1_000_000_000, DAY),
        Quota::per_second(1_000_000).reserve_for(DAY),
        Quota::concurrent(1),
    ])]
    fn permit(bencher: Bencher<'_, '_>, quota: Quota) {
        let limiter = Limiter::from(LocalStore::new());
        let (identity, limits) = (identity(), Limits::from(quota));
        let check = Check::new(&identity, &limits);
        bencher.bench(|| {
            let permit = limiter.acquire(divan::black_box(&check)).now_or_never();
            permit
                .expect("decided at once")
                .map(|permit| permit.settle(0))
        });
    }

    fn identity() -> Identity {
        Identity::ip(PEER.into())
    }
}

/// The inner service, which does nothing.
fn bare(_: Request<()>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Empty::new())))
}

/// Times requests through a layer.
fn respond(bencher: Bencher<'_, '_>, layer: &RateLimitLayer, request: fn() -> Request<()>) {
    let mut service = layer.layer(service_fn(bare));
    let mut respond = |request| service.call(request).now_or_never();
    let _ = respond(request());
    bencher.with_inputs(request).bench_local_values(respond);
}

/// An allowed request through the middleware, from the request to the headers of the response.
mod allow {
    use super::*;

    fn allow(bencher: Bencher<'_, '_>, headers: ResponseHeaders) {
        let layer = RateLimitLayer::new(limits((1, true)), LocalStore::new()).headers(headers);
        respond(bencher, &layer, request);
    }

    /// The inner service without the middleware. Subtract it from the benches below.
    #[divan::bench]
    fn without_the_middleware(bencher: Bencher<'_, '_>) {
        let respond = |request| service_fn(bare).call(request).now_or_never();
        bencher.with_inputs(request).bench_values(respond);
    }

    #[divan::bench]
    fn headers_none(bencher: Bencher<'_, '_>) {
        allow(bencher, ResponseHeaders::none());
    }

    /// With the `X-RateLimit-*` headers.
    #[divan::bench]
    fn headers_x(bencher: Bencher<'_, '_>) {
        allow(bencher, ResponseHeaders::x_rate_limit());
    }

    /// With the `X-RateLimit-*` headers and those of the IETF draft.
    #[divan::bench]
    fn headers_x_and_ietf(bencher: Bencher<'_, '_>) {
        allow(bencher, ResponseHeaders::x_rate_limit().and_ietf());
    }
}

/// A denied request through the middleware, from the request to the body of the rejection.
mod reject {
    use super::*;

    fn reject(bencher: Bencher<'_, '_>, request: fn() -> Request<()>) {
        let layer = RateLimitLayer::new(limits((1, false)), LocalStore::new());
        respond(bencher, &layer, request);
    }

    /// As `application/problem+json`.
    #[divan::bench]
    fn json(bencher: Bencher<'_, '_>) {
        reject(bencher, request);
    }

    /// As a gRPC status, for a gRPC call.
    #[divan::bench]
    fn grpc(bencher: Bencher<'_, '_>) {
        reject(bencher, || {
            let mut request = request();
            let grpc = HeaderValue::from_static("application/grpc");
            request.headers_mut().insert(CONTENT_TYPE, grpc);
            *request.method_mut() = Method::POST;
            *request.version_mut() = Version::HTTP_2;
            request
        });
    }
}
