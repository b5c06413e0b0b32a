use std::time::Duration;

use tokio::time::timeout;
use tollgate::Quota;

use super::address::{Address, Protocol};
use super::failure::Failure;
use super::grpc::Grpc;
use super::http::Http;

/// What a server said of a check.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    pub(super) degraded: bool,
}

/// Asks one server. It connects when it is first used, and again when it has to.
#[derive(Debug)]
pub(super) enum Client {
    Http(Box<Http>),
    Grpc(Box<Grpc>),
}

impl Client {
    pub(super) fn new(
        address: &Address,
        token: Option<&str>,
        limit: Option<Quota>,
    ) -> anyhow::Result<Self> {
        Ok(match address.protocol {
            Protocol::Http => {
                Self::Http(Box::new(Http::new(address.uri("/check")?, token, limit)?))
            }
            Protocol::Grpc => Self::Grpc(Box::new(Grpc::new(address.uri("/")?, token, limit)?)),
        })
    }

    /// Asks, and waits so long for the answer.
    pub(super) async fn check(&self, key: String, patience: Duration) -> Result<Answer, Failure> {
        let answer = async {
            match self {
                Self::Http(client) => client.check(key).await,
                Self::Grpc(client) => client.check(key).await,
            }
        };
        let late = |_| Failure::new("no answer", format!("none within {patience:?}"));
        timeout(patience, answer).await.map_err(late)?
    }
}
