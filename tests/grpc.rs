//! A generated gRPC client receives a rejection as a gRPC status, over a real connection.

use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{FailureStrategy, Identity, Quota, RateLimitLayer, StoreErrorKind};
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn denials_and_refusals_are_grpc_statuses() {
    let store = ProgrammableStore::new();
    let layer = RateLimitLayer::new(Quota::per_day(2), store.clone())
        .failure_strategy(FailureStrategy::Closed)
        .refused_status(StatusCode::SERVICE_UNAVAILABLE)
        .identify_by(|parts: &Parts| {
            let peer = parts.extensions.get::<TcpConnectInfo>();
            let peer = peer.and_then(TcpConnectInfo::remote_addr).unwrap();
            Ok(Identity::ip(peer.ip()))
        });
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().layer(layer).add_service(health);
    let server = tokio::spawn(server.serve_with_incoming(incoming));

    let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let mut check = async || client.check(HealthCheckRequest::default()).await;
    let metadata = |status: &Status, name| {
        let value = status.metadata().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };

    for left in ["1", "0"] {
        let response = check().await.unwrap();
        let remaining = response.metadata().get("x-ratelimit-remaining");
        assert_eq!(remaining.unwrap(), left);
    }
    let denied = check().await.unwrap_err();
    assert_eq!(denied.code(), Code::ResourceExhausted);
    assert_eq!(denied.message(), "rate limit exceeded");
    assert_eq!(
        metadata(&denied, "x-ratelimit-remaining").as_deref(),
        Some("0")
    );
    let pushback = metadata(&denied, "grpc-retry-pushback-ms").unwrap();
    let pushback = Duration::from_millis(pushback.parse().unwrap());
    let half_a_day = Quota::per_day(2).period() / 2;
    assert!(
        !pushback.is_zero() && pushback <= half_a_day,
        "{pushback:?}"
    );

    store.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let refused = check().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.message(), "the rate limiter is unavailable");
    assert_eq!(
        metadata(&refused, "x-ratelimit-degraded").as_deref(),
        Some("true")
    );
    server.abort();
}
