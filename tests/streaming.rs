//! The layer passes bodies through unchanged, frame by frame, and does not disturb upgrades.

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::routing::any;
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{self, Message};
use tollgate::test_util::{Behavior, ProgrammableStore};
use tollgate::{Limiter, LocalStore, Quota, RateLimitLayer, UserId};
use tower::{Layer, ServiceExt, service_fn};

use support::{TestError, header, stores};

type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, TestError>> + Send>>;

/// A body whose frames are sent through a channel. It ends when the sender is dropped.
type Channel = StreamBody<Frames>;
type Sender = mpsc::Sender<Result<Frame<Bytes>, TestError>>;

fn channel() -> (Sender, Channel) {
    let (sender, mut receiver) = mpsc::channel(1);
    let frames = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    (sender, StreamBody::new(Box::pin(frames)))
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("42"));
    trailers.append("checksum", HeaderValue::from_static("43"));
    trailers
}

fn request<B>(body: B) -> Request<B> {
    let mut request = Request::new(body);
    request.extensions_mut().insert(UserId::new("alice"));
    request
}

/// Responds with the body of the request.
async fn echo(request: Request<Channel>) -> Result<Response<Channel>, Infallible> {
    Ok(Response::new(request.into_body()))
}

#[tokio::test(start_paused = true)]
async fn bodies_stream_through_frame_by_frame() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(10), store);
        let (sender, body) = channel();
        let Ok(response) = layer.layer(service_fn(echo)).oneshot(request(body)).await;
        assert_eq!(header(&response, "x-ratelimit-remaining"), Some("9"));

        let mut body = response.into_body();
        for text in ["one", "two", "three"] {
            assert!(!body.is_end_stream());
            assert!(body.frame().now_or_never().is_none(), "no frame was sent");
            sender.send(Ok(Frame::data(text.into()))).await.unwrap();
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), text);
        }
        sender.send(Ok(Frame::trailers(trailers()))).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers());
        drop(sender);
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn body_errors_pass_unchanged() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(10), store);
        let (sender, body) = channel();
        let Ok(response) = layer.layer(service_fn(echo)).oneshot(request(body)).await;
        let mut body = response.into_body();
        sender.send(Ok(Frame::data("one".into()))).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        sender.send(Err(TestError(1))).await.unwrap();
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(*error.downcast::<TestError>().unwrap(), TestError(1));
    }
}

#[tokio::test(start_paused = true)]
async fn denied_request_body_is_dropped_unread() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(1), store);
        for denied in [false, true] {
            let (sender, body) = channel();
            sender.send(Ok(Frame::data("one".into()))).await.unwrap();
            let Ok(response) = layer.layer(service_fn(echo)).oneshot(request(body)).await;
            assert_eq!(response.status() == StatusCode::TOO_MANY_REQUESTS, denied);
            assert_eq!(
                sender.is_closed(),
                denied,
                "a denied request's body is dropped"
            );
        }
    }
}

/// A body with a size hint that no rejection has, and without any frame.
#[derive(Clone, Copy, Debug)]
struct Hinted {
    ended: bool,
}

impl Body for Hinted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(3);
        hint.set_upper(9);
        hint
    }
}

#[tokio::test(start_paused = true)]
async fn size_hint_and_end_of_a_body_pass_unchanged() {
    for store in stores() {
        let layer = RateLimitLayer::new(Quota::per_day(10), store);
        for ended in [false, true] {
            let service = service_fn(async |request: Request<Hinted>| {
                let body = request.into_body();
                assert_eq!(body.size_hint().upper(), Some(9));
                Ok::<_, Infallible>(Response::new(body))
            });
            let Ok(response) = layer
                .layer(service)
                .oneshot(request(Hinted { ended }))
                .await;
            let body = response.into_body();
            assert_eq!(body.is_end_stream(), ended);
            assert_eq!(body.size_hint().lower(), 3);
            assert_eq!(body.size_hint().upper(), Some(9));
        }
    }
}

#[tokio::test]
async fn rejection_body_is_one_frame() {
    let layer = RateLimitLayer::new(Quota::per_day(1), LocalStore::new());
    for _ in 0..2 {
        let (_, body) = channel();
        let Ok(response) = layer.layer(service_fn(echo)).oneshot(request(body)).await;
        if response.status() == StatusCode::OK {
            continue;
        }
        let mut body = response.into_body();
        let size = body.size_hint().exact().unwrap();
        assert!(!body.is_end_stream());
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().len() as u64, size);
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.frame().await.is_none());
    }
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn websocket_upgrade_is_charged_once() {
    let store = ProgrammableStore::new();
    let limiter = Limiter::builder(store.clone())
        .deadline(Duration::from_secs(60))
        .build();
    let app = Router::new()
        .route(
            "/",
            any(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo_messages)),
        )
        .layer(RateLimitLayer::new(Quota::per_day(2), limiter));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async { axum::serve(listener, service).await });

    for (behavior, remaining) in [
        (Behavior::Answer, "1"),
        (Behavior::AnswerAfter(Duration::from_millis(1)), "0"),
    ] {
        store.behave(behavior);
        let (mut socket, response) = connect_async(&url).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(header(&response, "x-ratelimit-limit"), Some("2"));
        assert_eq!(header(&response, "x-ratelimit-remaining"), Some(remaining));
        for message in ["one", "two", "three", "four"] {
            socket.send(Message::text(message)).await.unwrap();
            let echoed = socket.next().await.unwrap().unwrap();
            assert_eq!(echoed, Message::text(message));
        }
        socket.close(None).await.unwrap();
    }

    let error = connect_async(&url).await.unwrap_err();
    let tungstenite::Error::Http(response) = error else {
        panic!("not an HTTP response: {error}");
    };
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(header(&response, "retry-after").is_some());
    assert_eq!(store.calls(), 3);
    server.abort();
}
