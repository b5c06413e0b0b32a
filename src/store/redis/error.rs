//! Why the server did not run a call, and the [`StoreError`] that callers get for it.

use std::error::Error;

use redis::{ErrorKind, RedisError, ServerError};

use crate::store::{StoreError, StoreErrorKind};

/// Why the server did not run a call of the script, or a batch item in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// The script is not in the server's script cache.
    NoScript,
    /// The server is a replica.
    NotPrimary(String),
    /// Another node of the cluster owns the hash slot, or imports it.
    Redirect(Redirect),
    /// The hash slot is being moved, and the keys are on both nodes.
    TryAgain,
    /// The keys are in several hash slots: the server is a cluster behind one address.
    CrossSlot,
    /// The server is loading its data, runs a long script, or the cluster is down.
    Busy(String),
    /// The call arrived after the deadlines of its checks.
    Expired,
    /// Any other error reply.
    Other(String),
    /// The reply is not one that the script returns.
    UnexpectedReply,
}

/// A `MOVED` or `ASK` error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    /// `host:port`; the host may be missing.
    pub(super) address: String,
    /// Whether it is `ASK`, which redirects a single call and not the hash slot.
    pub(super) is_ask: bool,
}

impl CallError {
    pub(super) fn from_reply(error: &ServerError) -> Self {
        let details = error.details().unwrap_or_default();
        Self::parse(&format!("{} {details}", error.code()))
    }

    /// Parses the text of an error. When a command of the script failed, Redis 6.2 prefixes the text
    /// with its line in the script and `: -`.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.split_once(": -").map_or(text, |(_, text)| text);
        let (code, details) = text.split_once(' ').unwrap_or((text, ""));
        let text = text.to_owned();
        match code {
            "NOSCRIPT" => Self::NoScript,
            "READONLY" | "MASTERDOWN" => Self::NotPrimary(text),
            "MOVED" | "ASK" => match details.split_whitespace().nth(1) {
                Some(address) => Self::Redirect(Redirect {
                    address: address.into(),
                    is_ask: code == "ASK",
                }),
                None => Self::Other(text),
            },
            "TRYAGAIN" => Self::TryAgain,
            "CROSSSLOT" => Self::CrossSlot,
            "LOADING" | "CLUSTERDOWN" | "BUSY" => Self::Busy(text),
            _ => Self::Other(text),
        }
    }

    /// Returns whether the hash slot of the keys is being moved.
    pub(super) fn is_resharding(&self) -> bool {
        matches!(
            self,
            Self::TryAgain | Self::Redirect(Redirect { is_ask: true, .. })
        )
    }

    /// Returns whether a retry would be useless, or might run the call twice.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Other(_) | Self::UnexpectedReply)
    }
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        use StoreErrorKind::{Rejected, TimedOut, Unusable};
        match error {
            CallError::Busy(text) => Self::new(StoreErrorKind::Unavailable, text),
            // Not `Unavailable`: the server works, and an abandoned move would keep the circuit
            // breaker open.
            CallError::TryAgain | CallError::Redirect(Redirect { is_ask: true, .. }) => Self::new(
                Unusable,
                "the hash slot of the keys is being moved to another node",
            ),
            CallError::Redirect(_) => unavailable(
                "too many redirects: the nodes disagree about the owner of the hash slot",
            ),
            CallError::CrossSlot => Self::new(
                Rejected,
                "CROSSSLOT: this server is a cluster, and the keys of one identity are in several \
                 hash slots: enable hash tags on the server, or on the proxy in front of it",
            ),
            CallError::NoScript => {
                unavailable("the server does not keep the script that it was sent")
            }
            CallError::Expired => Self::new(
                TimedOut,
                "the check reached the server after the check's deadline",
            ),
            CallError::NotPrimary(text) | CallError::Other(text) => Self::new(Rejected, text),
            CallError::UnexpectedReply => Self::new(
                Rejected,
                "unexpected reply to the script: the store needs Redis 6.2 or later, or Valkey",
            ),
        }
    }
}

/// The error of a store that was made for one server and was redirected to another.
pub(super) fn redirected_by_single_server() -> StoreError {
    let advice = "MOVED: this server is a node of a Redis Cluster, and another node owns the hash \
                  slot: create the store with `RedisStore::cluster`";
    StoreError::new(StoreErrorKind::Rejected, advice)
}

pub(super) fn unavailable(reason: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, reason)
}

/// Converts an error of connecting, of the login, or of a broken connection.
pub(super) fn connection_error(error: &RedisError) -> StoreError {
    let kind = match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(_) | ErrorKind::Extension => {
            StoreErrorKind::Rejected
        }
        _ => StoreErrorKind::Unavailable,
    };
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => StoreError::new(kind, format!("{code} {detail}")),
        _ => StoreError::new(kind, error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_inside_script_is_parsed() {
        let full = "OOM command not allowed when used memory > 'maxmemory'.";
        for text in [full.to_owned(), format!("@user_script: 1: -{full}")] {
            assert_eq!(CallError::parse(&text), CallError::Other(full.into()));
        }
        for text in [
            "READONLY You can't write against a read only replica.",
            "@user_script: 1: -READONLY You can't write against a read only replica.",
            "ERR Error running script (call to f_0): @user_script:1: -READONLY You can't write",
        ] {
            assert!(
                matches!(CallError::parse(text), CallError::NotPrimary(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn redirect_contains_the_address_of_the_node() {
        let redirect = |is_ask| {
            CallError::Redirect(Redirect {
                address: "127.0.0.1:7001".into(),
                is_ask,
            })
        };
        assert_eq!(CallError::parse("MOVED 42 127.0.0.1:7001"), redirect(false));
        assert_eq!(CallError::parse("ASK 42 127.0.0.1:7001"), redirect(true));
    }
}
