use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use super::client_ip::ClientIp;
use super::identity::Identity;
use super::level_error::LevelError;
use super::peer::peer;
use crate::quota::NameError;

/// Determines the identity of a request's sender.
///
/// [`UserOrIp`](crate::UserOrIp), [`ClientIp`](crate::ClientIp) and closures implement it, and so do
/// `Arc<T>`, `Box<dyn Identify>` and boxed closures:
///
/// ```
/// use http::request::Parts;
/// use tollgate::{Identify, IdentifyError, Identity, Kind};
///
/// const KEY: Kind = Kind::new("key");
///
/// fn by_api_key(parts: &Parts) -> Result<Identity, IdentifyError> {
///     // Only a verified key may be an identity: a client can make up a new key for each request.
///     let key = parts.extensions.get::<VerifiedKey>().ok_or(IdentifyError::new("no API key"))?;
///     Ok(Identity::secret(&KEY, &key.0))
/// }
/// # #[derive(Clone)] struct VerifiedKey(String);
/// # fn assert_identifies(_: impl Identify) {}
/// # assert_identifies(by_api_key);
/// # assert_identifies(std::sync::Arc::new(by_api_key));
/// # assert_identifies(Box::new(by_api_key));
/// # assert_identifies(Box::new(by_api_key) as Box<dyn Identify>);
/// ```
pub trait Identify: Send + Sync + 'static {
    /// Returns the sender's identity, or the reason why it cannot be determined.
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError>;

    /// Returns how the client's address is determined, for
    /// [`exempt_networks`](crate::RateLimitLayer::exempt_networks). The default, `None`, stands for
    /// [`ClientIp::peer`].
    fn client_ip(&self) -> Option<&ClientIp> {
        None
    }
}

/// Identifies every request by the client's address, even if it has a [`UserId`](crate::UserId).
impl Identify for ClientIp {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError> {
        let peer = peer(&parts.extensions);
        let identity = self.identity(peer, &parts.headers);
        identity.ok_or(IdentifyError::NO_PEER)
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        Some(self)
    }
}

impl<F> Identify for F
where
    F: Fn(&Parts) -> Result<Identity, IdentifyError> + Send + Sync + 'static,
{
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError> {
        self(parts)
    }
}

impl<T: Identify + ?Sized> Identify for Arc<T> {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError> {
        (**self).identify(parts)
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        (**self).client_ip()
    }
}

/// Not for every `Box<T>`: a boxed closure is a closure, so it implements `Identify` already.
impl Identify for Box<dyn Identify> {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError> {
        (**self).identify(parts)
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        (**self).client_ip()
    }
}

/// The reason why a request's identity cannot be determined.
///
/// The reason is logged. The response says that the request could not be identified, and gives the
/// reason only in debug builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentifyError(Reason);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    NoPeer,
    /// The value of an identity of this kind is empty.
    EmptyValue(String),
    /// No policy applies to the identity of this kind.
    WithoutPolicy(String),
    Other(String),
}

impl IdentifyError {
    /// Creates an error with the application's reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(Reason::Other(reason.into()))
    }

    const NO_PEER: Self = Self(Reason::NoPeer);

    /// Creates the error of a request that no policy of its layer applies to.
    pub(crate) fn without_policy(identity: &Identity) -> Self {
        Self(Reason::WithoutPolicy(identity.kind().to_owned()))
    }

    /// Returns the identity unless one of its values is empty: all requests with an empty value would share
    /// one count.
    pub(crate) fn check_not_empty(identity: Identity) -> Result<Identity, Self> {
        if let Some(empty) = identity.levels().find(|level| level.is_empty()) {
            return Err(Self(Reason::EmptyValue(empty.kind().to_owned())));
        }
        Ok(identity)
    }
}

impl fmt::Display for IdentifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::NoPeer => f.write_str(
                "the request has no peer address; with axum, serve with \
                 `app.into_make_service_with_connect_info::<SocketAddr>()`, and in tests add \
                 `axum::extract::connect_info::MockConnectInfo(SocketAddr)` as the outermost layer; \
                 with another server, or over a Unix socket, insert `tollgate::PeerAddr` into each \
                 request's extensions",
            ),
            Reason::EmptyValue(kind) => write!(
                f,
                "the request's identity of kind `{kind}` has an empty value; return an \
                 `IdentifyError`, or another identity, for a request without a value"
            ),
            Reason::WithoutPolicy(kind) => write!(
                f,
                "no policy applies to the request's identity of kind `{kind}`: each counts by a level \
                 (`Policy::per`) that the identity does not have"
            ),
            Reason::Other(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for IdentifyError {}

/// Lets a closure use `?` on the result of [`Kind::try_new`](crate::Kind::try_new).
impl From<NameError> for IdentifyError {
    fn from(error: NameError) -> Self {
        Self::new(error.to_string())
    }
}

/// Lets a closure use `?` on the result of [`Identity::within`].
impl From<LevelError> for IdentifyError {
    fn from(error: LevelError) -> Self {
        Self::new(error.to_string())
    }
}
