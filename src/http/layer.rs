use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "axum")]
use axum::extract::MatchedPath;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, response};
use http_body::Body;
use ipnet::IpNet;
use tower_layer::Layer;

use super::expose::Expose;
use super::handler::Handler;
use super::header::ResponseHeaders;
use super::limits_for::LimitsFor;
use super::rejection::Rejection;
use super::rejection_body::{BoxError, RejectionBody};
use super::request_scopes::{ScopeFor, ScopeName};
#[cfg(feature = "axum")]
use super::route_scope::route_scope;
use super::service::RateLimit;
use crate::identity::{ClientIpError, ExemptNetworks, Identify, Identity, TargetHost};
use crate::limiter::{FailureStrategy, Limiter};
use crate::quota::{Limits, NameError, Scope};

/// A [`RateLimitLayer`] that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store `{store}` cannot settle charges, which the layer needs: implement `Store::can_settle`, `settle` \
     and `renew`, or leave out `charge_if`, `settle_by`, `Expose::charge`, `concurrent` and `reserve`"
)]
pub struct LayerError {
    store: &'static str,
}

/// A layer that rate-limits a service.
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
/// // The limit is per client address, which the server must provide:
/// let service = app.into_make_service_with_connect_info::<SocketAddr>();
/// ```
///
/// Unless its methods change it, a layer identifies clients by [`UserOrIp`](crate::UserOrIp), charges each
/// request a cost of 1, and rejects a denied request with the status 429. A layer is applied to a service
/// with tower's or axum's `layer`. The services of one layer share its counts.
///
/// Without a peer address a layer rejects every request with the status 500. This is the most common
/// mistake. Serve with `into_make_service_with_connect_info`; with servers other than axum's, insert a
/// [`PeerAddr`](crate::PeerAddr); in tests add axum's `MockConnectInfo(SocketAddr)` as the outermost layer.
/// Debug builds give the reason in the response's body, the log has it once for each layer, and
/// `rate_limit_unidentified_total` counts such requests.
///
/// # Waiting
///
/// If a quota has a [queue](crate::Quota::queue), requests that come too early wait for their tokens, for
/// at most [`max_wait`](RateLimitLayer::max_wait). A waiting request holds no readiness of the inner
/// service: a clone is polled ready after the wait and called. A request that is dropped while it waits
/// keeps its place. Waiting needs a Tokio runtime with its timer enabled.
///
/// # Shared counts
///
/// Counts are separate for each scope, policy, quota and identity. Two layers on one store that agree in
/// all of these share a count, even through two limiters. The log warns of that once. A layer that a
/// request passes twice, for instance as a layer of the router and of a route, charges it twice; debug
/// builds log a warning once.
#[derive(Clone)]
pub struct RateLimitLayer {
    handler: Arc<Handler>,
}

impl RateLimitLayer {
    /// Creates a layer that enforces `limits` (a [`Quota`](crate::Quota) or [`Limits`]) with `limiter` (a
    /// store or a [`Limiter`]).
    pub fn new(limits: impl Into<Limits>, limiter: impl Into<Limiter>) -> Self {
        Self {
            handler: Arc::new(Handler::new(limits.into(), limiter.into())),
        }
    }

    /// Creates a layer for a client, that keeps to the limits of the servers that it calls. It counts by
    /// the host of a request's URI, and adds no headers to the servers' responses.
    ///
    /// The host is that of the URI, else of the `Host` header, in lower case, and with its port unless
    /// that is the default of the scheme. Limits with a [queue](crate::Quota::queue) make requests wait.
    /// A request that may not wait gets a response of the status 429 made here, without a call of the
    /// server, whose extensions hold the [`Decision`](crate::Decision): the responses of a server do not
    /// have one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// // Ten calls a second to each host, 100 ms apart. A call waits for up to a minute.
    /// let layer = RateLimitLayer::outgoing(
    ///     Quota::per_second(10).burst(1).queue(600),
    ///     LocalStore::new(),
    /// );
    /// ```
    ///
    /// `burst(1)` spaces the calls evenly: with the default burst, ten calls are made at once and ten more
    /// within the same second. Put the layer inside one that retries, so that each attempt is counted. The
    /// example `outgoing` limits hyper-util's client.
    pub fn outgoing(limits: impl Into<Limits>, limiter: impl Into<Limiter>) -> Self {
        Self::new(limits, limiter)
            .identify_by(TargetHost)
            .with(|handler| handler.is_outgoing = true)
    }

