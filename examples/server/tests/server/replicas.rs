//! Three servers that share one Redis admit exactly the limit together, over HTTP and gRPC.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::grpc::{self, check_request};
use crate::support::http::{check, json_body};
use crate::support::{Redis, Server};

const LIMIT: usize = 100;

#[tokio::test]
async fn three_servers_admit_exactly_the_limit() {
    let redis = Redis::start().await;
    let url = redis.url();
    let settings = [
        ("STORE__URL", &*url),
        // Long enough that no check is degraded on a busy machine.
        ("STORE__DEADLINE", "15s"),
        ("DEFAULT__LIMIT", "100/3650d"),
    ];
    let servers = [(); 3].map(|()| Server::start(&settings));
    let mut clients = Vec::new();
    for server in &servers {
        clients.push(grpc::connect(server.grpc_url()).await);
    }
    let over_http = (0..2 * LIMIT).map(async |index| {
        let server = &servers[index % 3];
        let decision = json_body(&check(server.http(), r#"{"key":"shared"}"#).await);
        assert_eq!(decision["degraded"], json!(false));
        decision["allowed"] == json!(true)
    });
    let over_grpc = (0..2 * LIMIT).map(|index| {
        let mut client = clients[index % 3].clone();
        async move {
            let response = client.check_limit(check_request("shared")).await.unwrap();
            let status = response.into_inner().status.unwrap();
            assert!(!status.degraded);
            status.allowed
        }
    });
    let (over_http, over_grpc) = tokio::join!(join_all(over_http), join_all(over_grpc));
    let allowed = over_http.into_iter().chain(over_grpc);
    assert_eq!(allowed.filter(|allowed| *allowed).count(), LIMIT);
}
