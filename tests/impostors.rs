//! What listens on the server's port is no Redis: whatever it says, or does not, requests are
//! served without it, within the deadline, and nothing panics.

#[path = "support/outage.rs"]
mod outage;
#[path = "support/redis/mod.rs"]
mod servers;

use std::net::{Ipv4Addr, SocketAddr};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use outage::{SHORT, check, limiter, together, until_alone};
use servers::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tollgate::{RedisStore, StoreErrorKind};

/// Panics in tasks are not seen otherwise.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            usual(what);
        }));
    });
}

/// Serves each connection like that, for as long as the test lasts.
async fn impostor<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
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

/// Requests are served without it, and a ping says that it is no good.
async fn is_seen_through(what: &str, address: SocketAddr) {
    count_panics();
    let url = format!("redis://{address}");
    let limits = together(1_000);
    let limiter = limiter(&url, SHORT);
    for _ in 0..4 {
        let decision = timeout(PATIENCE, check(&limiter, &limits)).await;
        let decision = decision.unwrap_or_else(|_| panic!("{what}: a check hangs"));
        assert!(decision.is_allowed() && decision.is_degraded(), "{what}");
    }
    until_alone(&limiter).await;

    let ping = timeout(PATIENCE, RedisStore::new(&url).unwrap().ping()).await;
    let ping = ping.unwrap_or_else(|_| panic!("{what}: a ping hangs"));
    let error = ping.expect_err(what);
    let kinds = [StoreErrorKind::Rejected, StoreErrorKind::Unavailable];
    assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{what}");
}

/// Answers each of the client's writes with these bytes.
async fn answering(answer: &'static [u8]) -> SocketAddr {
    impostor(move |mut client| async move {
        let mut buffer = [0; 65_536];
        while client
            .read(&mut buffer)
            .await
            .is_ok_and(|length| length > 0)
        {
            if client.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Writes these bytes for ever.
async fn flooding(bytes: &'static [u8]) -> SocketAddr {
    impostor(move |mut client| async move {
        let chunk = bytes.repeat(4_096 / bytes.len());
        while client.write_all(&chunk).await.is_ok() {}
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_closes_or_says_nothing_is_seen_through() {
    let closing = impostor(|client| async move { drop(client) }).await;
    is_seen_through("closes at once", closing).await;
    let silent = impostor(|client| async move {
        let _open = client;
        std::future::pending::<()>().await;
    });
    is_seen_through("says nothing", silent.await).await;
    let deaf = impostor(|mut client| async move {
        let mut buffer = [0; 65_536];
        while client
            .read(&mut buffer)
            .await
            .is_ok_and(|length| length > 0)
        {}
    });
    is_seen_through("listens and says nothing", deaf.await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_speaks_another_language_is_seen_through() {
    for answer in [
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
        let what = format!("{:?}", String::from_utf8_lossy(answer));
        is_seen_through(&what, answering(answer).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_speaks_the_language_and_makes_no_sense_is_seen_through() {
    for answer in [
        &b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n"[..],
        b":1\r\n:1\r\n:1\r\n:1\r\n",
        b"-ERR unknown command\r\n-ERR\r\n-\r\n- \r\n",
        b"%0\r\n+OK\r\n+OK\r\n*0\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*2\r\n:1\r\n:1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n:-1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n$1\r\n1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n$-1\r\n",
        // The clock is answered well, and then nothing is.
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n:1\r\n",
        b"%0\r\n+OK\r\n+OK\r\n*1\r\n:9223372036854775807\r\n",
        b">1\r\n+message\r\n",
    ] {
        let what = format!("{:?}", String::from_utf8_lossy(answer));
        is_seen_through(&what, answering(answer).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_stops_talking_is_seen_through() {
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
        let what = format!("endless {:?}", String::from_utf8_lossy(bytes));
        is_seen_through(&what, flooding(bytes).await).await;
    }
}
