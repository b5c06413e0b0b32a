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
//! - `PORT`: the port to listen on (default: 3000);
//! - `LIMIT`: the quota of each user and address (default: `5/1s burst 10`);
//! - `REDIS_URL`, for instance `redis://127.0.0.1:6379`: the server that counts for all processes
//!   which use it (default: count in this process);
//! - `FAILURE_STRATEGY`: how to decide while Redis does not answer: `open` (default),
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
    // Install the recorder first: metrics recorded without one are lost.
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

    // Gives each request the address of its peer, by which the layer identifies clients.
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async {
            tokio::signal::ctrl_c()
                .await
                .expect("cannot listen for ctrl-c");
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
        // The layer added last runs first: it identifies the user, so that the request is counted
        // for the user and not for the address.
        .layer(middleware::from_fn(authenticate))
        // A route added after the layers is not limited. In production, serve metrics on a separate
        // port.
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

/// The authenticated user, as a request extension for the handlers.
#[derive(Clone)]
struct User(&'static str);

/// Adds the authenticated user to the request, for the handlers and for the rate limit. A request
/// without a valid token is passed on, and is counted for its address.
async fn authenticate(mut request: Request, next: Next) -> Response {
    if let Some(name) = user(request.headers()) {
        request.extensions_mut().insert(User(name));
        request.extensions_mut().insert(UserId::new(name));
    }
    next.run(request).await
}

/// Returns the user of the token, which must be verified: a client can send any token.
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

/// Keeps the memory of the recorder small between scrapes.
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
            "FAILURE_STRATEGY={other} is unknown: use open, open-unlimited or closed"
        )),
    }
}

fn port() -> Result<u16, String> {
    let port = variable("PORT", "3000")?;
    port.parse()
        .map_err(|error| format!("PORT={port} is not a port: {error}"))
}

/// Returns the value of an environment variable, or `default` if it is not set.
fn variable(name: &str, default: &str) -> Result<String, String> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => Ok(default.into()),
        Err(error) => Err(format!("{name} cannot be read: {error}")),
    }
}
