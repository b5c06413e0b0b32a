//! One request through a middleware: nanoseconds above the service within.

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

use crate::allowance::Allowance;
use crate::arguments::Pace;
use crate::layers;
use crate::report::{Part, Requirement, Row, grouped, times};
use crate::rounds::{self, Measured, Who, Work};

const PEERS: [Who; 3] = [Who::TowerGovernor, Who::AxumGovernor, Who::RateNet];

pub(crate) fn compare(pace: Pace) -> Part {
    let [allowed, denied] = [Client::Allowed, Client::Denied].map(|client| contest(client, pace));
    let work = [allowed, denied].into_iter().flatten().collect();
    let measured = rounds::run("middleware", pace.rounds, work);
    let [allowed, _, denied, _] = &measured[..] else {
        unreachable!("each client asks a service and a router");
    };
    Part {
        title: "Middleware, ns a request above what is within",
        rows: measured.iter().map(row).collect(),
        requirements: requirements(allowed, denied),
    }
}

/// Who asks.
#[derive(Clone, Copy)]
enum Client {
    /// Any of a thousand that are allowed.
    Allowed,
    /// One that has spent its quota.
    Denied,
}

impl Client {
    fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }

    fn allowance(self) -> Allowance {
        match self {
            Self::Allowed => Allowance::USUAL,
            Self::Denied => Allowance::ONE,
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Allowed => StatusCode::OK,
            Self::Denied => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The heads of the requests, by each client in turn.
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

/// Around a function, and around the routes of axum's router.
fn contest(client: Client, pace: Pace) -> [Work<f64>; 2] {
    async fn hello(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::from("hello")))
    }
    let service = service_fn(hello);
    let router = || Router::new().route("/", get(async || "hello"));
    // As `axum::serve` does, once and not with each request.
    let served = |router: Router| router.with_state::<()>(());

    let mut around_service = Contest::new("a `service_fn`", client, pace);
    let mut around_router = Contest::new("an axum `Router`", client, pace);
    around_service.bare(service);
    around_router.bare(served(router()));

    let allowance = client.allowance();
    let layer = layers::tollgate(allowance, LocalStore::new());
    around_service.limited(Who::Tollgate, layer.layer(service));
    around_router.limited(Who::Tollgate, served(router().layer(layer)));

    let layer = layers::tower_governor(allowance);
    around_service.limited(Who::TowerGovernor, layer.layer(service));
    around_router.limited(Who::TowerGovernor, served(router().layer(layer)));

    let layer = layers::axum_governor(allowance);
    around_service.limited(Who::AxumGovernor, layer.layer(service));
    around_router.limited(Who::AxumGovernor, served(router().layer(layer)));

    let layer = layers::rate_net(allowance);
    around_service.limited(Who::RateNet, layer.layer(service));
    around_router.limited(Who::RateNet, served(router().layer(layer)));

    [around_service.work, around_router.work]
}

struct Contest {
    work: Work<f64>,
    client: Client,
    heads: Rc<[Parts]>,
    at_least: Duration,
}

impl Contest {
    fn new(within: &str, client: Client, pace: Pace) -> Self {
        Self {
            work: Work::new(format!("{}, around {within}", client.label())),
            client,
            heads: client.heads().into(),
            at_least: pace.in_process,
        }
    }

    /// A service without a limiter, which never denies.
    fn bare<S, B>(&mut self, service: S)
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
    {
        self.contender(Who::Bare, service, StatusCode::OK);
    }

    fn limited<S, B>(&mut self, who: Who, mut service: S)
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
    {
        for head in &*self.heads {
            // After which one is denied that is allowed only once.
            answer(&mut service, head);
            let response = answer(&mut service, head);
            let has = |name| response.headers().contains_key(name);
            assert_eq!(response.status(), self.client.status(), "{}", who.name());
            assert!(has("x-ratelimit-remaining") || has("ratelimit-remaining"));
        }
        self.contender(who, service, self.client.status());
    }

    fn contender<S, B>(&mut self, who: Who, mut service: S, status: StatusCode)
    where
        S: Service<Request<Body>, Response = Response<B>> + 'static,
    {
        let (heads, at_least) = (self.heads.clone(), self.at_least);
        self.work
            .contender(who, move || time(&mut service, &heads, status, at_least));
    }
}

/// How many requests there are, at least, between two looks at the clock.
const AT_A_TIME: usize = 1_000;

/// Nanoseconds a request, with the making of the request and the dropping of the response.
fn time<S, B>(service: &mut S, heads: &[Parts], status: StatusCode, at_least: Duration) -> f64
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let (mut requests, mut as_expected) = (0, 0);
    let start = Instant::now();
    let took = loop {
        for head in heads.iter().cycle().take(AT_A_TIME) {
            let response = black_box(answer(service, head));
            as_expected += usize::from(response.status() == status);
        }
        requests += AT_A_TIME;
        let took = start.elapsed();
        if took >= at_least {
            break took;
        }
    };
    assert_eq!(as_expected, requests, "all are to be answered alike");
    took.as_nanos() as f64 / requests as f64
}

/// Asks a service that is ready and answers at once, as these all are and do.
fn answer<S, B>(service: &mut S, head: &Parts) -> Response<B>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let request = Request::from_parts(head.clone(), Body::empty());
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut context) else {
        panic!("it is to be ready");
    };
    match pin!(service.call(request)).poll(&mut context) {
        Poll::Ready(Ok(response)) => response,
        _ => panic!("it is to answer at once"),
    }
}

fn above_bare(measured: &Measured<f64>, who: Who) -> f64 {
    measured.median_beside(who, Who::Bare, |whole, bare| whole - bare)
}

fn row(measured: &Measured<f64>) -> Row {
    let ours = above_bare(measured, Who::Tollgate);
    let bare = measured.median(Who::Bare, |bare| *bare);
    let row = Row::new(measured.label.clone())
        .cell(Who::Tollgate, grouped(ours))
        .cell(Who::Bare, grouped(bare));
    PEERS.into_iter().fold(row, |row, peer| {
        let theirs = above_bare(measured, peer);
        row.cell(peer, format!("{}{}", grouped(theirs), times(theirs / ours)))
    })
}

fn requirements(allowed: &Measured<f64>, denied: &Measured<f64>) -> Vec<Requirement> {
    let ours = |measured: &Measured<f64>| above_bare(measured, Who::Tollgate);
    let bound = |measured: &Measured<f64>, peer: Who, most| {
        let what = format!("{}: part of {}'s time", measured.label, peer.name());
        Requirement::at_most(what, ours(measured) / above_bare(measured, peer), most)
    };
    vec![
        bound(allowed, Who::RateNet, 1.0 / 2.0),
        bound(allowed, Who::TowerGovernor, 1.0 / 2.0),
        bound(denied, Who::RateNet, 2.0 / 3.0),
        bound(denied, Who::TowerGovernor, 1.0 / 15.0),
        Requirement::at_most(
            format!("{}: times the time of one allowed", denied.label),
            ours(denied) / ours(allowed),
            1.1,
        ),
    ]
}
