//! Tests of `support/redis`: servers, clusters, sentinels and the proxy behave as documented.

#[path = "support/redis/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use support::{Cluster, Proxy, Sentinels, Server, connect};

const SHORT_TIMEOUT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn paused_server_answers_after_resume() {
    let server = Server::start().await;
    server.pause();
    assert!(!server.is_answering());
    assert!(
        timeout(SHORT_TIMEOUT, server.command(&["PING"]))
            .await
            .is_err()
    );
    server.resume();
    assert_eq!(server.query::<String>(&["PING"]).await, "PONG");
}

#[tokio::test]
async fn stopped_server_restarts_on_its_port() {
    let server = Server::start_with(&["--maxmemory", "3mb"]).await;
    let url = server.url();
    for end in [Server::kill, Server::terminate] {
        server.command(&["SET", "key", "value"]).await;
        end(&server);
        assert!(server.try_command(&["PING"]).await.is_err());
        server.restart().await;
        assert_eq!(server.url(), url);
        assert_eq!(server.keys().await, [""; 0], "the data is lost");
        let memory: (String, u64) = server.query(&["CONFIG", "GET", "maxmemory"]).await;
        assert_eq!(memory.1, 3 << 20, "the options are kept");
    }
}

#[tokio::test]
async fn dropped_server_leaves_no_process_or_directory() {
    let server = Server::start().await;
    let (_, directory): (String, String) = server.query(&["CONFIG", "GET", "dir"]).await;
    assert!(Path::new(&directory).exists());
    server.pause();
    let address = server.address();
    drop(server);
    assert!(!Path::new(&directory).exists());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn keys_and_calls_are_counted() {
    let server = Server::start().await;
    server.command(&["SET", "stays", "1"]).await;
    server.command(&["SET", "goes", "1", "PX", "60000"]).await;
    assert_eq!(server.keys().await, ["goes", "stays"]);
    assert_eq!(server.keys_without_ttl().await, ["stays"]);
    assert_eq!(server.calls("SET").await, 2);
    server.reset_stats().await;
    assert_eq!(server.calls("set").await, 0);
    // Since Redis 7 the support code must enable DEBUG.
    server.command(&["DEBUG", "SLEEP", "0"]).await;
}

#[tokio::test]
async fn cluster_moves_slots_and_replaces_killed_primaries() {
    let cluster = Cluster::start().await;
    let slot = cluster.slot_of("key").await;
    let old = cluster.primary_of(slot).await;
    let new = (old + 1) % 3;
    cluster.nodes()[old].command(&["SET", "key", "value"]).await;
    assert_eq!(cluster.keys_without_ttl().await, ["key"]);

    cluster.move_slot(slot, new).await;
    assert_eq!(cluster.primary_of(slot).await, new);
    let moved = cluster.nodes()[old].try_command(&["GET", "key"]).await;
    let kind = moved.as_ref().map_err(RedisError::kind);
    assert_eq!(kind, Err(ErrorKind::Server(ServerErrorKind::Moved)));
    assert_eq!(cluster.keys_without_ttl().await, ["key"]);

    cluster.kill(new);
    assert_eq!(cluster.new_primary_of(slot, new).await, new + 3);
    let value: String = cluster.nodes()[new + 3].query(&["GET", "key"]).await;
    assert_eq!(value, "value");
    cluster.nodes()[new].restart().await;
}

#[tokio::test]
async fn sentinels_name_the_new_primary() {
    let sentinels = Sentinels::start().await;
    assert_eq!(sentinels.urls().len(), 3);
    assert_eq!(sentinels.primary().await, 0);
    assert_eq!(sentinels.failover().await, 1);
    assert_eq!(
        sentinels.failover().await,
        0,
        "the old primary takes over again"
    );
}

#[tokio::test]
async fn sentinels_replace_a_killed_primary() {
    let sentinels = Sentinels::start().await;
    sentinels.nodes()[0].kill();
    assert_eq!(sentinels.new_primary(0).await, 1);
    sentinels.nodes()[0].restart().await;
}

async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<String> {
    redis::cmd("PING").query_async(connection).await
}

#[tokio::test]
async fn proxy_forwards_delays_closes_and_refuses() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let mut first = connect(&proxy.url()).await.unwrap();
    let mut second = connect(&proxy.url()).await.unwrap();
    assert_eq!(ping(&mut first).await.unwrap(), "PONG");
    assert_eq!(proxy.connections(), 2);

    proxy.delay(SHORT_TIMEOUT);
    let began = Instant::now();
    assert_eq!(ping(&mut first).await.unwrap(), "PONG");
    assert!(
        began.elapsed() >= 2 * SHORT_TIMEOUT,
        "one delay in each direction"
    );

    proxy.forward();
    proxy.close_connections();
    for connection in [&mut first, &mut second] {
        let end = ping(connection).await;
        assert!(end.is_err_and(|error| !error.is_timeout()));
    }
    let mut third = connect(&proxy.url()).await.unwrap();
    proxy.refuse_connections();
    assert!(connect(&proxy.url()).await.is_err());
    assert_eq!(ping(&mut third).await.unwrap(), "PONG");
}

#[tokio::test]
async fn proxy_truncates_one_reply() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.truncate_next_reply();
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert_eq!(reply, b"+PO");
    let mut other = connect(&proxy.url()).await.unwrap();
    assert_eq!(ping(&mut other).await.unwrap(), "PONG");
}

#[tokio::test]
async fn proxy_that_drops_bytes_leaves_connections_half_open() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.drop_bytes();
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut reply = [0; 7];
    assert!(
        timeout(SHORT_TIMEOUT, stream.read(&mut reply))
            .await
            .is_err()
    );
    server.kill();
    assert!(
        timeout(SHORT_TIMEOUT, stream.read(&mut reply))
            .await
            .is_err()
    );

    server.restart().await;
    proxy.forward();
    assert!(
        timeout(SHORT_TIMEOUT, stream.read(&mut reply))
            .await
            .is_err()
    );
    let mut other = connect(&proxy.url()).await.unwrap();
    assert_eq!(ping(&mut other).await.unwrap(), "PONG");
    proxy.close_connections();
    let end = stream.read(&mut reply).await;
    assert_eq!(end.expect("the connection is closed cleanly"), 0);
}
