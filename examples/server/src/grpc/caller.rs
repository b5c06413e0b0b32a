//! The caller of a gRPC method, which is authenticated before its message is read.

use tonic::{Request, Status};

use super::refused::refused;
use crate::authentication::Caller;
use crate::decide::Refusal;

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
