//! A hyper service behind a rate limit: each user, and each address without one, may make ten
//! requests at once and five a second.
//!
//! ```text
//! cargo run --example hyper
//!
//! for i in $(seq 12); do curl -si localhost:3000/ | head -8; done
//! curl -i -H 'Authorization: Bearer alice' localhost:3000/
//! ```
//!
//! The environment variable `PORT` sets the port to listen on (default: 3000).

use std::convert::Infallible;
use std::env::{self, VarError};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tollgate::{LocalStore, PeerAddr, Quota, RateLimitLayer, UserId};
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rate_limit = RateLimitLayer::new(Quota::per_second(5).burst(10), LocalStore::new())
        .skip(|parts| parts.uri.path() == "/health");
    let app = ServiceBuilder::new()
        // Before the rate limit, so that a request is counted for its user and not for its address.
        .map_request(authenticate)
        .layer(rate_limit)
        .service_fn(respond);

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port()?));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let address = listener.local_addr()?;
    println!("Listening on {address}. To try it:\n");
    println!("  for i in $(seq 12); do curl -si {address}/ | head -8; done");
    println!("  curl -i -H 'Authorization: Bearer alice' {address}/\n");

    let mut server = auto::Builder::new(TokioExecutor::new());
    // Enables the timeout for reading headers.
    server.http1().timer(TokioTimer::new());
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(tokio::signal::ctrl_c());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            signal = &mut shutdown => break signal?,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The client has disconnected, or too many files are open: wait and go on.
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Adds the peer address of the connection to each request, by which the layer identifies
        // clients.
        let app = app
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            });
        let connection =
            server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection of {peer}: {error}");
            }
        });
    }
    connections.shutdown().await;
    Ok(())
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/" => (StatusCode::OK, greeting(&request)),
        "/health" => (StatusCode::OK, "ok\n".into()),
        _ => (StatusCode::NOT_FOUND, "not found\n".into()),
    };
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    Ok(response)
}

fn greeting(request: &Request<Incoming>) -> String {
    let extensions = request.extensions();
    match (extensions.get::<User>(), extensions.get::<PeerAddr>()) {
        (Some(User(name)), _) => format!("Hello, {name}!\n"),
        (None, Some(PeerAddr(peer))) => format!("Hello, {}!\n", peer.ip()),
        (None, None) => "Hello!\n".into(),
    }
}

/// The authenticated user, as a request extension for the handlers.
#[derive(Clone)]
struct User(&'static str);

/// Adds the authenticated user to the request, for the handlers and for the rate limit. A request
/// without a valid token is passed on, and is counted for its address.
fn authenticate(mut request: Request<Incoming>) -> Request<Incoming> {
    if let Some(name) = user(request.headers()) {
        request.extensions_mut().insert(User(name));
        request.extensions_mut().insert(UserId::new(name));
    }
    request
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

fn port() -> Result<u16, String> {
    match env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|error| format!("PORT={port} is not a port: {error}")),
        Err(VarError::NotPresent) => Ok(3000),
        Err(error) => Err(format!("PORT is not a port: {error}")),
    }
}
