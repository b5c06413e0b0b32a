//! A client that keeps to the limit of the server that it calls: three workers share ten calls a second,
//! evenly spaced. No worker polls, and none starves.
//!
//! ```text
//! cargo run --example outgoing
//! ```
//!
//! The client is hyper-util's. A `reqwest::Client` is limited in the same way as the inner service of
//! `tower_reqwest::HttpClientLayer`.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tollgate::{Decision, LocalStore, Quota, RateLimitLayer};
use tower::{ServiceBuilder, ServiceExt};

/// One call at a time, ten a second. Up to 600 calls to each host wait.
const QUOTA: Quota = Quota::per_second(10).burst(1).queue(600);

const WORKERS: usize = 3;
const CALLS: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = serve().await?;
    let rate_limit =
        RateLimitLayer::outgoing(QUOTA, LocalStore::new()).max_wait(Duration::from_secs(60));
    let client = ServiceBuilder::new()
        .layer(rate_limit)
        .service(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());

    println!("{WORKERS} workers make {CALLS} calls each, under {QUOTA}:\n");
    let start = Instant::now();
    let workers = (1..=WORKERS).map(|worker| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..CALLS {
                let uri = format!("http://{server}/");
                let request = Request::get(uri).body(Empty::new())?;
                let response = client.clone().oneshot(request).await?;
                // A rejection by the layer, and not by the server, has the decision.
                if let Some(decision) = response.extensions().get::<Decision<'static>>() {
                    let wait = decision.retry_after();
                    return Err(format!("too many calls wait; retry after {wait:?}").into());
                }
                assert_eq!(response.status(), StatusCode::OK);
                println!("{:4} ms  worker {worker}", start.elapsed().as_millis());
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await?.map_err(|error| error.to_string())?;
    }
    println!("\nEach worker has made {CALLS} calls.");
    Ok(())
}

/// Starts a server on a free port.
async fn serve() -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let app = Router::new().route("/", get(async || "hello"));
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}
