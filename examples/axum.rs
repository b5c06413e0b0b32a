//! An axum service behind a rate limit: each user, and each address without one, may make ten
//! requests at once and five a second.
//!
//! ```text
//! cargo run --example axum
//!
//! for i in $(seq 12); do curl -si localhost:3000/ | head -8; done
//! curl -i -H 'Authorization: Bearer alice' localhost:3000/
//! curl localhost:3000/metrics
//! ```
//!
//! The environment can change
//!
//! - `PORT`: where to listen, 3000 unless set;
//! - `LIMIT`: what is allowed, `5/1s burst 10` unless set;
//! - `REDIS_URL`, for instance `redis://127.0.0.1:6379`: count there, together with everybody else
//!   who does. Unless set, the counts are in this process;
//! - `FAILURE_STRATEGY`: what to do while Redis does not answer: `open` (unless set),
//!   `open-unlimited` or `closed`.

use std::env::{self, VarError};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tollgate::{FailureStrategy, Limiter, LocalStore, Quota, RateLimitLayer, RedisStore, UserId};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    // What is counted before there is a recorder is lost.
    let metrics = PrometheusBuilder::new().install_recorder()?;
    tollgate::describe_metrics();
    tokio::spawn(upkeep(metrics.clone()));

    let app = app(rate_limit()?, metrics);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port()?));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr()?;
    println!("Listening on {address}. To try it:\n");
    println!("  for i in $(seq 12); do curl -si {address}/ | head -8; done");
    println!("  curl -i -H 'Authorization: Bearer alice' {address}/");
    println!("  curl {address}/metrics\n");

    // Gives each request its peer's address: without it, nobody could be told from anybody.
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async {
            tokio::signal::ctrl_c().await.expect("ctrl-c can be heard");
        })
        .await?;
    Ok(())
}

fn rate_limit() -> Result<RateLimitLayer, Box<dyn Error>> {
    let limit = variable("LIMIT", "5/1s burst 10")?;
    let quota: Quota = limit.parse().map_err(|error| format!("LIMIT: {error}"))?;
    let limiter = match variable("REDIS_URL", "")?.as_str() {
        "" => Limiter::from(LocalStore::new()),
        url => Limiter::from(RedisStore::new(url).map_err(|error| format!("REDIS_URL: {error}"))?),
    };
    Ok(RateLimitLayer::new(quota, limiter)
        .failure_strategy(failure_strategy()?)
        .skip(|parts| parts.uri.path() == "/health"))
}

fn app(rate_limit: RateLimitLayer, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/", get(greet))
        .route("/health", get(|| async { "ok\n" }))
        .layer(rate_limit)
        // The layer added last runs first: a request must be known to be Alice's before it is
        // counted, or it would be counted as her address's.
        .layer(middleware::from_fn(authenticate))
        // A route added after the layers is outside of them. On the internet this one would have a
        // port of its own.
        .route("/metrics", get(scrape))
        .with_state(metrics)
}

async fn greet(
    user: Option<Extension<User>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> String {
    match user {
        Some(Extension(User(name))) => format!("Hello, {name}!\n"),
        None => format!("Hello, {}!\n", peer.ip()),
    }
}

async fn scrape(State(metrics): State<PrometheusHandle>) -> impl IntoResponse {
    let text_format = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    (text_format, metrics.render())
}

/// Who is logged in, for the handlers.
#[derive(Clone)]
struct User(&'static str);

/// Tells the handlers and the rate limit who is logged in. Nobody is turned away: a request
/// without a token of ours goes on, and counts for its address.
async fn authenticate(mut request: Request, next: Next) -> Response {
    if let Some(name) = user(request.headers()) {
        request.extensions_mut().insert(User(name));
        request.extensions_mut().insert(UserId::new(name));
    }
    next.run(request).await
}

/// Whose token it is. Only a token that was checked may name a user: anyone can make one up.
fn user(headers: &HeaderMap) -> Option<&'static str> {
    let credentials = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = credentials.split_once(' ')?;
    match token {
        _ if !scheme.eq_ignore_ascii_case("bearer") => None,
        "alice" => Some("alice"),
        "bob" => Some("bob"),
        _ => None,
    }
}

/// Keeps the recorder's memory small between scrapes.
async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        metrics.run_upkeep();
    }
}

fn failure_strategy() -> Result<FailureStrategy, String> {
    match variable("FAILURE_STRATEGY", "open")?.as_str() {
        "open" => Ok(FailureStrategy::Open),
        "open-unlimited" => Ok(FailureStrategy::OpenUnlimited),
        "closed" => Ok(FailureStrategy::Closed),
        other => Err(format!(
            "FAILURE_STRATEGY={other} is none: write open, open-unlimited or closed"
        )),
    }
}

fn port() -> Result<u16, String> {
    let port = variable("PORT", "3000")?;
    port.parse()
        .map_err(|error| format!("PORT={port} is not a port: {error}"))
}

/// What the environment says, or else `default`.
fn variable(name: &str, default: &str) -> Result<String, String> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => Ok(default.into()),
        Err(error) => Err(format!("{name} cannot be read: {error}")),
    }
}