    fn with(mut self, change: impl FnOnce(&mut Handler)) -> Self {
        change(Arc::make_mut(&mut self.handler));
        self
    }

    /// Sets how requests are identified: by [`UserOrIp`](crate::UserOrIp) unless set.
    #[must_use]
    pub fn identify_by(self, identify: impl Identify) -> Self {
        self.with(|handler| handler.identify = Arc::new(identify))
    }

    /// Sets limits for each request, for instance by its route or by the identity's plan. The closure
    /// returns [`Limits`], an `Option` of them, where `None` stands for the layer's limits, or a
    /// [`LimitsFor`], which may be unlimited.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tollgate::{Identity, Limits, LimitsFor, LocalStore, Quota, RateLimitLayer};
    ///
    /// let members = Limits::from(Quota::per_minute(600));
    /// RateLimitLayer::new(Quota::per_minute(60), LocalStore::new())
    ///     .limits_for(move |_: &Parts, identity: &Identity| {
    ///         match (identity.kind(), identity.value().as_deref()) {
    ///             ("user", Some("admin")) => LimitsFor::Unlimited,
    ///             ("user", _) => LimitsFor::Own(members.clone()),
    ///             _ => LimitsFor::Layer,
    ///         }
    ///     });
    /// ```
    #[must_use]
    pub fn limits_for<R: Into<LimitsFor>>(
        self,
        limits_for: impl Fn(&Parts, &Identity) -> R + Send + Sync + 'static,
    ) -> Self {
        let limits_for =
            move |parts: &Parts, identity: &Identity| limits_for(parts, identity).into();
        self.with(|handler| handler.limits_for = Some(Arc::new(limits_for)))
    }

    /// Sets the cost of each request: 1 unless set. A request of cost 0 is allowed without a charge.
    #[must_use]
    pub fn cost_for(self, cost_for: impl Fn(&Parts) -> u32 + Send + Sync + 'static) -> Self {
        self.with(|handler| handler.cost_for = Some(Arc::new(cost_for)))
    }

