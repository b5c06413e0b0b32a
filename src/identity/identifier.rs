use std::any::Any;
use std::sync::Arc;

use http::request::Parts;
use http::{Extensions, HeaderMap};

use super::client_ip::ClientIp;
use super::identify::{Identify, Unidentified, UserOrIp};
use super::identity::Identity;

/// An [`Identify`] of any kind. Those of this crate look at headers and extensions only, so the
/// request need not be taken apart for them.
#[derive(Clone)]
pub(crate) enum Identifier {
    UserOrIp(UserOrIp),
    ClientIp(ClientIp),
    Own(Arc<dyn Identify>),
}

impl Identifier {
    pub(crate) fn new(identify: impl Identify) -> Self {
        let any: &dyn Any = &identify;
        if let Some(user_or_ip) = any.downcast_ref() {
            Self::UserOrIp(UserOrIp::clone(user_or_ip))
        } else if let Some(client_ip) = any.downcast_ref() {
            Self::ClientIp(ClientIp::clone(client_ip))
        } else {
            Self::Own(Arc::new(identify))
        }
    }

    pub(crate) fn identify(&self, parts: &Parts) -> Result<Identity, Unidentified> {
        match self {
            Self::UserOrIp(user_or_ip) => user_or_ip.identify(parts),
            Self::ClientIp(client_ip) => client_ip.identify(parts),
            Self::Own(own) => own.identify(parts).and_then(Unidentified::unless_empty),
        }
    }

    /// The same, unless it is the application's own, which is to see all parts.
    pub(crate) fn by_head(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<Result<Identity, Unidentified>> {
        match self {
            Self::UserOrIp(user_or_ip) => Some(user_or_ip.by_head(headers, extensions)),
            Self::ClientIp(client_ip) => Some(client_ip.by_head(headers, extensions)),
            Self::Own(_) => None,
        }
    }
}

impl Default for Identifier {
    fn default() -> Self {
        Self::UserOrIp(UserOrIp::default())
    }
}
