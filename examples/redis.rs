//! Two servers that share one limit through Redis: a client has one count, whichever server it
//! calls. Each server has its own store and connections, as two processes on two machines would.
//!
//! ```text
//! redis-server --save '' &
//! cargo run --example redis
//! ```
//!
//! The environment variable `REDIS_URL` sets the URL of Redis (default: `redis://127.0.0.1:6379`).

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

/// Regains nothing while this program runs.
const QUOTA: Quota = Quota::per_hour(6);

const SCOPE: &str = "example";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());

    // A service need not ping: until Redis answers, the failure strategy decides. This example has
    // nothing to show without Redis.
    let store = RedisStore::new(&url)?;
    if let Err(error) = store.ping().await {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let advice = "start `redis-server`, or set REDIS_URL to the URL of a server";
        return Err(format!("Redis cannot be used: {error} ({cause}); {advice}").into());
    }
    reset_count(store).await?;

    let servers = [serve(&url).await?, serve(&url).await?];
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    println!("{QUOTA} for each client, whichever server it asks:\n");
    for server in servers.iter().cycle().take(8) {
        let response = client.get(format!("http://{server}/").parse()?).await?;
        println!("{server}  {}", summary(&response));
    }

    println!("\nThe count is in Redis until it expires:\n");
    println!("  redis-cli --scan --pattern 'tollgate:{{ip:127.0.0.1}}:{SCOPE}:*'");
    Ok(())
}

/// Starts a server on a free port.
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

/// Resets the count, so that each run has the same output.
async fn reset_count(store: RedisStore) -> Result<(), Box<dyn Error>> {
    let client = Identity::ip(IpAddr::from(Ipv4Addr::LOCALHOST));
    let (limits, scope) = (Limits::from(QUOTA), Scope::new(SCOPE)?);
    let check = Check::new(&client, &limits).scope(&scope);
    Limiter::from(store).reset(&check).await?;
    Ok(())
}
