//! Bounds for each request: how long it may take to arrive, and how much of it the server holds.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::timeout;
use tonic::{Code, Status};
use tower::{BoxError, ServiceExt};

use super::activity::{Activity, InFlight, Stage, TooMuch};
use super::shutdown::Stopping;
use crate::http::Problem;

const TOO_MUCH: &str = "the requests in flight on this connection are too large together: wait for \
                        answers, or use more connections";

const TOO_SLOW: &str = "the request was not complete, or not answered, within the deadline";

/// Serves the requests of one connection.
pub(super) struct Bounded {
    pub(super) router: Router,
    pub(super) activity: Arc<Activity>,
    pub(super) deadline: Duration,
    pub(super) stopping: Stopping,
}

impl hyper::service::Service<Request<Incoming>> for Bounded {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (router, deadline) = (self.router.clone(), self.deadline);
        let stopping = self.stopping.clone();
        let (version, is_grpc) = (request.version(), is_grpc(request.headers()));
        let in_flight = self.activity.begin(version, head_size(&request));
        Box::pin(async move {
            let mut response = match in_flight {
                Ok(in_flight) => answer(router, request, in_flight, deadline, is_grpc).await,
                Err(TooMuch) => too_much(is_grpc),
            };
            // HTTP/2 has GOAWAY for this.
            if version < Version::HTTP_2 && stopping.leaving().is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response)
        })
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    in_flight: InFlight,
    deadline: Duration,
    is_grpc: bool,
) -> Response<Body> {
    let in_flight = Arc::new(in_flight);
    if request.body().is_end_stream() {
        in_flight.reach(Stage::Working);
    }
    let request = request.map(|body| {
        Body::new(Held {
            body,
            in_flight: Arc::clone(&in_flight),
        })
    });
    let response = match timeout(deadline, router.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Err(_) if is_grpc => Status::deadline_exceeded(TOO_SLOW).into_http(),
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, TOO_SLOW).into_response(),
    };
    in_flight.reach(Stage::Sending);
    let length = response.body().size_hint().lower();
    let response = match in_flight.hold_response(usize::try_from(length).unwrap_or(usize::MAX)) {
        Ok(()) => response,
        Err(TooMuch) => too_much(is_grpc),
    };
    response.map(|body| Body::new(Sent { body, in_flight }))
}

fn too_much(is_grpc: bool) -> Response<Body> {
    match is_grpc {
        true => Status::resource_exhausted(TOO_MUCH).into_http(),
        false => Problem::new(StatusCode::SERVICE_UNAVAILABLE, TOO_MUCH).into_response(),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The memory of a request's head, about. A header takes a slot of the map even if it is empty.
fn head_size(request: &Request<Incoming>) -> usize {
    const SLOT: usize = 128;
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + SLOT);
    let path = request.uri().path_and_query();
    let path = path.map_or("", |path| path.as_str());
    // Streams of messages have buffers from their beginning.
    let stream = match path.starts_with("/grpc.reflection.") {
        true => 16 * 1024,
        false => 0,
    };
    path.len() + stream + headers.sum::<usize>()
}

/// The memory of a part of a body beside its bytes.
const CHUNK: usize = 64;

/// A request's body, whose bytes count as held until the response is sent.
struct Held {
    body: Incoming,
    in_flight: Arc<InFlight>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let data = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.data_ref());
        let size = data.map_or(0, |data| data.len() + CHUNK);
        if self.in_flight.hold(size).is_err() {
            // As tonic's own error, so that gRPC clients are told its code.
            let status = Status::new(Code::ResourceExhausted, TOO_MUCH);
            return Poll::Ready(Some(Err(status.into())));
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.in_flight.reach(Stage::Working);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body, which keeps the request in flight until it is sent.
struct Sent {
    body: Body,
    #[expect(dead_code, reason = "dropped with the body")]
    in_flight: Arc<InFlight>,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
