//! Three servers on one Redis admit exactly the limit between them, whichever door is used.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::client::{check, json};
use crate::support::protocol::tollgate::v1;
use crate::support::protocol::tollgate::v1::rate_limiter_client::RateLimiterClient;
use crate::support::{Replica, Server};

const LIMIT: usize = 100;

#[tokio::test]
async fn three_servers_admit_the_limit() {
    let redis = Server::start().await;
    let url = redis.url();
    // What is late is decided by a server alone, and this is not about that.
    let values = [
        ("STORE__URL", &*url),
        ("STORE__DEADLINE", "15s"),
        ("DEFAULT__LIMIT", "100/3650d"),
    ];
    let servers = [(); 3].map(|()| Replica::start(&values));
    let mut clients = Vec::new();
    for server in &servers {
        clients.push(RateLimiterClient::connect(server.grpc_url()).await.unwrap());
    }
    let by_http = (0..2 * LIMIT).map(async |index| {
        let server = &servers[index % 3];
        let said = json(&check(server.http(), r#"{"key":"everybody"}"#).await);
        assert_eq!(said["degraded"], json!(false));
        said["allowed"] == json!(true)
    });
    let by_grpc = (0..2 * LIMIT).map(|index| {
        let mut client = clients[index % 3].clone();
        async move {
            let request = v1::CheckLimitRequest {
                key: "everybody".into(),
                ..Default::default()
            };
            let response = client.check_limit(request).await.unwrap();
            let status = response.into_inner().status.unwrap();
            assert!(!status.degraded);
            status.allowed
        }
    });
    let (by_http, by_grpc) = tokio::join!(join_all(by_http), join_all(by_grpc));
    let allowed = by_http.into_iter().chain(by_grpc);
    assert_eq!(allowed.filter(|allowed| *allowed).count(), LIMIT);
}
