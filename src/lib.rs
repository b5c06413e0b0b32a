#![cfg_attr(docsrs, feature(doc_cfg))]
//! wip

mod clock;
mod decision;
mod error;
mod events;
pub mod guide;
mod http;
mod identity;
mod limiter;
mod metrics;
mod quota;
mod store;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use clock::{Clock, SystemClock};
pub use decision::Decision;
pub use error::{ClientIpError, LimitsError, NameError, QuotaError};
pub use identity::{
    ClientIp, ForwardingHeader, Identify, Identity, PeerAddr, Unidentified, UserId, UserOrIp,
};
pub use ipnet::IpNet;
pub use limiter::{
    Checked, CheckedFuture, FailureStrategy, Limiter, LimiterBuilder, PendingDecision,
};
#[cfg(feature = "metrics")]
pub use metrics::describe_metrics;
pub use quota::{Algorithm, Limits, MAX_POLICIES, Policy, Quota, Scope, State, Status};
pub use store::{
    BoxFuture, Check, LocalStore, Outcome, Step, Store, StoreError, StoreErrorKind, Verdict,
};

pub use self::http::{
    RateLimit, RateLimitLayer, Rejection, ResponseBody, ResponseFuture, ResponseHeaders, header,
};
