//! What an error that the server replied means for the checks that it was asked.

use redis::{ErrorKind, RedisError, ServerError};

use crate::store::{StoreError, StoreErrorKind};

/// Why the server did not run a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not know the script.
    NoScript,
    /// It is no primary, or no longer.
    NotPrimary(String),
    /// The keys are at another node of the cluster; for good, or only those that are gone here.
    Elsewhere { address: String, ask: bool },
    /// Some of the keys have moved, and the others not yet.
    TryAgain,
    /// The keys are in several slots: the server is a cluster behind one address.
    CrossSlot,
    /// It cannot serve anybody now.
    Busy(String),
    /// It arrived when nobody would have waited for it any more.
    TooLate,
    /// It will not, for a reason that lasts.
    Other(String),
    /// What it said is none of the script's replies.
    Unintelligible,
}

impl Refusal {
    pub(super) fn of(error: &ServerError) -> Self {
        let details = error.details().unwrap_or_default();
        Self::of_text(&format!("{} {details}", error.code()))
    }

    /// Reads an error as servers of all versions word it: from within a script, Redis 6.2 says where
    /// in the script it was, and then, after a hyphen, what.
    pub(super) fn of_text(text: &str) -> Self {
        let text = text.split_once(": -").map_or(text, |(_, text)| text);
        let (code, details) = text.split_once(' ').unwrap_or((text, ""));
        let text = text.to_owned();
        match code {
            "NOSCRIPT" => Self::NoScript,
            "READONLY" | "MASTERDOWN" => Self::NotPrimary(text),
            "MOVED" | "ASK" => match details.split_whitespace().nth(1) {
                Some(address) => Self::Elsewhere {
                    address: address.into(),
                    ask: code == "ASK",
                },
                None => Self::Other(text),
            },
            "TRYAGAIN" => Self::TryAgain,
            "CROSSSLOT" => Self::CrossSlot,
            "LOADING" | "CLUSTERDOWN" | "BUSY" => Self::Busy(text),
            _ => Self::Other(text),
        }
    }

    /// Whether it says that the keys' slot is being moved.
    pub(super) fn is_of_moving(&self) -> bool {
        matches!(self, Self::TryAgain | Self::Elsewhere { ask: true, .. })
    }

    /// Whether to ask again is of no use, or might run the call twice.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Other(_) | Self::Unintelligible)
    }
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        use StoreErrorKind::{Rejected, TimedOut, Unusable};
        match refusal {
            Refusal::Busy(text) => Self::new(StoreErrorKind::Unavailable, text),
            // The server is well, and may say so for as long as nobody ends the move.
            Refusal::TryAgain | Refusal::Elsewhere { ask: true, .. } => {
                Self::new(Unusable, "the keys' slot is being moved")
            }
            Refusal::Elsewhere { .. } => unavailable("the nodes disagree on who has the keys"),
            Refusal::CrossSlot => Self::new(
                Rejected,
                "CROSSSLOT: this server is a cluster, and the keys of one identity are in several \
                 slots: it, or a proxy before it, must honour hash tags",
            ),
            Refusal::NoScript => unavailable("the server forgets the script at once"),
            Refusal::TooLate => Self::new(TimedOut, "the check reached the server too late"),
            Refusal::NotPrimary(text) | Refusal::Other(text) => Self::new(Rejected, text),
            Refusal::Unintelligible => {
                let advice = "is it Redis 6.2 or later, or Valkey?";
                Self::new(
                    Rejected,
                    format!("the server's reply makes no sense: {advice}"),
                )
            }
        }
    }
}

/// A server that is asked for all keys has said that some are at another one.
pub(super) fn is_one_node() -> StoreError {
    let advice = "MOVED: this server is one node of a cluster, and the keys are at another: make the \
                  store with `RedisStore::cluster`";
    StoreError::new(StoreErrorKind::Rejected, advice)
}

pub(super) fn unavailable(reason: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, reason)
}

/// What a connection that could not be made, or that broke, means.
pub(super) fn broken(error: &RedisError) -> StoreError {
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
    fn a_refusal_is_read_from_a_script_of_any_version() {
        let full = "OOM command not allowed when used memory > 'maxmemory'.";
        for text in [full.to_owned(), format!("@user_script: 1: -{full}")] {
            assert_eq!(Refusal::of_text(&text), Refusal::Other(full.into()));
        }
        for text in [
            "READONLY You can't write against a read only replica.",
            "@user_script: 1: -READONLY You can't write against a read only replica.",
            "ERR Error running script (call to f_0): @user_script:1: -READONLY You can't write",
        ] {
            assert!(
                matches!(Refusal::of_text(text), Refusal::NotPrimary(_)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_redirection_names_the_node() {
        let elsewhere = |ask| Refusal::Elsewhere {
            address: "127.0.0.1:7001".into(),
            ask,
        };
        assert_eq!(
            Refusal::of_text("MOVED 42 127.0.0.1:7001"),
            elsewhere(false)
        );
        assert_eq!(Refusal::of_text("ASK 42 127.0.0.1:7001"), elsewhere(true));
    }
}
