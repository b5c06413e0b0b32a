//! With a local store a check allocates nothing, and the middleware allocates only what the header
//! map of the response needs.

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

/// The system's allocator, which counts the allocations of each thread.
struct CountingAllocator;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

// SAFETY: every call is forwarded to the system's allocator, and counting does not allocate.
unsafe impl GlobalAlloc for CountingAllocator {
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

/// Runs `f`, and returns how often this thread has allocated meanwhile, and the result.
fn allocations<T>(f: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.get();
    let result = f();
    (ALLOCATIONS.get() - before, result)
}

/// Returns how often a header map allocates to hold these headers.
fn header_map_allocations(names: &[HeaderName]) -> usize {
    let names = names.to_vec();
    let (allocated, _) = allocations(|| {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        headers
    });
    assert!(allocated > 0, "allocations are not counted");
    allocated
}

const ALLOWED: [HeaderName; 3] = [X_RATELIMIT_LIMIT, X_RATELIMIT_REMAINING, X_RATELIMIT_RESET];
const DENIED: [HeaderName; 6] = [
    CONTENT_TYPE,
    CACHE_CONTROL,
    RETRY_AFTER,
    X_RATELIMIT_LIMIT,
    X_RATELIMIT_REMAINING,
    X_RATELIMIT_RESET,
];

/// In debug builds a request extension records which layers have charged it, which is one
/// allocation.
const DEBUG_EXTENSION: usize = cfg!(debug_assertions) as usize;

/// Enough clients to reach the code that runs only sometimes, such as the sampling of a histogram.
const CLIENTS: u8 = 50;

/// Returns limits of one policy and of two, for each algorithm. Limits up to 9,999 have
/// preformatted header values, which need no allocation.
fn all_limits() -> Vec<Limits> {
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

type EmptyRequest = Request<()>;

/// Returns two requests of one client, identified by its address and by its user id.
fn requests(client: u8) -> [EmptyRequest; 2] {
    let [mut address, mut user] = [EmptyRequest::default(), EmptyRequest::default()];
    let peer = SocketAddr::from(([203, 0, 113, client], 443));
    address.extensions_mut().insert(PeerAddr(peer));
    let id = UserId::new(client.to_string());
    user.extensions_mut().insert(id);
    [address, user]
}

fn respond(_: EmptyRequest) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Empty::new())))
}

/// Returns how often the middleware allocates for each request. All responses must have this
/// status.
fn allocations_per_request(
    layer: &RateLimitLayer,
    requests: Vec<EmptyRequest>,
    status: StatusCode,
) -> Vec<usize> {
    let mut service = layer.layer(service_fn(respond));
    let each = requests.into_iter().map(|request| {
        let (allocated, response) = allocations(|| service.call(request).now_or_never());
        let Some(Ok(response)) = response else {
            panic!("a local store decides at once");
        };
        assert_eq!(response.status(), status);
        allocated
    });
    each.collect()
}

/// Returns the requests of all clients.
fn all_requests() -> Vec<EmptyRequest> {
    (0..CLIENTS).flat_map(requests).collect()
}

#[test]
fn allowed_request_allocates_only_its_headers() {
    for limits in all_limits() {
        let layer = RateLimitLayer::new(limits.clone(), LocalStore::new());
        // Metrics are created at their first use.
        allocations_per_request(&layer, requests(u8::MAX).into(), StatusCode::OK);
        for round in ["first", "second"] {
            let each = allocations_per_request(&layer, all_requests(), StatusCode::OK);
            let expected = header_map_allocations(&ALLOWED) + DEBUG_EXTENSION;
            let others = each.iter().filter(|allocated| **allocated != expected);
            assert_eq!(
                others.count(),
                0,
                "the {round} request of each client under {limits:?}: {each:?}, not {expected}"
            );
        }
    }
}

#[test]
fn denied_request_allocates_only_its_headers() {
    let hour = Quota::per_hour(1).period();
    for quota in [
        Quota::per_hour(1),
        Quota::sliding_window(1, hour),
        Quota::fixed_window(1, hour),
    ] {
        let layer = RateLimitLayer::new(quota, LocalStore::new());
        allocations_per_request(&layer, requests(u8::MAX).into(), StatusCode::OK);
        // The body is shared after its first use.
        let denied = StatusCode::TOO_MANY_REQUESTS;
        allocations_per_request(&layer, requests(u8::MAX).into(), denied);
        allocations_per_request(&layer, all_requests(), StatusCode::OK);
        let each = allocations_per_request(&layer, all_requests(), denied);
        let expected = header_map_allocations(&DENIED) + DEBUG_EXTENSION;
        let others = each.iter().filter(|allocated| **allocated != expected);
        assert_eq!(others.count(), 0, "{quota}: {each:?}, not {expected}");
    }
}

#[test]
fn denied_response_has_room_for_content_length() {
    let layer = RateLimitLayer::new(Quota::per_hour(1), LocalStore::new());
    allocations_per_request(&layer, requests(0).into(), StatusCode::OK);
    // The first denied request fills the thread's copy of the headers.
    allocations_per_request(&layer, requests(0).into(), StatusCode::TOO_MANY_REQUESTS);
    let mut service = layer.layer(service_fn(respond));
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
        assert_eq!(
            allocated,
            header_map_allocations(&DENIED) + DEBUG_EXTENSION + more,
            "{added:?}"
        );
    }
}

#[test]
fn check_allocates_nothing() {
    for limits in all_limits() {
        let limiter = Limiter::from(LocalStore::new());
        let allocations_of = |identity: &Identity, cost, allowed| {
            let check = Check::new(identity, &limits).cost(cost);
            let (allocated, checked) = allocations(|| limiter.check(&check));
            let Checked::Ready(decision) = checked else {
                panic!("a local store decides at once");
            };
            assert_eq!(decision.is_allowed(), allowed);
            allocated
        };
        let policies = limits.policies().iter();
        let capacity = policies
            .map(|policy| policy.quota().capacity())
            .min()
            .unwrap();
        for id in 0..CLIENTS {
            let address = Identity::ip([203, 0, 113, id].into());
            for identity in [Identity::user(&id.to_string()), address] {
                if id == 0 {
                    // Metrics are created at their first use.
                    allocations_of(&identity, 1, true);
                    allocations_of(&identity, capacity, false);
                    allocations_of(&identity, capacity - 1, true);
                    continue;
                }
                let each = [
                    allocations_of(&identity, 1, true),
                    allocations_of(&identity, capacity, false),
                    allocations_of(&identity, capacity - 1, true),
                    allocations_of(&identity, 1, false),
                ];
                assert_eq!(each, [0; 4], "{identity} under {limits:?}");
            }
        }
    }
}
