//! The identity of a request's sender, and the ways to determine it.
//!
//! An [`Identity`] is an address, or an id that the application has verified. An [`Identify`]
//! determines it from a request's head; the default is [`UserOrIp`].
//! [The guide](crate::guide::identities) explains the safe setup behind a proxy.

mod address;
mod client_ip;
mod exempt_networks;
mod forwarded;
mod identify;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod identity;
mod keyed_hash;
mod level_error;
mod peer;
mod target_host;
mod user;

pub use client_ip::{ClientIp, ClientIpError, ForwardingHeader};
pub(crate) use exempt_networks::{ExemptNetworks, Exemption};
pub use identify::{Identify, IdentifyError};
pub use identity::Identity;
pub use level_error::LevelError;
pub use peer::PeerAddr;
pub(crate) use target_host::TargetHost;
pub use user::{UserId, UserOrIp};
