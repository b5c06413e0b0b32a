//! The steps of a gRPC call around its service: the request is read and its caller authenticated before,
//! and a refusal becomes a status after it.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Request, Status};
use tower::Service;

use crate::authentication::Caller;
use crate::error::{Refusal, RefusalKind};

/// The longest message of a request, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// Bytes before a message: its compression and its length.
const PREFIX: usize = 5;

/// A service that is called once a request has arrived completely. tonic allocates 8 KiB for each call,
/// which an unfinished request must not cost.
#[derive(Clone, Debug)]
pub(super) struct Collected<S>(pub(super) S);

impl<S: NamedService> NamedService for Collected<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Collected<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
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
            service.call(http::Request::from_parts(head, body)).await
        })
    }
}

/// The call's `authorization`.
pub(super) fn authorization<T>(request: &Request<T>) -> Option<&str> {
    let header = request.metadata().get("authorization")?;
    // A header that is not text holds no token.
    Some(header.to_str().unwrap_or_default())
}

/// Adds the authenticated caller to the call.
pub(super) fn with_caller(
    mut request: Request<()>,
    caller: Result<Caller, Refusal>,
) -> Result<Request<()>, Status> {
    let caller = caller.map_err(|refusal| refused(&refusal))?;
    request.extensions_mut().insert(caller);
    Ok(request)
}

/// The caller that [`with_caller`] added, and the message.
pub(super) fn into_parts<T>(mut request: Request<T>) -> Result<(Caller, T), Refusal> {
    let caller = request.extensions_mut().remove();
    let caller = caller.ok_or_else(|| Refusal::unauthenticated("the caller is unknown"))?;
    Ok((caller, request.into_inner()))
}

/// The status that tells a client of a refusal.
pub(super) fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::Unauthenticated => Code::Unauthenticated,
        RefusalKind::Forbidden => Code::PermissionDenied,
        RefusalKind::Unavailable => Code::Unavailable,
    };
    Status::new(code, refusal.sentence())
}
