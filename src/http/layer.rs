use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use tower_layer::Layer;

use super::config::Config;
use super::header::ResponseHeaders;
use super::rejection::Rejection;
use super::service::RateLimit;
use crate::identity::{Identifier, Identify, Identity};
use crate::limiter::{FailureStrategy, Limiter};
use crate::quota::{Limits, Scope};

/// Rate-limits a service: one line for most applications.
///
/// ```
/// use std::net::SocketAddr;
/// use axum::{Router, routing::get};
/// use tollgate::{LocalStore, Quota, RateLimitLayer};
///
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(RateLimitLayer::new(Quota::per_second(5).burst(10), LocalStore::new()));
///
/// // The limit is per client address, which the server must tell:
/// let service = app.into_make_service_with_connect_info::<SocketAddr>();
/// ```
///
/// A layer decides who is asking by [`UserOrIp`](crate::UserOrIp), charges each request 1, and
/// answers a denied one with 429, unless it is told otherwise by its methods. It is applied to a
/// service by tower's or axum's `layer`; applied to several, they share its counts.
///
/// Without a peer address every request is answered with a 500, which is the most common mistake:
/// serve with `into_make_service_with_connect_info`, insert a [`PeerAddr`](crate::PeerAddr) with
/// servers other than axum's, and in tests add axum's `MockConnectInfo(SocketAddr)` as the outermost
/// layer. Debug builds say so in the response's body, the log says it once for each layer, and
/// `rate_limit_unidentified_total` counts such requests.
///
/// # Shared counts
///
/// Counts are told apart by scope, policy, quota and identity. Two layers on one store with the same
/// of all of these share a count, even through two limiters. A warning says so, once. A layer that
/// a request passes twice, for instance as a layer of the router and of a route, charges it twice;
/// debug builds warn of that, once.
#[derive(Clone)]
pub struct RateLimitLayer {
    config: Arc<Config>,
}

impl RateLimitLayer {
    /// A layer that enforces `limits` (a [`Quota`](crate::Quota) or [`Limits`]) with counts in
    /// `limiter` (a store or a [`Limiter`]).
    pub fn new(limits: impl Into<Limits>, limiter: impl Into<Limiter>) -> Self {
        Self {
            config: Arc::new(Config::new(limits.into(), limiter.into())),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// How to tell who is asking: [`UserOrIp`](crate::UserOrIp) unless set.
    #[must_use]
    pub fn identify_by(self, identify: impl Identify) -> Self {
        self.with(|config| config.identifier = Identifier::new(identify))
    }

    /// Limits for each request: by route, by the identity's plan. `None` stands for the layer's.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tollgate::{Identity, Limits, LocalStore, Quota, RateLimitLayer};
    ///
    /// let members = Limits::from(Quota::per_minute(600));
    /// RateLimitLayer::new(Quota::per_minute(60), LocalStore::new())
    ///     .limits_for(move |_: &Parts, identity: &Identity| {
    ///         (identity.kind() == "user").then(|| members.clone())
    ///     });
    /// ```
    #[must_use]
    pub fn limits_for(
        self,
        limits_for: impl Fn(&Parts, &Identity) -> Option<Limits> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.limits_for = Some(Arc::new(limits_for)))
    }

    /// What a request costs: 1 unless set. A request of cost 0 is let through uncharged.
    #[must_use]
    pub fn cost_for(self, cost_for: impl Fn(&Parts) -> u32 + Send + Sync + 'static) -> Self {
        self.with(|config| config.cost_for = Some(Arc::new(cost_for)))
    }

    /// Which requests are exempt: neither counted nor identified, their responses untouched.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.skip = Some(Arc::new(skip)))
    }

    /// Whose counts these are: layers with different scopes never share. `default` unless set.
    ///
    /// # Panics
    ///
    /// If the name is not one to 64 ASCII letters, digits, `.`, `_` and `-`. For a name from a
    /// configuration, use [`Scope::new`] and [`in_scope`](RateLimitLayer::in_scope).
    #[must_use]
    pub fn scope(self, name: &str) -> Self {
        match Scope::new(name) {
            Ok(scope) => self.in_scope(scope),
            Err(error) => panic!("{error}"),
        }
    }

    /// Whose counts these are, by a scope made before.
    #[must_use]
    pub fn in_scope(self, scope: Scope) -> Self {
        self.with(|config| config.scope = scope)
    }

    /// What to do when the store does not decide: the limiter's own strategy unless set.
    #[must_use]
    pub fn failure_strategy(self, strategy: FailureStrategy) -> Self {
        self.with(|config| config.limiter = config.limiter.clone().failure_strategy(strategy))
    }

    /// Which headers to add to responses: [`ResponseHeaders::x_rate_limit`] unless set.
    #[must_use]
    pub fn headers(self, headers: ResponseHeaders) -> Self {
        self.with(|config| config.headers = headers)
    }

    /// Makes another response to denied requests. `Retry-After` and `Cache-Control` are added to
    /// it unless it has them; the headers of [`headers`](RateLimitLayer::headers) are the layer's
    /// in any case.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::Response;
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// RateLimitLayer::new(Quota::per_second(5), LocalStore::new()).on_reject(|rejection| {
    ///     let mut response = Response::new(Bytes::from_static(b"easy now"));
    ///     *response.status_mut() = rejection.status();
    ///     response
    /// });
    /// ```
    #[must_use]
    pub fn on_reject(
        self,
        on_reject: impl Fn(&Rejection<'_>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.with(|config| config.on_reject = Some(Arc::new(on_reject)))
    }

    /// The status of a response that [`FailureStrategy::Closed`] refuses: 429 unless set. Another
    /// choice is 503.
    #[must_use]
    pub fn refused_status(self, status: StatusCode) -> Self {
        self.with(|config| config.set_refused_status(status))
    }

    /// The status of the response to a request without an identity: 500 unless set.
    #[must_use]
    pub fn unidentified_status(self, status: StatusCode) -> Self {
        self.with(|config| config.unidentified_status = status)
    }

    /// Whether gRPC calls are rejected as gRPC clients expect: true unless set.
    ///
    /// A POST of `application/grpc` over HTTP/2, or of gRPC-Web's content types, is then answered with
    /// 200 and `grpc-status` instead of a 429 with a problem+json.
    #[must_use]
    pub fn grpc_responses(self, grpc_responses: bool) -> Self {
        self.with(|config| config.grpc_responses = grpc_responses)
    }

    /// Decides, counts and reports, but never rejects: to try limits out.
    ///
    /// A response that would have been a rejection has the header `X-RateLimit-Shadow: true`, and
    /// `rate_limit_shadow_blocked_total` counts it. The other headers are there to see, unless
    /// another layer, which does enforce its limits, has numbers to tell.
    #[must_use]
    pub fn shadow(self, shadow: bool) -> Self {
        self.with(|config| config.limiter = config.limiter.clone().shadow(shadow))
    }

    /// Puts the [`Decision<'static>`](crate::Decision) into the extensions of each request that
    /// passes, for handlers to read.
    #[must_use]
    pub fn expose_decision(self, expose: bool) -> Self {
        self.with(|config| config.expose_decision = expose)
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        self.config.claim_counts();
        RateLimit::new(inner, self.config.clone())
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("limits", self.config.fixed.limits())
            .field("scope", &self.config.scope.as_str())
            .field("limiter", &self.config.limiter)
            .field("headers", &self.config.headers)
            .finish_non_exhaustive()
    }
}
