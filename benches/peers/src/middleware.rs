//! Times one request through a middleware, minus the time of the same request without it.

use std::convert::Infallible;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use tollgate::LocalStore;
use tower::{Layer, Service, service_fn};

use crate::arguments::Schedule;
use crate::contest::{self, Contender, Contest, Measured};
use crate::layers;
use crate::report::{Part, Requirement, Row, format_factor, format_number};
use crate::token_bucket::TokenBucket;

const PEERS: [Contender; 3] = [
    Contender::TowerGovernor,
    Contender::AxumGovernor,
    Contender::RateNet,
];

pub(crate) fn compare(schedule: Schedule) -> Part {
    let contests = [Client::Allowed, Client::Denied].map(|client| contests(client, schedule));
    let contests = contests.into_iter().flatten().collect();
    let measured = contest::run("middleware", schedule.rounds, contests);
    let [allowed, _, denied, _] = &measured[..] else {
        unreachable!("each client has one contest with a service and one with a router");
    };
    Part {
        title: "Middleware, ns per request on top of the inner service",
        rows: measured.iter().map(row).collect(),
        requirements: requirements(allowed, denied),
    }
}

/// The clients of a contest.
#[derive(Clone, Copy)]
enum Client {
    /// A thousand clients in turn, whose requests are allowed.
    Allowed,
    /// One client that has used its quota.
    Denied,
}

impl Client {
    fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }

    fn bucket(self) -> TokenBucket {
        match self {
            Self::Allowed => TokenBucket::USUAL,
            Self::Denied => TokenBucket::ONE,
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Allowed => StatusCode::OK,
            Self::Denied => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Returns the heads of the requests, one of each client.
    fn heads(self) -> Vec<Parts> {
        let clients = match self {
            Self::Allowed => 1_000,
            Self::Denied => 1,
        };
        let head = |client| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(203, 0, 113, 1).to_bits() + client);
            let peer = ConnectInfo(SocketAddr::from((address, 50_000)));
            let (mut head, ()) = Request::new(()).into_parts();
            head.extensions.insert(peer);
            head
        };
        (0..clients).map(head).collect()
    }
}

/// Returns a contest around a function, and one around an axum router.
fn contests(client: Client, schedule: Schedule) -> [Contest<f64>; 2] {
    async fn hello(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::from("hello")))
    }
    let service = service_fn(hello);
    let router = || Router::new().route("/", get(async || "hello"));
    // `axum::serve` also does this once, and not for each request.
    let served = |router: Router| router.with_state::<()>(());

    let mut around_service = Around::new("a `service_fn`", client, schedule);
    let mut around_router = Around::new("an axum `Router`", client, schedule);
    around_service.add_bare(service);
    around_router.add_bare(served(router()));

    let bucket = client.bucket();
    let layer = layers::tollgate(bucket, LocalStore::new());
    around_service.add_limited(Contender::Tollgate, layer.layer(service));
    around_router.add_limited(Contender::Tollgate, served(router().layer(layer)));

    let layer = layers::tower_governor(bucket);
    around_service.add_limited(Contender::TowerGovernor, layer.layer(service));
    around_router.add_limited(Contender::TowerGovernor, served(router().layer(layer)));

    let layer = layers::axum_governor(bucket);
    around_service.add_limited(Contender::AxumGovernor, layer.layer(service));
    around_router.add_limited(Contender::AxumGovernor, served(router().layer(layer)));

    let layer = layers::rate_net(bucket);
    around_service.add_limited(Contender::RateNet, layer.layer(service));
    around_router.add_limited(Contender::RateNet, served(router().layer(layer)));

    [around_service.contest, around_router.contest]
}

/// A contest of middlewares around one kind of service.
struct Around {
    contest: Contest<f64>,
    client: Client,
    heads: Rc<[Parts]>,
    at_least: Duration,
}

impl Around {
    fn new(inner: &str, client: Client, schedule: Schedule) -> Self {
        Self {
            contest: Contest::new(format!("{}, around {inner}", client.label())),
            client,
            heads: client.heads().into(),
            at_least: schedule.in_process,
        }
    }

