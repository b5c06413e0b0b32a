//! A gRPC service behind a rate limit, and a client that calls it until it is told to wait.
//!
//! ```text
//! cargo run --example tonic
//! ```
//!
//! The service is the standard health service, in the place of your own.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use http::request::Parts;
use tollgate::{Identity, LocalStore, Quota, RateLimitLayer, Unidentified};
use tonic::Code;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

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
    let rate_limit =
        RateLimitLayer::new(Quota::per_minute(10), LocalStore::new()).identify_by(peer);
    let (_, health) = tonic_health::server::health_reporter();

    Server::builder()
        .layer(rate_limit)
        .add_service(health)
        .serve_with_incoming(incoming)
        .await
}

/// Who is asking: the address at the other end, where tonic puts it.
fn peer(parts: &Parts) -> Result<Identity, Unidentified> {
    let connection = parts.extensions.get::<TcpConnectInfo>();
    match connection.and_then(TcpConnectInfo::remote_addr) {
        Some(peer) => Ok(Identity::ip(peer.ip())),
        None => Err(Unidentified::new("the request did not come over TCP")),
    }
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
    // How long clients that retry by themselves will wait; see gRFC A6.
    let pushback = denied.metadata().get("grpc-retry-pushback-ms");
    let pushback = pushback.ok_or("no pushback")?.to_str()?;
    println!("grpc-retry-pushback-ms: {pushback}");
    Ok(())
}
