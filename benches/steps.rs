//! What each step of a decision in this process takes, so that one that has become slower is found.
//!
//! ```sh
//! cargo bench --bench steps                    # everything
//! cargo bench --bench steps -- local           # what has this in its name
//! ```
//!
//! Times are of this machine at this moment; `instructions` counts what does not drift.

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
use tollgate::{
    Check, ClientIp, Identify, Identity, Limiter, Limits, LocalStore, PeerAddr, Policy, Quota,
    RateLimitLayer, ResponseHeaders, State, Store, UserId, UserOrIp,
};
use tower::{Layer, Service, service_fn};

const NOW: u64 = 1_700_000_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);
const PEER: [u8; 4] = [10, 0, 0, 5];

fn main() {
    divan::main();
}

fn request() -> Request<()> {
    let mut request = Request::default();
    let peer = SocketAddr::from((PEER, 443));
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

/// Who is asking.
mod identify {
    use super::*;

    fn parts() -> Parts {
        request().into_parts().0
    }

    #[divan::bench]
    fn peer_address(bencher: Bencher<'_, '_>) {
        let (identify, parts) = (UserOrIp::default(), parts());
        bencher.bench(|| identify.identify(&parts));
    }

    #[divan::bench]
    fn forwarded_address(bencher: Bencher<'_, '_>) {
        let proxies = "10.0.0.0/8".parse().expect("a network");
        let identify = UserOrIp::new(ClientIp::behind([proxies]).expect("a network"));
        let mut parts = parts();
        let list = HeaderValue::from_static("6.6.6.6, 203.0.113.7, 10.0.0.9");
        parts.headers.insert("x-forwarded-for", list);
        bencher.bench(|| identify.identify(&parts));
    }

    #[divan::bench]
    fn user(bencher: Bencher<'_, '_>) {
        let (identify, mut parts) = (UserOrIp::default(), parts());
        parts.extensions.insert(UserId::new("42"));
        bencher.bench(|| identify.identify(&parts));
    }
}

/// The pure arithmetic.
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

/// How many policies there are, and whether the first admits everything or nothing.
const CASES: [(usize, bool); 4] = [(1, true), (1, false), (2, true), (2, false)];

fn limits((policies, allowed): (usize, bool)) -> Limits {
    let endless = Quota::per_second(1_000_000_000);
    let first = if allowed { endless } else { Quota::per_day(1) };
    let named = [("first", first), ("second", endless)];
    let named = named.into_iter().take(policies);
    Limits::new(named.map(|(name, quota)| Policy::new(name, quota))).expect("two names")
}

/// A count in the process, of an identity that has been here.
mod local {
    use super::*;

    #[divan::bench(args = CASES)]
    fn store(bencher: Bencher<'_, '_>, case: (usize, bool)) {
        let (store, identity, limits) = (LocalStore::new(), identity(), limits(case));
        let check = Check::new(&identity, &limits);
        let _ = store.check(&check);
        bencher.bench(|| store.check(divan::black_box(&check)));
    }

    /// One count that two threads charge at once.
    #[divan::bench(threads = 2)]
    fn contended(bencher: Bencher<'_, '_>) {
        let (store, identity, limits) = (LocalStore::new(), identity(), limits((1, true)));
        let check = Check::new(&identity, &limits);
        let _ = store.check(&check);
        bencher.bench(|| store.check(divan::black_box(&check)));
    }

    #[divan::bench(args = CASES)]
    fn limiter(bencher: Bencher<'_, '_>, case: (usize, bool)) {
        let limiter = Limiter::from(LocalStore::new());
        let (identity, limits) = (identity(), limits(case));
        let check = Check::new(&identity, &limits);
        let _ = limiter.check(&check);
        bencher.bench(|| limiter.check(divan::black_box(&check)));
    }

    fn identity() -> Identity {
        Identity::ip(PEER.into())
    }
}

fn bare(_: Request<()>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Empty::new())))
}

fn respond(bencher: Bencher<'_, '_>, layer: &RateLimitLayer, request: fn() -> Request<()>) {
    let mut service = layer.layer(service_fn(bare));
    let mut respond = |request| service.call(request).now_or_never();
    let _ = respond(request());
    bencher.with_inputs(request).bench_local_values(respond);
}

/// A response, from the request to its headers.
mod allow {
    use super::*;

    fn allow(bencher: Bencher<'_, '_>, headers: ResponseHeaders) {
        let layer = RateLimitLayer::new(limits((1, true)), LocalStore::new()).headers(headers);
        respond(bencher, &layer, request);
    }

    #[divan::bench]
    fn without_the_middleware(bencher: Bencher<'_, '_>) {
        let respond = |request| service_fn(bare).call(request).now_or_never();
        bencher.with_inputs(request).bench_values(respond);
    }

    #[divan::bench]
    fn headers_none(bencher: Bencher<'_, '_>) {
        allow(bencher, ResponseHeaders::none());
    }

    #[divan::bench]
    fn headers_x(bencher: Bencher<'_, '_>) {
        allow(bencher, ResponseHeaders::x_rate_limit());
    }

    #[divan::bench]
    fn headers_x_and_ietf(bencher: Bencher<'_, '_>) {
        allow(bencher, ResponseHeaders::x_rate_limit().and_ietf());
    }
}

/// A rejection, from the request to its body.
mod reject {
    use super::*;

    fn reject(bencher: Bencher<'_, '_>, request: fn() -> Request<()>) {
        let layer = RateLimitLayer::new(limits((1, false)), LocalStore::new());
        respond(bencher, &layer, request);
    }

    #[divan::bench]
    fn json(bencher: Bencher<'_, '_>) {
        reject(bencher, request);
    }

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
