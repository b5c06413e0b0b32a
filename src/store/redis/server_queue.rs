//! The queue in front of one server: checks that wait, the connection, and the number of workers.
//!
//! Each runtime has a queue, a connection and workers of its own, so that no runtime waits for tasks of
//! another. The workers themselves are in `worker`.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, timeout};

use super::backoff::Backoff;
use super::check_queue::{BatchItem, CheckQueue};
use super::connection::Connection;
use super::error::unavailable;
use super::server::Server;
use super::shared::Shared;
use crate::random;
use crate::store::StoreError;

/// The minimum time between two reconnects because the server is a replica. It may stay one, and still
/// answers checks that it denies.
const REPLICA_RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum number of round trips in flight.
const MAX_WORKERS: usize = 8;

/// A long queue is divided among this many workers: the server runs one batch while the answers of
/// another are delivered and a third is built, so that it is never idle.
const WORKERS_UNDER_LOAD: usize = 4;

/// The smallest batch that a queue is divided into.
const MIN_BATCH: usize = 20;

/// With this many queued checks, a second worker starts: the first is most likely delivering answers.
const LONG_QUEUE: usize = 256;

/// A server, and a queue for each runtime.
pub(super) struct ServerQueue {
    pub(super) server: Server,
    queues: Mutex<Vec<RuntimeQueue>>,
    /// Whether each batch item has a call of its own, since the server, or the servers behind a proxy,
    /// cannot run calls for several identities.
    pub(super) one_identity_per_call: AtomicBool,
}

impl ServerQueue {
    pub(super) fn new(server: Server, one_identity_per_call: bool) -> Self {
        Self {
            server,
            queues: Mutex::default(),
            one_identity_per_call: one_identity_per_call.into(),
        }
    }

    pub(super) fn one_identity_per_call(&self) -> bool {
        self.one_identity_per_call.load(Ordering::Relaxed)
    }

    pub(super) async fn connect(&self, shared: &Shared) -> Result<Connection, StoreError> {
        let limit = self.server.connect_timeout();
        let connected = timeout(limit, self.server.connect(shared)).await;
        let timed_out =
            || unavailable(format!("no connection within {limit:?}")).at(&self.server.name());
        let connection = connected.unwrap_or_else(|_| Err(timed_out()))?;
        if connection.is_clustered {
            self.one_identity_per_call.store(true, Ordering::Relaxed);
        }
        Ok(connection)
    }

    /// Runs `act` on the queue of a runtime, under a lock.
    pub(super) fn with_queue<T>(
        &self,
        runtime: &Handle,
        act: impl FnOnce(&mut RuntimeQueue) -> T,
    ) -> T {
        let id = runtime.id();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let known = queues.iter().position(|queue| queue.runtime == id);
        let index = known.unwrap_or_else(|| {
            // Removes the queues of runtimes that have shut down.
            queues.retain(RuntimeQueue::is_in_use);
            queues.push(RuntimeQueue::new(id));
            queues.len() - 1
        });
        act(&mut queues[index])
    }
}

/// The queue of one runtime.
pub(super) struct RuntimeQueue {
    runtime: Id,
    pub(super) checks: CheckQueue,
    /// The number of active workers.
    workers: usize,
    /// The connection that all workers share.
    pub(super) connection: Option<Arc<Connection>>,
    /// Whether one of the workers is connecting.
    is_connecting: bool,
    backoff: Backoff,
    /// Why the last attempt to connect failed.
    connect_error: Option<StoreError>,
    /// When the connection to a replica may be closed again.
    next_replica_reconnect: Option<Instant>,
}

impl RuntimeQueue {
    fn new(runtime: Id) -> Self {
        Self {
            runtime,
            checks: CheckQueue::default(),
            workers: 0,
            connection: None,
            is_connecting: false,
            backoff: Backoff::default(),
            connect_error: None,
            next_replica_reconnect: None,
        }
    }

    fn is_in_use(&self) -> bool {
        self.workers > 0 || self.open_connection().is_some()
    }

    /// The error to fail with in place of connecting, while the back-off is active.
    pub(super) fn recent_connect_error(&self) -> Option<StoreError> {
        let must_wait = self.backoff.is_active() && !self.checks.has_probe();
        self.connect_error.clone().filter(|_| must_wait)
    }

    /// Drops the connection if it is closed.
    pub(super) fn drop_closed_connection(&mut self) {
        self.connection.take_if(|connection| connection.is_closed());
    }

    pub(super) fn open_connection(&self) -> Option<&Arc<Connection>> {
        self.connection.as_ref().filter(|open| !open.is_closed())
    }

    fn next_step(&self) -> NextStep {
        match self.open_connection() {
            _ if self.checks.is_empty() => NextStep::Stop,
            Some(connection) => NextStep::SendBatch(connection.clone()),
            // The worker that is connecting will send the queued checks.
            None if self.is_connecting => NextStep::Stop,
            None => NextStep::Connect,
        }
    }

