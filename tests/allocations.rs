//! Counts in the process cost no allocation: a check makes none, and the middleware none but those
//! that a header map makes to hold its headers.

#![expect(unsafe_code, reason = "an allocator that counts has no other way")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use tollgate::header::{X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET};
use tollgate::{
    Check, Checked, Identity, Limiter, Limits, LocalStore, PeerAddr, Policy, Quota, RateLimitLayer,
    UserId,
};
use tower::{Layer, Service, service_fn};

/// Counts what each thread asks of the system's allocator.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is handed on to the system's allocator, and the count itself allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

/// How often this thread allocates meanwhile.
fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.get();
    let done = work();
    (ALLOCATIONS.get() - before, done)
}

/// What a header map allocates to hold these.
fn to_hold(names: &[HeaderName]) -> usize {
    let names = names.to_vec();
    let (allocated, _) = allocations(|| {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        headers
    });
    assert!(allocated > 0, "nothing is counted");
    allocated
}

const NUMBERS: [HeaderName; 3] = [X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET];
const DENIED: [HeaderName; 6] = [
    CONTENT_TYPE,
    CACHE_CONTROL,
    RETRY_AFTER,
    X_RATELIMIT_LIMIT,
    X_RATELIMIT_REMAINING,
    X_RATELIMIT_RESET,
];

/// Debug builds note in the request's extensions which layers have charged it: one allocation more.
const NOTE: usize = cfg!(debug_assertions) as usize;

/// Enough of them to meet all that is done only now and then, such as to sample a histogram.
const CLIENTS: u8 = 50;

/// One policy and two, of each algorithm, up to the largest number that is not formatted.
fn plans() -> Vec<Limits> {
    let quotas = [
        Quota::per_hour(9_999),
        Quota::sliding_window(9_999, Quota::per_hour(1).period()),
        Quota::fixed_window(100, Quota::per_hour(1).period()),
    ];
    let two = |quota| {
        let day = Policy::new("two", Quota::per_hour(1_000));
        Limits::new([Policy::new("one", quota), day]).unwrap()
    };
    let one = quotas.map(Limits::from);
    one.into_iter().chain(quotas.map(two)).collect()
}

type Asked = Request<()>;

/// A request of one client's, by its address and by its id.
fn requests(client: u8) -> [Asked; 2] {
    let [mut address, mut user] = [Asked::default(), Asked::default()];
    let peer = SocketAddr::from(([203, 0, 113, client], 443));
    address.extensions_mut().insert(PeerAddr(peer));
    let id = UserId::new(client.to_string());
    user.extensions_mut().insert(id);
    [address, user]
}

fn bare(_: Asked) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Empty::new())))
}

/// What the middleware allocates for each of these requests' responses, which all have a status.
fn of_each(layer: &RateLimitLayer, asked: Vec<Asked>, status: StatusCode) -> Vec<usize> {
    let mut service = layer.layer(service_fn(bare));
    let each = asked.into_iter().map(|request| {
        let (allocated, response) = allocations(|| service.call(request).now_or_never());
        let Some(Ok(response)) = response else {
            panic!("a local store decides at once");
        };
        assert_eq!(response.status(), status);
        allocated
    });
    each.collect()
}

fn of_all_clients() -> Vec<Asked> {
    (0..CLIENTS).flat_map(requests).collect()
}

#[test]
fn an_allowed_request_allocates_room_for_its_headers() {
    for limits in plans() {
        let layer = RateLimitLayer::new(limits.clone(), LocalStore::new());
        // Metrics are made when they are first needed.
        of_each(&layer, requests(u8::MAX).into(), StatusCode::OK);
        for round in ["first", "second"] {
            let each = of_each(&layer, of_all_clients(), StatusCode::OK);
            let room = to_hold(&NUMBERS) + NOTE;
            let more = each.iter().filter(|allocated| **allocated != room);
            assert_eq!(
                more.count(),
                0,
                "the {round} of each client under {limits:?}: {each:?}, not {room}"
            );
        }
    }
}

#[test]
fn a_denied_request_allocates_room_for_its_headers() {
    let hour = Quota::per_hour(1).period();
    for quota in [
        Quota::per_hour(1),
        Quota::sliding_window(1, hour),
        Quota::fixed_window(1, hour),
    ] {
        let layer = RateLimitLayer::new(quota, LocalStore::new());
        of_each(&layer, requests(u8::MAX).into(), StatusCode::OK);
        // The body is shared from its first use on.
        let denied = StatusCode::TOO_MANY_REQUESTS;
        of_each(&layer, requests(u8::MAX).into(), denied);
        of_each(&layer, of_all_clients(), StatusCode::OK);
        let each = of_each(&layer, of_all_clients(), denied);
        let room = to_hold(&DENIED) + NOTE;
        let more = each.iter().filter(|allocated| **allocated != room);
        assert_eq!(more.count(), 0, "{quota}: {each:?}, not {room}");
    }
}

#[test]
fn denied_response_has_room_for_content_length() {
    let layer = RateLimitLayer::new(Quota::per_hour(1), LocalStore::new());
    of_each(&layer, requests(0).into(), StatusCode::OK);
    // The first denied request fills the thread's copy of the headers.
    of_each(&layer, requests(0).into(), StatusCode::TOO_MANY_REQUESTS);
    let mut service = layer.layer(service_fn(bare));
    // axum adds `Content-Length`, and hyper's HTTP/2 server `Date` before it.
    let added = [DATE, CONTENT_LENGTH];
    for (added, more) in [(&added[2..], 0), (&added[1..], 0), (&added[..], 1)] {
        let [request, _] = requests(0);
        let names = added.to_vec();
        let (allocated, response) = allocations(|| {
            let mut response = service.call(request).now_or_never().unwrap().unwrap();
            for name in names {
                let value = HeaderValue::from_static("1");
                response.headers_mut().insert(name, value);
            }
            response
        });
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers().len(), DENIED.len() + added.len());
        assert_eq!(allocated, to_hold(&DENIED) + NOTE + more, "{added:?}");
    }
}

#[test]
fn a_check_allocates_nothing() {
    for limits in plans() {
        let limiter = Limiter::from(LocalStore::new());
        let of_check = |identity: &Identity, cost, allowed| {
            let check = Check::new(identity, &limits).cost(cost);
            let (allocated, checked) = allocations(|| limiter.check(&check));
            let Checked::Ready(decision) = checked else {
                panic!("a local store decides at once");
            };
            assert_eq!(decision.is_allowed(), allowed);
            allocated
        };
        let all = limits.policies().iter();
        let all = all.map(|policy| policy.quota().capacity()).min().unwrap();
        for id in 0..CLIENTS {
            let address = Identity::ip([203, 0, 113, id].into());
            for who in [Identity::user(&id.to_string()), address] {
                if id == 0 {
                    // Metrics are made when they are first needed.
                    of_check(&who, 1, true);
                    of_check(&who, all, false);
                    of_check(&who, all - 1, true);
                    continue;
                }
                let each = [
                    of_check(&who, 1, true),
                    of_check(&who, all, false),
                    of_check(&who, all - 1, true),
                    of_check(&who, 1, false),
                ];
                assert_eq!(each, [0; 4], "{who} under {limits:?}");
            }
        }
    }
}
