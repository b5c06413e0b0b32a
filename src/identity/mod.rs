//! Who is asking: identities, and the ways to tell one from a request.
//!
//! An [`Identity`] is an address or an id that the application has verified. An [`Identify`] makes
//! one of a request's head; [`UserOrIp`] is the default. [The guide](crate::guide::identities)
//! says how to sit behind a proxy safely.

mod client_ip;
mod forwarded;
mod identifier;
mod identify;
#[expect(
    clippy::module_inception,
    reason = "the module is named for its subject"
)]
mod identity;
mod secret;

pub use client_ip::{ClientIp, ForwardingHeader};
pub(crate) use identifier::Identifier;
pub use identify::{Identify, PeerAddr, Unidentified, UserId, UserOrIp};
pub use identity::Identity;
