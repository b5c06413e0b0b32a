//! The server at the configured address is not Redis. Checks are decided without it within the
//! deadline, `ping` fails, and nothing panics, whatever the server sends.

#[path = "support/redis_limiter.rs"]
mod redis_limiter;
#[path = "support/redis/mod.rs"]
mod servers;

use std::net::{Ipv4Addr, SocketAddr};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis_limiter::{SHORT_DEADLINE, check, combined_limits, limiter, wait_until_breaker_opens};
use servers::TIMEOUT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tollgate::{RedisStore, StoreErrorKind};

/// Counts panics, since those in tasks would go unnoticed.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default_hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            default_hook(info);
        }));
    });
}

/// Starts a server that handles each connection with `serve`, and returns its address.
async fn start_server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            connections.spawn(serve(client));
        }
    });
    address
}

/// Asserts that checks are decided without the server at this address, and that `ping` fails.
async fn assert_unusable(server: &str, address: SocketAddr) {
    count_panics();
    let url = format!("redis://{address}");
    let limits = combined_limits(1_000);
    let limiter = limiter(&url, SHORT_DEADLINE);
    for _ in 0..4 {
        let decision = timeout(TIMEOUT, check(&limiter, &limits)).await;
        let decision = decision.unwrap_or_else(|_| panic!("{server}: a check hangs"));
        assert!(decision.is_allowed() && decision.is_degraded(), "{server}");
    }
    wait_until_breaker_opens(&limiter).await;

    let ping = timeout(TIMEOUT, RedisStore::new(&url).unwrap().ping()).await;
    let ping = ping.unwrap_or_else(|_| panic!("{server}: a ping hangs"));
    let error = ping.expect_err(server);
    let kinds = [StoreErrorKind::Rejected, StoreErrorKind::Unavailable];
    assert!(kinds.contains(&error.kind()), "{server}: {error:?}");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{server}");
}

/// Asserts that a server is unusable that answers whatever it reads with these bytes.
async fn assert_reply_unusable(reply: &'static [u8]) {
    let address = start_server(move |mut client| async move {
        let mut buffer = [0; 65_536];
        while client
            .read(&mut buffer)
            .await
            .is_ok_and(|length| length > 0)
        {
            if client.write_all(reply).await.is_err() {
                return;
            }
        }
    });
    let server = format!("replies {:?}", String::from_utf8_lossy(reply));
    assert_unusable(&server, address.await).await;
}

/// Asserts that a server is unusable that writes these bytes without end.
async fn assert_endless_output_unusable(bytes: &'static [u8]) {
    let address = start_server(move |mut client| async move {
        let chunk = bytes.repeat(4_096 / bytes.len());
        while client.write_all(&chunk).await.is_ok() {}
    });
    let server = format!("writes endless {:?}", String::from_utf8_lossy(bytes));
    assert_unusable(&server, address.await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_closes_or_stays_silent_is_unusable() {
    let closing = start_server(|client| async move { drop(client) }).await;
    assert_unusable("closes connections at once", closing).await;
    let silent = start_server(|client| async move {
        let _open = client;
        std::future::pending::<()>().await;
    });
    assert_unusable("neither reads nor writes", silent.await).await;
    let reading = start_server(|mut client| async move {
        let mut buffer = [0; 65_536];
        while client
            .read(&mut buffer)
            .await
            .is_ok_and(|length| length > 0)
        {}
    });
    assert_unusable("reads and writes nothing", reading.await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_another_protocol_is_unusable() {
    for reply in [
        &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\0\0\0\0",
        b"\xff\xfe\r\n\r\n",
        b"\r\n",
        b"$-7\r\n",
        b"*-1\r\n",
        b"$5\r\nab",
        b":1e5\r\n",
        b"%1\r\n",
        b"=1\r\n\r\n",
    ] {
        assert_reply_unusable(reply).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_meaningless_replies_is_unusable() {
    for reply in [
        &b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n"[..],
        b":1\r\n:1\r\n:1\r\n:1\r\n",
        b"-ERR unknown command\r\n-ERR\r\n-\r\n- \r\n",
        b"%0\r\n+OK\r\n+OK\r\n*0\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*2\r\n:1\r\n:1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n:-1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n$1\r\n1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n$-1\r\n",
        // These bytes are a valid reply to TIME, but to no other command.
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n:1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n:9223372036854775807\r\n",
        b">1\r\n+message\r\n",
    ] {
        assert_reply_unusable(reply).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_endless_output_is_unusable() {
    for bytes in [
        &b"x"[..],
        b"+endless",
        b"+OK\r\n",
        b"*1\r\n",
        b"*2\r\n:1\r\n",
        b"$9000000000\r\n",
        b"\0",
        b"-ERR no\r\n",
        b">2\r\n+message\r\n+more\r\n",
    ] {
        assert_endless_output_unusable(bytes).await;
    }
}
