//! Two servers that share one limit through Redis: whichever of them a client asks, it is one count
//! that goes down. Each has connections of its own, as two processes on two machines would.
//!
//! ```text
//! redis-server --save '' &
//! cargo run --example redis
//! ```
//!
//! `REDIS_URL` in the environment says where Redis is: `redis://127.0.0.1:6379` unless set.

use std::env;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Bytes;
use axum::http::Response;
use axum::http::header::RETRY_AFTER;
use axum::routing::get;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tollgate::header::X_RATELIMIT_REMAINING;
use tollgate::{Check, Identity, Limiter, Limits, Quota, RateLimitLayer, RedisStore, Scope};

/// Slow enough that nothing comes back while this runs.
const QUOTA: Quota = Quota::per_hour(6);

const SCOPE: &str = "example";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());

    // Nobody need ask before serving: the failure strategy decides until Redis is there. But this
    // shows nothing without it.
    let store = RedisStore::new(&url)?;
    if let Err(error) = store.ping().await {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let advice = "start `redis-server`, or say in REDIS_URL where one is";
        return Err(format!("no counting in Redis: {error} ({cause}); {advice}").into());
    }
    forget_earlier_runs(store).await?;

    let servers = [serve(&url).await?, serve(&url).await?];
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    println!("{QUOTA} for each client, whichever server it asks:\n");
    for server in servers.iter().cycle().take(8) {
        let response = client.get(format!("http://{server}/").parse()?).await?;
        println!("{server}  {}", summary(&response));
    }

    println!("\nThe count is in Redis, until its time is over:\n");
    println!("  redis-cli --scan --pattern 'tollgate:{{ip:127.0.0.1}}:{SCOPE}:*'");
    Ok(())
}

/// Starts a server on a port of its own.
async fn serve(url: &str) -> Result<SocketAddr, Box<dyn Error>> {
    let rate_limit = RateLimitLayer::new(QUOTA, RedisStore::new(url)?).scope(SCOPE);
    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .layer(rate_limit);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, service).into_future());
    Ok(address)
}

fn summary<B>(response: &Response<B>) -> String {
    let header = |name| {
        let value = response.headers().get(name)?;
        value.to_str().ok()
    };
    let remaining = header(X_RATELIMIT_REMAINING).unwrap_or("?");
    match header(RETRY_AFTER) {
        Some(wait) => format!("{}, {remaining} left, again in {wait} s", response.status()),
        None => format!("{}, {remaining} left", response.status()),
    }
}

/// So that each run shows the same.
async fn forget_earlier_runs(store: RedisStore) -> Result<(), Box<dyn Error>> {
    let client = Identity::ip(IpAddr::from(Ipv4Addr::LOCALHOST));
    let (limits, scope) = (Limits::from(QUOTA), Scope::new(SCOPE)?);
    let check = Check::new(&client, &limits).scope(&scope);
    Limiter::from(store).reset(&check).await?;
    Ok(())
}
