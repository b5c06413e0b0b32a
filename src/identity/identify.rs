use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::request::Parts;
use http::{Extensions, HeaderMap};

use super::client_ip::ClientIp;
use super::identity::Identity;
use crate::error::NameError;

/// Tells who is asking, from a request's head.
///
/// Implemented by [`UserOrIp`], by [`ClientIp`] and by closures:
///
/// ```
/// use http::request::Parts;
/// use tollgate::{Identify, Identity, Unidentified};
///
/// fn by_api_key(parts: &Parts) -> Result<Identity, Unidentified> {
///     // Only a key that has been verified may be an identity: anyone can make keys up.
///     let key = parts.extensions.get::<VerifiedKey>().ok_or(Unidentified::new("no API key"))?;
///     Ok(Identity::secret("key", &key.0)?)
/// }
/// # #[derive(Clone)] struct VerifiedKey(String);
/// # fn assert_identifies(_: impl Identify) {}
/// # assert_identifies(by_api_key);
/// ```
pub trait Identify: Send + Sync + 'static {
    /// The identity behind the request, or why it cannot be told.
    fn identify(&self, parts: &Parts) -> Result<Identity, Unidentified>;
}

impl<F> Identify for F
where
    F: Fn(&Parts) -> Result<Identity, Unidentified> + Send + Sync + 'static,
{
    fn identify(&self, parts: &Parts) -> Result<Identity, Unidentified> {
        self(parts)
    }
}

/// The application's own user where it has verified one, else the client's address: the default.
///
/// A user is a [`UserId`] in the request's extensions, put there by the application's
/// authentication, in a layer outside this one. A header or an unverified token is never an
/// identity: anyone can send another one with each request.
#[derive(Clone, Debug, Default)]
pub struct UserOrIp(ClientIp);

impl UserOrIp {
    /// Users by their id, all others by their address as `client_ip` tells it.
    pub fn new(client_ip: ClientIp) -> Self {
        Self(client_ip)
    }
}

impl UserOrIp {
    pub(super) fn by_head(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Identity, Unidentified> {
        match extensions.get::<UserId>() {
            Some(UserId(identity)) => Unidentified::unless_empty(identity.clone()),
            None => self.0.by_head(headers, extensions),
        }
    }
}

impl Identify for UserOrIp {
    fn identify(&self, parts: &Parts) -> Result<Identity, Unidentified> {
        self.by_head(&parts.headers, &parts.extensions)
    }
}

impl ClientIp {
    pub(super) fn by_head(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Identity, Unidentified> {
        let address = self.known_address(peer(extensions), headers);
        address
            .map(Identity::exact_ip)
            .ok_or(Unidentified(Reason::NoPeer))
    }
}

/// By address alone, whoever is logged in.
impl Identify for ClientIp {
    fn identify(&self, parts: &Parts) -> Result<Identity, Unidentified> {
        self.by_head(&parts.headers, &parts.extensions)
    }
}

/// The address at the other end of the connection, as the server told it.
fn peer(extensions: &Extensions) -> Option<IpAddr> {
    if let Some(PeerAddr(address)) = extensions.get() {
        return Some(address.ip());
    }
    #[cfg(feature = "axum")]
    {
        use axum::extract::ConnectInfo;
        use axum::extract::connect_info::MockConnectInfo;

        if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
            return Some(address.ip());
        }
        if let Some(MockConnectInfo(address)) = extensions.get::<MockConnectInfo<SocketAddr>>() {
            return Some(address.ip());
        }
    }
    None
}

/// A request extension: the id of the user, as verified by the application's authentication.
///
/// ```
/// # let mut request = http::Request::new(());
/// request.extensions_mut().insert(tollgate::UserId::new("42"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserId(Identity);

impl UserId {
    /// A user's id, of any length and with any characters. A request whose id is empty has no
    /// identity, since all users without an id would share one count.
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(Identity::user(id.as_ref()))
    }
}

/// A request extension: the address at the other end of the connection, for servers other than
/// axum's.
///
/// With axum, `into_make_service_with_connect_info::<SocketAddr>()` tells it instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// Why a request's identity cannot be told.
///
/// The log holds the reason. The client is told that the request could not be identified, and the
/// reason only by debug builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unidentified(Reason);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    NoPeer,
    /// The identity of this kind has an empty value.
    Empty(String),
    Own(String),
}

impl Unidentified {
    /// A reason of your own.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(Reason::Own(reason.into()))
    }

    /// The identity, unless its value is empty: all requests without a value would share one count.
    pub(super) fn unless_empty(identity: Identity) -> Result<Identity, Self> {
        match identity.is_empty() {
            true => Err(Self(Reason::Empty(identity.kind().to_owned()))),
            false => Ok(identity),
        }
    }
}

impl fmt::Display for Unidentified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::NoPeer => f.write_str(
                "the request has no peer address; with axum, serve with \
                 `app.into_make_service_with_connect_info::<SocketAddr>()`, and in tests add \
                 `axum::extract::connect_info::MockConnectInfo(SocketAddr)` as the outermost layer; \
                 with another server, or over a Unix socket, insert `tollgate::PeerAddr` into each \
                 request's extensions",
            ),
            Reason::Empty(kind) => write!(
                f,
                "the request's identity of kind `{kind}` has an empty value; return \
                 `Unidentified`, or another identity, for a request without one"
            ),
            Reason::Own(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Unidentified {}

/// So that a closure can use `?` on [`Identity::new`].
impl From<NameError> for Unidentified {
    fn from(error: NameError) -> Self {
        Self(Reason::Own(error.to_string()))
    }
}
