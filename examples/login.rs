//! A login that allows five wrong passwords in fifteen minutes for each name and address. Right passwords
//! are not counted, and parallel guesses do not get through.
//!
//! ```text
//! cargo run --example login
//! curl -id '{"name": "alice", "password": "guess"}' http://127.0.0.1:3000/login
//! ```
//!
//! The environment variable `REDIS_URL` sets the URL of Redis, for a count that several processes share.
//! `PORT` sets the port (default: 3000).

use std::env;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Extension, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Router, serve};
use serde::Deserialize;
use tokio::net::TcpListener;
use tollgate::{
    IdentifyError, Identity, Kind, Limiter, LocalStore, Quota, RateLimitLayer, RedisStore,
};

const QUOTA: Quota = Quota::sliding_window(5, Duration::from_secs(15 * 60));

const LOGIN: Kind = Kind::new("login");

/// The largest request body, in bytes.
const MAX_BODY: usize = 4_096;

#[derive(Clone, Deserialize)]
struct Login {
    name: String,
    password: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let limiter: Limiter = match env::var("REDIS_URL") {
        Ok(url) => RedisStore::new(&url)?.into(),
        Err(_) => LocalStore::new().into(),
    };
    let rate_limit = RateLimitLayer::new(QUOTA, limiter)
        .scope("login")
        .identify_by(name_and_address)
        // Everything but a success is charged, so that a mistake of the server is no free guess.
        .charge_if(|response| !response.status.is_success());
    let app = Router::new()
        .route("/login", post(log_in))
        .layer(rate_limit)
        // Outside of the limit, which needs the name.
        .layer(from_fn(read_login));

    let port = env::var("PORT").map_or(Ok(3_000), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!(
        "Listening on {}. The password is `open sesame`.",
        listener.local_addr()?
    );
    serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await?;
    Ok(())
}

/// Reads the name and the password from the body.
async fn read_login(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    match serde_json::from_slice::<Login>(&body) {
        Ok(login) => drop(parts.extensions.insert(login)),
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
    next.run(Request::from_parts(parts, Body::empty())).await
}

/// Hashes the name, which may contain what a user typed into the wrong field.
fn name_and_address(parts: &Parts) -> Result<Identity, IdentifyError> {
    let login = parts.extensions.get::<Login>();
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let (Some(login), Some(ConnectInfo(peer))) = (login, peer) else {
        return Err(IdentifyError::new("no login or no peer address"));
    };
    let name_and_address = format!("{} {}", peer.ip(), login.name);
    Ok(Identity::secret(&LOGIN, &name_and_address))
}

async fn log_in(Extension(login): Extension<Login>) -> (StatusCode, &'static str) {
    // An application compares a slow hash of the password.
    tokio::time::sleep(Duration::from_millis(20)).await;
    match login.password == "open sesame" {
        true => (StatusCode::OK, "Welcome!\n"),
        false => (StatusCode::UNAUTHORIZED, "Wrong password.\n"),
    }
}
