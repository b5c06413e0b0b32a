//! The phases of a graceful shutdown.
//!
//! The server first drains: it asks clients to go elsewhere, and still serves them. Then it closes
//! its listeners, and ends once all requests are answered.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The phase of the shutdown. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shutdown {
    /// Cancelled when the server begins to drain.
    draining: CancellationToken,
    /// Cancelled when the server accepts no more connections.
    closed: CancellationToken,
}

impl Shutdown {
    /// Returns the token that is cancelled when the server begins to drain.
    pub(super) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Drains for the delay, and then accepts no more connections.
    pub(super) async fn start(&self, delay: Duration) {
        self.draining.cancel();
        tokio::time::sleep(delay).await;
        self.closed.cancel();
    }

    /// Waits until the server accepts no more connections.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}
