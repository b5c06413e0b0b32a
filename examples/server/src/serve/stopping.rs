//! How the server ends: it is told to, goes on for a while so that clients can go elsewhere, then
//! takes no more, and ends when nothing is under way.

use std::time::Duration;

use tokio::sync::watch;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Serving,
    /// Still serving, and asking clients to go elsewhere.
    Leaving,
    /// Taking nothing more.
    Closed,
}

/// Tells everybody how far the end has come.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(watch::Sender<Phase>);

impl Stopping {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }

    /// Whether the server is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.0.borrow() > Phase::Serving
    }

    /// Asks clients to go elsewhere from now on, and takes no more after the delay.
    pub(super) async fn stop(&self, delay: Duration) {
        self.0.send_replace(Phase::Leaving);
        tokio::time::sleep(delay).await;
        self.0.send_replace(Phase::Closed);
    }

    /// Waits until nothing more is taken.
    pub(super) async fn closed(&self) {
        let mut phase = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Closed).await;
    }
}
