//! A gRPC service behind a rate limit, and a client that calls it until it is denied.
//!
//! ```text
//! cargo run --example tonic
//! ```
//!
//! The standard health service stands in for your own service.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use http::Request;
use tollgate::{LocalStore, PeerAddr, Quota, RateLimitLayer};
use tonic::Code;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())?.with_nodelay(Some(true));
    let address = incoming.local_addr()?;
    tokio::select! {
        ended = serve(incoming) => Ok(ended?),
        ended = call_until_denied(address) => ended,
    }
}

async fn serve(incoming: TcpIncoming) -> Result<(), tonic::transport::Error> {
    let layers = ServiceBuilder::new()
        .map_request(add_peer_address)
        .layer(RateLimitLayer::new(
            Quota::per_minute(10),
            LocalStore::new(),
        ))
        .into_inner();
    let (_, health) = tonic_health::server::health_reporter();

    Server::builder()
        .layer(layers)
        .add_service(health)
        .serve_with_incoming(incoming)
        .await
}

/// Adds the peer address to the request for the rate limit. tonic provides it as `TcpConnectInfo`.
fn add_peer_address<B>(mut request: Request<B>) -> Request<B> {
    let connection = request.extensions().get::<TcpConnectInfo>();
    if let Some(peer) = connection.and_then(TcpConnectInfo::remote_addr) {
        request.extensions_mut().insert(PeerAddr(peer));
    }
    request
}

async fn call_until_denied(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let channel = Endpoint::try_from(format!("http://{address}"))?;
    let mut client = HealthClient::new(channel.connect().await?);
    let denied = loop {
        match client.check(HealthCheckRequest::default()).await {
            Ok(_) => println!("served"),
            Err(status) if status.code() == Code::ResourceExhausted => break status,
            Err(status) => return Err(status.into()),
        }
    };
    println!("RESOURCE_EXHAUSTED: {}", denied.message());
    // How long clients with automatic retries wait; see gRFC A6.
    let pushback = denied.metadata().get("grpc-retry-pushback-ms");
    let pushback = pushback.ok_or("no pushback")?.to_str()?;
    println!("grpc-retry-pushback-ms: {pushback}");
    Ok(())
}
