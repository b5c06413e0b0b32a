//! Reads requests completely before a gRPC service is called.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::router::MAX_MESSAGE;

/// Bytes before a message: its compression and its length.
const PREFIX: usize = 5;

/// A service that is called once a request has arrived completely. tonic allocates 8 KiB for each call,
/// which an unfinished request must not cost.
#[derive(Clone, Debug)]
pub(super) struct Collected<S>(pub(super) S);

impl<S: NamedService> NamedService for Collected<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Collected<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone may not be ready, so the request takes the service that is.
        let clone = self.0.clone();
        let mut service = mem::replace(&mut self.0, clone);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = Limited::new(body, PREFIX + MAX_MESSAGE).collect().await;
            let body = match body {
                Ok(body) => Body::new(Full::new(body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => {
                    let problem = format!("a message has at most {MAX_MESSAGE} bytes");
                    return Ok(Status::out_of_range(problem).into_http());
                }
                Err(error) => return Ok(Status::from_error(error).into_http()),
            };
            service.call(Request::from_parts(head, body)).await
        })
    }
}
