//! Who calls by gRPC, and how it is told what is wrong.

use tonic::{Code, Request, Status};

use crate::decide::{Refusal, RefusalKind};

/// The call's `authorization`.
pub(super) fn authorization<T>(request: &Request<T>) -> Option<&str> {
    let header = request.metadata().get("authorization")?;
    // What is no text is no token either.
    Some(header.to_str().unwrap_or_default())
}

pub(super) fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::Unauthenticated => Code::Unauthenticated,
        RefusalKind::Forbidden => Code::PermissionDenied,
        RefusalKind::Unavailable => Code::Unavailable,
    };
    Status::new(code, refusal.sentence())
}
