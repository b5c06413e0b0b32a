//! The phases in which the server stops: it asks clients to go elsewhere while it still serves them,
//! then closes its listeners, and ends once all requests are answered.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Tells all tasks how far stopping has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopping {
    /// Cancelled once clients are asked to go elsewhere.
    leaving: CancellationToken,
    /// Cancelled once no more connections are accepted.
    closed: CancellationToken,
}

impl Stopping {
    /// The token that is cancelled once clients are asked to go elsewhere.
    pub(super) fn leaving(&self) -> &CancellationToken {
        &self.leaving
    }

    /// Asks clients to go elsewhere from now on, and accepts no more connections after the delay.
    pub(super) async fn stop(&self, delay: Duration) {
        self.leaving.cancel();
        tokio::time::sleep(delay).await;
        self.closed.cancel();
    }

    /// Waits until no more connections are accepted.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}
