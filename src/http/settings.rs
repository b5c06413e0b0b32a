use std::sync::Arc;

use http::StatusCode;

use super::header::ResponseHeaders;
use super::rejection_body::RejectionBody;
use super::templates::{Templates, reduced_capacity};
use crate::limiter::Decision;
use crate::quota::Limits;

/// A layer's settings for responses.
#[derive(Clone)]
pub(super) struct ResponseSettings {
    pub(super) templates: Arc<Templates>,
    pub(super) headers: ResponseHeaders,
    refused_status: StatusCode,
    refused_body: Arc<RejectionBody>,
    pub(super) unidentified_status: StatusCode,
    pub(super) grpc_responses: bool,
}

impl ResponseSettings {
    pub(super) fn new(limits: Limits) -> Self {
        const REFUSED: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        Self {
            templates: Arc::new(Templates::new(limits)),
            headers: ResponseHeaders::default(),
            refused_status: REFUSED,
            refused_body: Arc::new(reduced_capacity(REFUSED)),
            unidentified_status: StatusCode::INTERNAL_SERVER_ERROR,
            grpc_responses: true,
        }
    }

    pub(super) fn set_refused_status(&mut self, status: StatusCode) {
        self.refused_status = status;
        self.refused_body = Arc::new(reduced_capacity(status));
    }

    /// Returns the status of a rejection.
    pub(super) fn status(&self, decision: &Decision<'_>) -> StatusCode {
        match decision.is_refused() {
            true => self.refused_status,
            false => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Returns the body of a rejection.
    pub(super) fn body(&self, decision: &Decision<'_>) -> RejectionBody {
        match decision.is_refused() {
            true => self.refused_body.share(),
            false => self.templates.quota_exceeded(decision),
        }
    }
}
