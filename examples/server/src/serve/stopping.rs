//! The phases in which the server stops: it asks clients to go elsewhere while it still serves them,
//! then closes its listeners, and ends once all requests are answered.

use std::time::Duration;

use tokio::sync::watch;

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Serving,
    /// Serving, and asking clients to go elsewhere.
    Leaving,
    /// Accepting no more connections.
    Closed,
}

/// Tells all tasks the phase of stopping.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(watch::Sender<Phase>);

impl Stopping {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }

    /// Whether the server is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.0.borrow() > Phase::Serving
    }

    /// Asks clients to go elsewhere from now on, and accepts no more connections after the delay.
    pub(super) async fn stop(&self, delay: Duration) {
        self.0.send_replace(Phase::Leaving);
        tokio::time::sleep(delay).await;
        self.0.send_replace(Phase::Closed);
    }

    /// Waits until no more connections are accepted.
    pub(super) async fn closed(&self) {
        let mut phase = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Closed).await;
    }
}
