//! An outer layer may replace the body of a rejection and keep its headers: the client reads
//! exactly the new body, and the next response on the same connection is intact.
//!
//! `tests/run` runs this test twice. With its debug assertions hyper panics on a wrong
//! `Content-Length`; without them, as in a release build, hyper sends it.

mod support;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{
    FailureStrategy, LocalStore, PeerAddr, Quota, RateLimitLayer, ResponseBody, ResponseHeaders,
    StoreErrorKind,
};
use tower::{ServiceExt, service_fn};

use support::{Request, header, send, text};

/// The frames of the new body, by the path of the request.
const REPLACED: [(&str, &[&str]); 4] = [
    ("/empty", &[]),
    ("/shorter", &["slow down"]),
    ("/longer", &[LONGER]),
    ("/streamed", &["slow ", "down, ", "please"]),
];

/// A path whose response keeps the body of the rejection.
const KEPT: &str = "/kept";

const LONGER: &str = match str::from_utf8(&[b'.'; 1_000]) {
    Ok(text) => text,
    Err(_) => panic!("dots are UTF-8"),
};

/// Headers that describe a body, and would be wrong for its replacement.
const BODY_HEADERS: [&str; 9] = [
    "accept-ranges",
    "content-digest",
    "content-encoding",
    "content-length",
    "content-range",
    "digest",
    "etag",
    "trailer",
    "transfer-encoding",
];

/// A kind of rejection, and the request and layer that produce it.
#[derive(Clone)]
struct Rejection {
    kind: &'static str,
    layer: RateLimitLayer,
    status: u16,
    content_type: Option<&'static str>,
    has_peer: bool,
}

impl Rejection {
    fn request(&self, uri: &str) -> Request {
        let mut request = Request::default();
        *request.uri_mut() = uri.parse().unwrap();
        if let Some(content_type) = self.content_type {
            *request.method_mut() = Method::POST;
            let content_type = HeaderValue::from_static(content_type);
            request.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        request
    }

    /// Sends a request through the layer, with the extensions that a server would add.
    async fn send(&self, mut request: Request) -> Response<ResponseBody<Body>> {
        if self.content_type == Some("application/grpc") {
            *request.version_mut() = Version::HTTP_2;
        }
        if self.has_peer {
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
            request.extensions_mut().insert(PeerAddr(peer));
        }
        send(&self.layer, request).await
    }
}

/// Returns every kind of rejection, for HTTP/1.1 and for HTTP/2.
async fn rejections() -> [Vec<Rejection>; 2] {
    let layer = RateLimitLayer::new(Quota::per_day(1), LocalStore::new());
    let failing = ProgrammableStore::new();
    failing.behave(Behavior::Fail(StoreErrorKind::Unavailable));
    let refusing =
        RateLimitLayer::new(Quota::per_day(1), failing).failure_strategy(FailureStrategy::Closed);
    let denied = |kind, layer: &RateLimitLayer| Rejection {
        kind,
        layer: layer.clone(),
        status: 429,
        content_type: None,
        has_peer: true,
    };
    let grpc = |kind, content_type| Rejection {
        status: 200,
        content_type: Some(content_type),
        ..denied(kind, &layer)
    };
    let ietf = layer
        .clone()
        .headers(ResponseHeaders::x_rate_limit().and_ietf());
    let on_reject = layer.clone().on_reject(|rejection| rejection.response());
    let first = denied("none", &layer).send(Request::default()).await;
    assert_eq!(
        first.status(),
        200,
        "the limit is reached after one request"
    );

    let unidentified = Rejection {
        status: 500,
        has_peer: false,
        ..denied("unidentified", &layer)
    };
    let common = [
        denied("denied", &layer),
        denied("denied with IETF headers", &ietf),
        denied("denied by on_reject", &on_reject),
        denied("refused", &refusing),
        unidentified,
    ];
    [
        grpc("denied gRPC-Web", "application/grpc-web+proto"),
        grpc("denied gRPC", "application/grpc"),
    ]
    .map(|grpc| common.iter().cloned().chain([grpc]).collect())
}

/// Replaces the body if the path is in [`REPLACED`]. Several frames become a stream of unknown
/// length.
fn replace(response: Response<ResponseBody<Body>>, path: &str) -> Response<Body> {
    let replaced = REPLACED.iter().find(|(replaced, _)| *replaced == path);
    response.map(|kept| match replaced {
        None => Body::new(kept),
        Some((_, [])) => Body::empty(),
        Some((_, [whole])) => Body::from(*whole),
        Some((_, frames)) => Body::from_stream(stream::iter(
            frames
                .iter()
                .map(|frame| Ok::<_, Infallible>(Bytes::from_static(frame.as_bytes()))),
        )),
    })
}

/// Serves one connection through an outer layer that replaces bodies.
async fn serve(listener: TcpListener, rejection: Rejection) {
    let (stream, _) = listener.accept().await.unwrap();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let rejection = rejection.clone();
        async move {
            let path = request.uri().path().to_owned();
            service_fn(|request| rejection.send(request).map(Ok::<_, Infallible>))
                .map_response(|response| replace(response, &path))
                .oneshot(request.map(|_| Empty::new()))
                .await
        }
    });
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    served.unwrap();
}

enum Client {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn http1(stream: TcpStream) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    async fn http2(stream: TcpStream) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    async fn send(&mut self, request: Request) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// For each rejection, reads every new body, each followed by the original body, on one connection.
async fn read_all(rejections: Vec<Rejection>, connect: impl AsyncFn(TcpStream) -> Client) {
    for rejection in rejections {
        let kind = rejection.kind;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, rejection.clone()));
        let mut client = connect(TcpStream::connect(address).await.unwrap()).await;
        let kept = text(rejection.send(rejection.request(KEPT)).await).await;
        for (path, frames) in REPLACED {
            for (path, body) in [(path, frames.concat()), (KEPT, kept.clone())] {
                let request = rejection.request(&format!("http://{address}{path}"));
                let response = client.send(request).await;
                let response = response.unwrap_or_else(|error| panic!("{kind}, {path}: {error:?}"));
                assert_eq!(response.status(), rejection.status, "{kind}, {path}");
                // Compared before the body is read, since the client would wait forever for missing
                // bytes.
                if let Some(length) = header(&response, "content-length") {
                    assert_eq!(length, body.len().to_string(), "{kind}, {path}");
                }
                assert_eq!(text(response).await, body, "{kind}, {path}");
            }
        }
        drop(client);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn replaced_bodies_arrive_intact_over_http1() {
    let [http1, _] = rejections().await;
    read_all(http1, Client::http1).await;
}

#[tokio::test]
async fn replaced_bodies_arrive_intact_over_http2() {
    let [_, http2] = rejections().await;
    read_all(http2, Client::http2).await;
}

#[tokio::test]
async fn rejections_have_no_headers_about_their_body() {
    for rejection in rejections().await.concat() {
        let response = rejection.send(rejection.request(KEPT)).await;
        assert_eq!(response.status(), rejection.status, "{}", rejection.kind);
        for name in BODY_HEADERS {
            assert_eq!(header(&response, name), None, "{}: {name}", rejection.kind);
        }
    }
}
