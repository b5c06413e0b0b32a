//! The steps around a call of a gRPC service: reading and authenticating its request, and
//! converting its error.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Request, Status};
use tower::Service;

use crate::authentication::Principal;
use crate::error::{ApiError, ApiErrorKind};

/// The maximum size of a request message, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// Bytes before a message: its compression flag and its length.
const MESSAGE_PREFIX: usize = 5;

/// Calls the inner service once the request has arrived completely. tonic allocates 8 KiB for each
/// call, which must not happen for incomplete requests.
#[derive(Clone, Debug)]
pub(super) struct CollectBody<S>(pub(super) S);

impl<S: NamedService> NamedService for CollectBody<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for CollectBody<S>
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
        // The clone may not be ready, so this call takes the service that was polled ready.
        let clone = self.0.clone();
        let mut service = mem::replace(&mut self.0, clone);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = Limited::new(body, MESSAGE_PREFIX + MAX_MESSAGE)
                .collect()
                .await;
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

/// Returns the `authorization` metadata of a call.
pub(super) fn authorization<T>(request: &Request<T>) -> Option<&str> {
    let header = request.metadata().get("authorization")?;
    // A value that is not ASCII contains no valid token.
    Some(header.to_str().unwrap_or_default())
}

/// Adds the authenticated principal to the extensions of a request.
pub(super) fn with_principal(
    mut request: Request<()>,
    principal: Result<Principal, ApiError>,
) -> Result<Request<()>, Status> {
    let principal = principal.map_err(|error| error_status(&error))?;
    request.extensions_mut().insert(principal);
    Ok(request)
}

/// Returns the principal that [`with_principal`] added, and the message.
pub(super) fn into_parts<T>(mut request: Request<T>) -> Result<(Principal, T), ApiError> {
    let principal = request.extensions_mut().remove();
    let principal =
        principal.ok_or_else(|| ApiError::unauthenticated("the caller is not authenticated"))?;
    Ok((principal, request.into_inner()))
}

/// Converts an error.
pub(super) fn error_status(error: &ApiError) -> Status {
    let code = match error.kind {
        ApiErrorKind::Invalid => Code::InvalidArgument,
        ApiErrorKind::Unauthenticated => Code::Unauthenticated,
        ApiErrorKind::Forbidden => Code::PermissionDenied,
        ApiErrorKind::Unavailable => Code::Unavailable,
    };
    Status::new(code, error.message())
}

/// Converts a duration. No period of a quota is longer than ten years, so the conversion does not
/// fail.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or_default()
}
