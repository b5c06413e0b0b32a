use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Id;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::connection::Connection;
use super::link::Driver;
use super::waiting::{Entry, Waiting};
use crate::random;
use crate::store::StoreError;

/// A server that is no primary is left for whichever is, but not more often: it may stay so, and
/// what it is asked to deny it still denies.
const FOLLOWED: Duration = Duration::from_secs(1);

/// How many round trips are under way at once, at most.
const MOST_DRIVERS: usize = 8;

/// Among how many round trips those that wait are divided, if they are many: the server runs one
/// call while the answers to another are handed out and the next is made, and sleeps for none.
const OVERLAPPING: usize = 4;

/// So many that wait are worth a round trip.
const MANY: usize = 20;

/// So many are worth one while only one task is at work: it most likely hands out answers.
const PLENTY: usize = 256;

/// What waits in one runtime.
pub(super) struct Queue {
    pub(super) runtime: Id,
    pub(super) waiting: Waiting,
    /// How many tasks empty it, and those that have done so.
    pub(super) drivers: usize,
    pub(super) idle: Vec<UnboundedSender<Driver>>,
    /// What they share.
    pub(super) connection: Option<Arc<Connection>>,
    /// Whether one of them is making a connection.
    pub(super) connecting: bool,
    pub(super) backoff: Backoff,
    /// Why the last attempt to connect failed.
    pub(super) failure: Option<StoreError>,
    /// Until when a server that is no primary is not left again.
    followed: Option<Instant>,
}

impl Queue {
    pub(super) fn new(runtime: Id) -> Self {
        Self {
            runtime,
            waiting: Waiting::default(),
            drivers: 0,
            idle: Vec::new(),
            connection: None,
            connecting: false,
            backoff: Backoff::default(),
            failure: None,
            followed: None,
        }
    }

    /// Whether its runtime may still need it.
    pub(super) fn is_in_use(&self) -> bool {
        self.drivers > 0 || self.open_connection().is_some()
    }

    /// Lets go of a connection that is of no more use.
    pub(super) fn forget_closed(&mut self) {
        self.connection.take_if(|connection| connection.is_closed());
    }

    pub(super) fn open_connection(&self) -> Option<&Arc<Connection>> {
        self.connection.as_ref().filter(|open| !open.is_closed())
    }

    /// Whether to start another task for a waiter of such patience, and how soon.
    pub(super) fn needs_driver(&self, patience: Duration) -> Option<Duration> {
        if self.drivers == 0 {
            return Some(Duration::ZERO);
        }
        let round_trip = self.open_connection()?.round_trip();
        if self.drivers == 1 && self.waiting.checks() >= PLENTY {
            return Some(Duration::ZERO);
        }
        // It would wait for the end of one round trip, and then for its own. Others will, too: they
        // are waited for a little, so that the round trips are not all under way with one each.
        let gathering = round_trip / MOST_DRIVERS as u32;
        (self.drivers < MOST_DRIVERS && patience < 2 * round_trip).then_some(gathering)
    }

    /// How many keys to ask for at once: of many that wait, one task leaves some to others.
    pub(super) fn share(&self, most_keys: usize) -> usize {
        let others = OVERLAPPING.saturating_sub(self.drivers);
        let waiting = self.waiting.len();
        let parts = (1 + others).min(waiting / MANY).max(1);
        let keys_each = self.waiting.first().map_or(1, Entry::policies);
        most_keys.min(waiting.div_ceil(parts) * keys_each)
    }

    /// Whether another task is to ask for what one has left.
    pub(super) fn has_some_left(&self) -> bool {
        self.drivers < OVERLAPPING && !self.waiting.is_empty()
    }

    /// Whether to leave a server that is no primary, now.
    pub(super) fn follows(&mut self) -> bool {
        let now = Instant::now();
        if self.followed.is_some_and(|followed| now < followed) {
            return false;
        }
        self.followed = Some(now + random::with_jitter(FOLLOWED));
        true
    }
}
