//! Serves one request, within its deadline and the memory limit of its connection.

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

use super::activity::{ConnectionActivity, InFlightRequest, MemoryLimitExceeded, Stage};
use super::shutdown::Shutdown;
use crate::http::Problem;

const MEMORY_EXCEEDED: &str = "the requests in flight on this connection are too large together: wait \
                               for responses, or use more connections";

const DEADLINE_EXCEEDED: &str = "the request was not received and answered within the deadline";

/// Serves the requests of one connection.
pub(super) struct ConnectionService {
    pub(super) router: Router,
    pub(super) activity: Arc<ConnectionActivity>,
    pub(super) deadline: Duration,
    pub(super) shutdown: Shutdown,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (router, deadline) = (self.router.clone(), self.deadline);
        let shutdown = self.shutdown.clone();
        let (version, is_grpc) = (request.version(), is_grpc(request.headers()));
        let in_flight = self.activity.begin_request(version, head_size(&request));
        Box::pin(async move {
            let mut response = match in_flight {
                Ok(in_flight) => respond(router, request, in_flight, deadline, is_grpc).await,
                Err(MemoryLimitExceeded) => memory_exceeded(is_grpc),
            };
            // In HTTP/2, GOAWAY has this purpose.
            if version < Version::HTTP_2 && shutdown.draining().is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response)
        })
    }
}

async fn respond(
    router: Router,
    request: Request<Incoming>,
    in_flight: InFlightRequest,
    deadline: Duration,
    is_grpc: bool,
) -> Response<Body> {
    let in_flight = Arc::new(in_flight);
    if request.body().is_end_stream() {
        in_flight.advance_to(Stage::Working);
    }
    let request = request.map(|body| {
        Body::new(CountedRequestBody {
            body,
            in_flight: Arc::clone(&in_flight),
        })
    });
    let response = match timeout(deadline, router.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Err(_) if is_grpc => Status::deadline_exceeded(DEADLINE_EXCEEDED).into_http(),
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, DEADLINE_EXCEEDED).into_response(),
    };
    in_flight.advance_to(Stage::Sending);
    let length = response.body().size_hint().lower();
    let response = match in_flight.add_response_bytes(usize::try_from(length).unwrap_or(usize::MAX))
    {
        Ok(()) => response,
        Err(MemoryLimitExceeded) => memory_exceeded(is_grpc),
    };
    response.map(|body| Body::new(CountedResponseBody { body, in_flight }))
}

fn memory_exceeded(is_grpc: bool) -> Response<Body> {
    match is_grpc {
        true => Status::resource_exhausted(MEMORY_EXCEEDED).into_http(),
        false => Problem::new(StatusCode::SERVICE_UNAVAILABLE, MEMORY_EXCEEDED).into_response(),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Returns the approximate memory of a request's head, in bytes.
fn head_size(request: &Request<Incoming>) -> usize {
    // The slot of a header in the map.
    const HEADER_OVERHEAD: usize = 128;
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
    let path = request.uri().path_and_query();
    let path = path.map_or("", |path| path.as_str());
    // Reflection calls are streams, which allocate their buffers at once.
    let stream = match path.starts_with("/grpc.reflection.") {
        true => 16 * 1024,
        false => 0,
    };
    path.len() + stream + headers.sum::<usize>()
}

/// The memory of a body's chunk beside its bytes.
const CHUNK_OVERHEAD: usize = 64;

/// The body of a request, whose bytes count until the response is sent.
struct CountedRequestBody {
    body: Incoming,
    in_flight: Arc<InFlightRequest>,
}

impl HttpBody for CountedRequestBody {
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
        let size = data.map_or(0, |data| data.len() + CHUNK_OVERHEAD);
        if self.in_flight.add_request_bytes(size).is_err() {
            // An error of tonic, so that gRPC clients get its code.
            let status = Status::new(Code::ResourceExhausted, MEMORY_EXCEEDED);
            return Poll::Ready(Some(Err(status.into())));
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.in_flight.advance_to(Stage::Working);
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

/// The body of a response, whose request is in flight until the body is sent.
struct CountedResponseBody {
    body: Body,
    #[expect(dead_code, reason = "dropped with the body")]
    in_flight: Arc<InFlightRequest>,
}

impl HttpBody for CountedResponseBody {
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
