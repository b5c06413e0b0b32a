//! Takes connections, and serves them to their end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures_util::FutureExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use super::stopping::Stopping;

/// How long a client of HTTP/1 may be silent before and within the head of a request. Balancers keep
/// connections for a minute or so, and one that is closed under them may cost a request.
const LONGEST_SILENCE: Duration = Duration::from_secs(120);

/// How long to wait where no connection can be taken, for instance for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Requests that one HTTP/2 connection may have under way: an Envoy has one for each of its
/// threads.
const MOST_STREAMS: u32 = 4_096;

/// A listener and what it serves.
#[derive(Debug)]
pub(super) struct Front {
    name: &'static str,
    address: SocketAddr,
    listener: TcpListener,
    router: Router,
    stopping: Stopping,
}

impl Front {
    pub(super) async fn open(
        name: &'static str,
        address: SocketAddr,
        router: Router,
        stopping: &Stopping,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for {name}"))?;
        Ok(Self {
            name,
            address: listener.local_addr()?,
            listener,
            router: router.layer(from_fn_with_state(stopping.clone(), say_farewell)),
            stopping: stopping.clone(),
        })
    }

    /// Serves until it is closed and nothing is under way any more.
    pub(super) async fn serve(self) {
        let connections = GracefulShutdown::new();
        let closed = self.stopping.closed();
        tokio::pin!(closed);
        loop {
            tokio::select! {
                biased;
                () = &mut closed => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.take(stream, connections.watcher()),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "no connection can be taken");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
        // Those that are connected already are served too.
        while let Some(Ok((stream, _))) = self.listener.accept().now_or_never() {
            self.take(stream, connections.watcher());
        }
        drop(self.listener);
        connections.shutdown().await;
    }

    fn take(&self, stream: TcpStream, watcher: Watcher) {
        // Answers are small and wanted at once.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(self.router.clone());
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(LONGEST_SILENCE);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS);
        tokio::spawn(async move {
            let connection = builder
                .serve_connection(TokioIo::new(stream), service)
                .into_owned();
            // A client that breaks off is no concern of anybody's.
            let _ = watcher.watch(connection).await;
        });
    }
}

/// What listens where.
impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)
    }
}

/// Has a client of HTTP/1 make its next request elsewhere. HTTP/2 has its own way to say so.
async fn say_farewell(State(stopping): State<Stopping>, request: Request, next: Next) -> Response {
    let is_http_1 = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    if is_http_1 && stopping.is_stopping() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