    /// Adds the inner service without a limiter.
    fn add_bare<S, B>(&mut self, service: S)
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
    {
        self.add(Contender::Bare, service, StatusCode::OK);
    }

    /// Adds a service with a limiter, after a check of its responses.
    fn add_limited<S, B>(&mut self, contender: Contender, mut service: S)
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
    {
        for head in &*self.heads {
            // The first request uses the quota of the denied client.
            call(&mut service, head);
            let response = call(&mut service, head);
            let has = |name| response.headers().contains_key(name);
            assert_eq!(
                response.status(),
                self.client.status(),
                "{}",
                contender.name()
            );
            assert!(has("x-ratelimit-remaining") || has("ratelimit-remaining"));
        }
        self.add(contender, service, self.client.status());
    }

    fn add<S, B>(&mut self, contender: Contender, mut service: S, status: StatusCode)
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
    {
        let (heads, at_least) = (self.heads.clone(), self.at_least);
        self.contest.add(contender, move || {
            time(&mut service, &heads, status, at_least)
        });
    }
}

/// The number of requests between two readings of the clock.
const REQUESTS_PER_READING: usize = 1_000;

/// Returns the mean time of a request in nanoseconds, including the construction of the request and
/// the drop of the response.
fn time<S, B>(service: &mut S, heads: &[Parts], status: StatusCode, at_least: Duration) -> f64
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let (mut requests, mut as_expected) = (0, 0);
    let start = Instant::now();
    let elapsed = loop {
        for head in heads.iter().cycle().take(REQUESTS_PER_READING) {
            let response = black_box(call(service, head));
            as_expected += usize::from(response.status() == status);
        }
        requests += REQUESTS_PER_READING;
        let elapsed = start.elapsed();
        if elapsed >= at_least {
            break elapsed;
        }
    };
    assert_eq!(as_expected, requests, "a response has another status");
    elapsed.as_nanos() as f64 / requests as f64
}

/// Calls a service that is always ready and responds in the first poll, as all of these do.
fn call<S, B>(service: &mut S, head: &Parts) -> Response<B>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let request = Request::from_parts(head.clone(), Body::empty());
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut context) else {
        panic!("the service is not ready");
    };
    match pin!(service.call(request)).poll(&mut context) {
        Poll::Ready(Ok(response)) => response,
        _ => panic!("the service does not respond in the first poll"),
    }
}

/// Returns the time of a request minus the time of the inner service in the same round.
fn overhead(measured: &Measured<f64>, contender: Contender) -> f64 {
    measured.median_of_pairs(contender, Contender::Bare, |whole, bare| whole - bare)
}

fn row(measured: &Measured<f64>) -> Row {
    let tollgate = overhead(measured, Contender::Tollgate);
    let bare = measured.median(Contender::Bare, |bare| *bare);
    let row = Row::new(measured.label.clone())
        .cell(Contender::Tollgate, format_number(tollgate))
        .cell(Contender::Bare, format_number(bare));
    PEERS.into_iter().fold(row, |row, peer| {
        let time = overhead(measured, peer);
        let factor = format_factor(time / tollgate);
        row.cell(peer, format!("{}{factor}", format_number(time)))
    })
}

fn requirements(allowed: &Measured<f64>, denied: &Measured<f64>) -> Vec<Requirement> {
    let tollgate = |measured: &Measured<f64>| overhead(measured, Contender::Tollgate);
    let at_most = |measured: &Measured<f64>, peer: Contender, bound| {
        let label = format!("{}: time relative to {}", measured.label, peer.name());
        Requirement::at_most(label, tollgate(measured) / overhead(measured, peer), bound)
    };
    vec![
        at_most(allowed, Contender::RateNet, 1.0 / 2.0),
        at_most(allowed, Contender::TowerGovernor, 1.0 / 2.0),
        at_most(denied, Contender::RateNet, 2.0 / 3.0),
        at_most(denied, Contender::TowerGovernor, 1.0 / 15.0),
        Requirement::at_most(
            format!("{}: time relative to an allowed request", denied.label),
            tollgate(denied) / tollgate(allowed),
            1.1,
        ),
    ]
}
