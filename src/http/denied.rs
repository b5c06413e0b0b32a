use http::header::CACHE_CONTROL;
use http::{Response, StatusCode};

use super::header::ResponseHeaders;
use super::rejection::problem_response;
use super::rejection_body::RejectionBody;
use super::templates::{NO_STORE, quota_exceeded, reduced_capacity};
use crate::limiter::Denied;

impl Denied {
    /// Returns the response to a request whose check was denied: a 429 like the default rejection of a
    /// [`RateLimitLayer`](crate::RateLimitLayer), with its headers and its problem+json body.
    ///
    /// With the feature `axum`, `Denied` implements `IntoResponse`, so that a handler can return it:
    ///
    #[cfg_attr(feature = "axum", doc = "```")]
    #[cfg_attr(not(feature = "axum"), doc = "```ignore")]
    /// use axum::extract::State;
    /// use tollgate::{Check, Denied, Identity, Limiter, Limits};
    ///
    /// async fn send_mail(State((limiter, limits)): State<(Limiter, Limits)>) -> Result<(), Denied> {
    ///     let sender = Identity::user("42");
    ///     limiter.check(&Check::new(&sender, &limits)).await.into_result()?;
    ///     // Send the mail here.
    ///     Ok(())
    /// }
    /// # axum::Router::new().route("/mail", axum::routing::post(send_mail));
    /// ```
    pub fn response(&self) -> Response<RejectionBody> {
        const STATUS: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        let decision = self.decision();
        let body = match decision.is_refused() {
            true => reduced_capacity(STATUS),
            false => quota_exceeded(decision.violated()),
        };
        let mut response = problem_response(STATUS, body);
        response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
        ResponseHeaders::default().write(decision, response.headers_mut());
        response
    }
}

/// Responds with [`Denied::response`].
#[cfg(feature = "axum")]
impl axum::response::IntoResponse for Denied {
    fn into_response(self) -> axum::response::Response {
        self.response().map(axum::body::Body::new)
    }
}
