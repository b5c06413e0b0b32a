use http::request::Parts;

use super::client_ip::ClientIp;
use super::identify::{Identify, IdentifyError};
use super::identity::Identity;

/// Identifies requests by their [`UserId`], or by the client's address if they have none: the default.
///
/// The application's authentication inserts the [`UserId`] into the request's extensions, in a layer
/// outside this one. A header or an unverified token is never an identity, since a client can send a
/// different one with each request.
#[derive(Clone, Debug, Default)]
pub struct UserOrIp(ClientIp);

impl UserOrIp {
    /// Identifies users by their id, and other requests by the address that `client_ip` determines.
    pub fn new(client_ip: ClientIp) -> Self {
        Self(client_ip)
    }
}

impl Identify for UserOrIp {
    fn identify(&self, parts: &Parts) -> Result<Identity, IdentifyError> {
        match parts.extensions.get::<UserId>() {
            Some(user) => Ok(user.identity().clone()),
            None => self.0.identify(parts),
        }
    }

    fn client_ip(&self) -> Option<&ClientIp> {
        Some(&self.0)
    }
}

/// A request extension: the id of the user, as verified by the application's authentication.
///
/// ```
/// use tollgate::UserId;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(UserId::new("42"));
///
/// let user = request.extensions().get::<UserId>().unwrap();
/// assert_eq!(user.identity().value().as_deref(), Some("42"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserId(Identity);

impl UserId {
    /// Creates a user's id, of any length and with any characters. A request with an empty id is
    /// rejected as unidentified, since all users with an empty id would share one count.
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(Identity::user(id.as_ref()))
    }

    /// Returns the identity that the user's requests count as, of kind `user`.
    pub fn identity(&self) -> &Identity {
        &self.0
    }
}