    /// Returns the delay after which to start a worker for a new check with this timeout, or `None` if no
    /// worker is needed.
    pub(super) fn needs_worker(&self, timeout: Duration) -> Option<Duration> {
        if self.workers == 0 {
            return Some(Duration::ZERO);
        }
        let round_trip = self.open_connection()?.round_trip();
        if self.workers == 1 && self.checks.checks() >= LONG_QUEUE {
            return Some(Duration::ZERO);
        }
        // The check would wait for the current round trip and then for its own. The delay lets other
        // checks join it, so that the workers do not send one check each.
        let delay = round_trip / MAX_WORKERS as u32;
        (self.workers < MAX_WORKERS && timeout < 2 * round_trip).then_some(delay)
    }

    /// The maximum number of keys of the next batch: a share of a long queue.
    pub(super) fn batch_keys(&self, max_keys: usize) -> usize {
        let other_workers = WORKERS_UNDER_LOAD.saturating_sub(self.workers);
        let items = self.checks.items();
        let batches = (1 + other_workers).min(items / MIN_BATCH).max(1);
        let keys_per_item = self.checks.first().map_or(1, BatchItem::keys);
        max_keys.min(items.div_ceil(batches) * keys_per_item)
    }

    /// Returns whether another worker should take the rest of the queue.
    pub(super) fn needs_another_worker(&self) -> bool {
        self.workers < WORKERS_UNDER_LOAD && !self.checks.is_empty()
    }

    /// Returns whether to close a connection to a replica now. After `true`, returns `false` for
    /// [`REPLICA_RECONNECT_INTERVAL`], with jitter.
    pub(super) fn may_leave_replica(&mut self) -> bool {
        let now = Instant::now();
        if self.next_replica_reconnect.is_some_and(|next| now < next) {
            return false;
        }
        self.next_replica_reconnect = Some(now + random::with_jitter(REPLICA_RECONNECT_INTERVAL));
        true
    }
}

/// The next step of a worker.
pub(super) enum NextStep {
    SendBatch(Arc<Connection>),
    Connect,
    Stop,
}

/// Counts as one of the workers of its queue until it stops or is dropped.
pub(super) struct WorkerSlot {
    pub(super) queue: Arc<ServerQueue>,
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: Handle,
    pub(super) start_delay: Duration,
    is_connecting: bool,
    is_stopped: bool,
}

impl WorkerSlot {
    /// Adds a worker to the count of `locked`, the queue of `runtime`.
    pub(super) fn new(
        queue: &Arc<ServerQueue>,
        shared: &Arc<Shared>,
        runtime: &Handle,
        locked: &mut RuntimeQueue,
        start_delay: Duration,
    ) -> Self {
        locked.workers += 1;
        Self {
            queue: queue.clone(),
            shared: shared.clone(),
            runtime: runtime.clone(),
            start_delay,
            is_connecting: false,
            is_stopped: false,
        }
    }

    /// Adds another worker of the same queue.
    pub(super) fn another(&self, locked: &mut RuntimeQueue) -> Self {
        let (queue, shared, runtime) = (&self.queue, &self.shared, &self.runtime);
        Self::new(queue, shared, runtime, locked, Duration::ZERO)
    }

    pub(super) fn with_queue<T>(&self, act: impl FnOnce(&mut RuntimeQueue) -> T) -> T {
        self.queue.with_queue(&self.runtime, act)
    }

    pub(super) fn next_step(&mut self) -> NextStep {
        let step = self.with_queue(|queue| {
            let step = queue.next_step();
            match step {
                NextStep::SendBatch(_) => {}
                NextStep::Connect => queue.is_connecting = true,
                NextStep::Stop => queue.workers -= 1,
            }
            step
        });
        self.is_connecting = matches!(step, NextStep::Connect);
        self.is_stopped = matches!(step, NextStep::Stop);
        step
    }

    /// Records the result of connecting. If it failed, returns the error and all queued checks.
    ///
    /// Without an attempt, since the back-off is active, `result` is the last attempt's error.
    pub(super) fn connected(
        &mut self,
        result: Result<Connection, StoreError>,
        was_attempted: bool,
    ) -> Option<(StoreError, CheckQueue)> {
        self.is_connecting = false;
        self.with_queue(|queue| {
            queue.is_connecting = false;
            if was_attempted {
                queue.backoff.record(result.is_ok());
            }
            queue.connect_error = result.as_ref().err().cloned();
            match result {
                Ok(connection) => {
                    queue.connection = Some(Arc::new(connection));
                    None
                }
                Err(error) => Some((error, mem::take(&mut queue.checks))),
            }
        })
    }
}

/// Fails the queued checks if the worker panicked or its runtime shut down. The next check starts
/// another worker.
impl Drop for WorkerSlot {
    fn drop(&mut self) {
        if !self.is_stopped {
            let queued = self.with_queue(|queue| {
                queue.workers -= 1;
                queue.is_connecting &= !self.is_connecting;
                mem::take(&mut queue.checks)
            });
            // Not under the lock: this wakes the callers.
            drop(queued);
        }
    }
}
