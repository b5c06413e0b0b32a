//! Refusals as gRPC statuses.

use tonic::{Code, Status};

use crate::decide::{Refusal, RefusalKind};

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