    /// Sets which requests are exempt. They are neither identified nor charged, and their responses get no
    /// headers.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|handler| handler.skip = Some(Arc::new(skip)))
    }

    /// Sets which identities are exempt. Their requests are not charged, and the responses get no headers.
    ///
    /// ```
    /// use tollgate::{Identity, LocalStore, Quota, RateLimitLayer};
    ///
    /// let monitoring = Identity::user("monitoring");
    /// RateLimitLayer::new(Quota::per_second(5), LocalStore::new())
    ///     .exempt(move |identity| *identity == monitoring);
    /// ```
    #[must_use]
    pub fn exempt(self, exempt: impl Fn(&Identity) -> bool + Send + Sync + 'static) -> Self {
        self.with(|handler| handler.exempt = Some(Arc::new(exempt)))
    }

    /// Sets the networks whose clients are exempt, including verified users. Their requests are neither
    /// identified nor charged, and the responses get no headers.
    ///
    /// The client's address is determined by the [`ClientIp`](crate::ClientIp) of
    /// [`identify_by`](RateLimitLayer::identify_by), before its prefix is cut; it is the peer's address if
    /// requests are identified by a closure.
    ///
    /// A peer in one of the networks is exempt only as a client. If its request has a header that proxies
    /// add, such as `X-Forwarded-For` or `Via`, it is exempt only if the peer is a trusted proxy and the
    /// client's address in the header is in one of the networks. So a proxy that is missing from
    /// [`ClientIp::behind`](crate::ClientIp::behind) does not exempt all of its clients; the log warns of
    /// it once. With [`ClientIp::behind_hops`](crate::ClientIp::behind_hops), every peer is a proxy. A proxy
    /// that adds no header cannot be told from a client: do not exempt its network.
    ///
    /// ```
    /// use tollgate::{ClientIp, LocalStore, Quota, RateLimitLayer, UserOrIp};
    ///
    /// let client_ip = ClientIp::behind(["10.0.0.5/32".parse()?])?;
    /// RateLimitLayer::new(Quota::per_second(5), LocalStore::new())
    ///     .identify_by(UserOrIp::new(client_ip))
    ///     .exempt_networks(["10.8.0.0/16".parse()?])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If an IPv4 network is written as IPv6 with the prefix length that it has in IPv4, such as
    /// `::ffff:10.0.0.0/8`. The error gives the correct form.
    pub fn exempt_networks(
        self,
        networks: impl IntoIterator<Item = IpNet>,
    ) -> Result<Self, ClientIpError> {
        let networks = ExemptNetworks::new(networks)?;
        Ok(self.with(|handler| handler.exempt_networks = Some(networks)))
    }

    /// Sets which responses are charged: all, unless set.
    ///
    /// A request is charged before it is served, and the charge is refunded if `charge_if` returns false.
    /// So parallel requests never exceed the limit, whatever their responses are. A request whose client hangs
    /// up, or whose service fails or panics, stays charged.
    ///
    /// The layer counts with limits of its own: its token buckets [reserve](crate::Quota::reserve_for), for 30
    /// seconds unless set. The charge of a token bucket with a [queue](crate::Quota::queue) is final. The charge is
    /// settled when the response body has ended. `charge_if` does not see trailers.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// // Five wrong passwords in fifteen minutes. 400 and 500 count too, so that no mistake is a free guess.
    /// const LOGIN: Quota = Quota::sliding_window(5, Duration::from_secs(15 * 60));
    /// RateLimitLayer::new(LOGIN, LocalStore::new())
    ///     .scope("login")
    ///     .charge_if(|response| !response.status.is_success());
    /// ```
    ///
    /// # Panics
    ///
    /// If a token bucket cannot be counted exactly with reservations: see the rules of
    /// [`Quota`](crate::Quota).
    #[must_use]
    #[track_caller]
    pub fn charge_if(
        self,
        charge_if: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|handler| {
            handler.response_rules.charge_if = Some(Arc::new(charge_if));
            handler.update_limits();
        })
    }

    /// Sets the cost of each response. If the closure returns `None`, the request stays as it was charged. The
    /// layer calls it for responses that [`charge_if`](RateLimitLayer::charge_if) charges, and settles the
    /// charge when the response body has ended.
    ///
    /// A cost above the charged one is charged in addition, even above the limit: up to one more limit.
    ///
    /// ```
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// // Requests are charged 1,000 tokens, and settled at what the answer says.
    /// RateLimitLayer::new(Quota::per_minute(100_000), LocalStore::new())
    ///     .cost_for(|_| 1_000)
    ///     .settle_by(|response| response.headers.get("x-tokens")?.to_str().ok()?.parse().ok());
    /// ```
    ///
    /// # Panics
    ///
    /// Where `charge_if` does.
    #[must_use]
    #[track_caller]
    pub fn settle_by(
        self,
        settle_by: impl Fn(&response::Parts) -> Option<u32> + Send + Sync + 'static,
    ) -> Self {
        self.with(|handler| {
            handler.response_rules.settle_by = Some(Arc::new(settle_by));
            handler.update_limits();
        })
    }

    /// Sets which responses reset the count of the request's identity, under the policies that count by the
    /// identity itself.
    ///
    /// Use it only if the identity contains the account's name: by the address alone, an attacker logs into
    /// an account of their own between guesses.
    #[must_use]
    pub fn reset_if(
        self,
        reset_if: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|handler| {
            handler.response_rules.reset_if = Some(Arc::new(reset_if));
            handler.update_limits();
        })
    }

    /// Sets the longest wait for a place in a [queue](crate::Quota::queue): as long as the queue is, unless
    /// set. A request that would wait longer is rejected and charged nothing.
    ///
    /// Set it below the timeouts of the service and its clients, since a request that times out while it
    /// waits keeps its place.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// // Requests that come too early wait for up to two seconds.
    /// RateLimitLayer::new(Quota::per_second(10).queue(100), LocalStore::new())
    ///     .max_wait(Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        self.with(|handler| handler.max_wait = wait)
    }

    /// Sets how many requests of the layer may wait at a time, of all identities together: 1,000 unless
    /// set. At that number, a further request that would have to wait is rejected and charged nothing.
    ///
    /// Each waiting request keeps its connection and about a kilobyte of memory, besides its head. A
    /// request whose decision is pending counts as waiting if its limits have a queue.
    #[must_use]
    pub fn most_waiting(self, requests: usize) -> Self {
        self.with(|handler| handler.most_waiting = requests)
    }

    /// Sets the scope of the layer's counts: `default` unless set. Layers with different scopes never share
    /// a count.
    ///
    /// A layer of a single [`Quota`](crate::Quota) shows its policy under the name of the scope, in metrics,
    /// headers and rejections, so that they tell layers apart. Named policies keep their names.
    ///
    /// # Panics
    ///
    /// If the name is not 1 to 64 ASCII letters, digits, `.`, `_` and `-`. For a name from a configuration,
    /// use [`Scope::new`] and [`in_scope`](RateLimitLayer::in_scope).
    #[must_use]
    pub fn scope(self, name: &str) -> Self {
        match Scope::new(name) {
            Ok(scope) => self.in_scope(scope),
            Err(error) => panic!("{error}"),
        }
    }

    /// Sets the scope of the layer's counts to an existing [`Scope`].
    #[must_use]
    pub fn in_scope(self, scope: Scope) -> Self {
        self.with(|handler| handler.set_scope(scope))
    }

    /// Sets the scope of each request, for instance by its tenant or its host. If the closure returns
    /// `None`, the request counts in the layer's scope.
    ///
    /// A request also counts in the layer's scope if the name is not valid for a [`Scope`], or if the layer's
    /// requests have chosen 1,000 other scopes before. The log warns once of each case. A layer of a single
    /// quota shows its policy under the name of the request's scope.
    ///
    /// ```
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// // Each virtual host counts its clients separately.
    /// RateLimitLayer::new(Quota::per_second(5), LocalStore::new())
    ///     .scope_for(|parts| parts.uri.host());
    /// ```
    #[must_use]
    pub fn scope_for(
        self,
        scope_for: impl for<'a> Fn(&'a Parts) -> Option<&'a str> + Send + Sync + 'static,
    ) -> Self {
        self.with_scope_for(Box::new(scope_for), |_, name| Scope::new(name))
    }

    /// Sets the scope of each request to its route, so that each identity has a count for each route.
    ///
    /// The scope of `/users/{id}` is named `users.-id-`, or `api..users.-id-` if the layer's
    /// [scope](RateLimitLayer::scope) is `api`. A longer or less regular path is shortened and gets a digest.
    /// A layer of a single quota shows its policy under this name.
    ///
    /// Apply the layer with `Router::layer` or `Router::route_layer`: a layer around the whole router cannot
    /// know the route. A request without a route counts in the layer's scope. At most 1,000 routes have
    /// scopes of their own.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// let app: Router = Router::new()
    ///     .route("/users/{id}", get(|| async { "a user" }))
    ///     .route("/search", get(|| async { "results" }))
    ///     .layer(RateLimitLayer::new(Quota::per_second(5), LocalStore::new()).scope_by_route());
    /// ```
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn scope_by_route(self) -> Self {
        fn route(parts: &Parts) -> Option<&str> {
            parts.extensions.get().map(MatchedPath::as_str)
        }
        self.with_scope_for(Box::new(route), route_scope)
    }

    fn with_scope_for(
        self,
        name: Box<ScopeName>,
        scope: fn(&Scope, &str) -> Result<Scope, NameError>,
    ) -> Self {
        let scope_for = Arc::new(ScopeFor { name, scope });
        self.with(|handler| handler.set_scope_for(scope_for))
    }

    /// Sets how requests are decided while the store cannot: by the limiter's strategy unless set.
    #[must_use]
    pub fn failure_strategy(self, strategy: FailureStrategy) -> Self {
        self.with(|handler| handler.limiter = handler.limiter.clone().failure_strategy(strategy))
    }

    /// Sets the headers of responses: [`ResponseHeaders::x_rate_limit`] unless set.
    #[must_use]
    pub fn headers(self, headers: ResponseHeaders) -> Self {
        self.with(|handler| handler.responses.headers = headers)
    }

    /// Sets the response to rejected requests: denied, refused or unidentified, as
    /// [`Rejection::reason`] says. Except to an unidentified request, the layer adds `Retry-After` and
    /// `Cache-Control` unless the response has them, and always writes the headers of
    /// [`headers`](RateLimitLayer::headers). The body may have any type, such as `String`,
    /// axum's `Body`, or the [`RejectionBody`](crate::RejectionBody) of
    /// [`Rejection::response`].
    ///
    /// ```
    /// use http::Response;
    /// use tollgate::{LocalStore, Quota, RateLimitLayer};
    ///
    /// RateLimitLayer::new(Quota::per_second(5), LocalStore::new()).on_reject(|rejection| {
    ///     let mut response = Response::new(String::from("easy now"));
    ///     *response.status_mut() = rejection.status();
    ///     response
    /// });
    /// ```
    #[must_use]
    pub fn on_reject<B>(
        self,
        on_reject: impl Fn(&Rejection<'_>) -> Response<B> + Send + Sync + 'static,
    ) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let on_reject =
            move |rejection: &Rejection<'_>| on_reject(rejection).map(RejectionBody::new);
        self.with(|handler| handler.on_reject = Some(Arc::new(on_reject)))
    }

    /// Sets the status of responses to requests that [`FailureStrategy::Closed`] refuses: 429 unless set.
    /// The usual alternative is 503.
    #[must_use]
    pub fn refused_status(self, status: StatusCode) -> Self {
        self.with(|handler| handler.responses.set_refused_status(status))
    }

    /// Sets the status of responses to requests without an identity: 500 unless set.
    #[must_use]
    pub fn unidentified_status(self, status: StatusCode) -> Self {
        self.with(|handler| handler.responses.unidentified_status = status)
    }

    /// Sets whether gRPC calls are rejected with a gRPC status: true unless set.
    ///
    /// The response to a POST of `application/grpc` over HTTP/2, or of gRPC-Web's content types, then has
    /// the status 200 and a `grpc-status`, instead of the status 429 and a problem+json body.
    #[must_use]
    pub fn grpc_responses(self, grpc_responses: bool) -> Self {
        self.with(|handler| handler.responses.grpc_responses = grpc_responses)
    }

    /// Sets whether the layer only observes: in shadow mode it decides and counts, but never rejects. False
    /// unless set.
    ///
    /// The response to a request that would have been rejected has the header `X-RateLimit-Shadow: true`,
    /// and `rate_limit_shadow_blocked_total` counts it. The response also has the headers of an allowed
    /// one, unless an enforcing layer sends its own.
    #[must_use]
    pub fn shadow(self, shadow: bool) -> Self {
        self.with(|handler| handler.limiter = handler.limiter.clone().shadow(shadow))
    }

    /// Returns an error if the store cannot do what the layer needs. Applying the layer to a service panics
    /// with the same text.
    ///
    /// # Errors
    ///
    /// If the layer settles charges, or its limits [reserve](crate::Quota::reserve_for), and the store is one
    /// that [cannot settle](crate::Store::can_settle).
    pub fn validate(&self) -> Result<(), LayerError> {
        match self.handler.needs_settlement() && !self.handler.limiter.can_settle() {
            true => Err(LayerError {
                store: self.handler.limiter.store_name(),
            }),
            false => Ok(()),
        }
    }

    /// Sets which values the layer inserts into the extensions of each allowed request, for handlers to read.
    /// The default is [`Expose::new`], which selects nothing. If two stacked layers expose a value, handlers
    /// read that of the inner layer.
    ///
    /// # Panics
    ///
    /// With [`Expose::charge`], where [`charge_if`](RateLimitLayer::charge_if) does.
    #[must_use]
    #[track_caller]
    pub fn expose(self, expose: Expose) -> Self {
        self.with(|handler| {
            handler.expose = expose;
            handler.update_limits();
        })
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    /// # Panics
    ///
    /// Where [`validate`](RateLimitLayer::validate) returns an error.
    #[track_caller]
    fn layer(&self, inner: S) -> RateLimit<S> {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        self.handler.register();
        RateLimit::new(inner, self.handler.clone())
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("limits", self.handler.responses.templates.limits())
            .field("scope", &self.handler.scope().as_str())
            .field("limiter", &self.handler.limiter)
            .field("headers", &self.handler.responses.headers)
            .finish_non_exhaustive()
    }
}
