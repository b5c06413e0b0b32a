//! The tasks that send queued checks to one server.
//!
//! A worker sends one batch per round trip. Checks that arrive meanwhile share the next batch: there is
//! no timer, and a check that arrives at an idle server is sent at once. More workers start if the
//! queue is long, or if the server is so far away that a check cannot wait for two round trips.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::batch::{Call, calls, last_deadline};
use super::check_queue::BatchItem;
use super::connection::Connection;
use super::delivery::{deliver, yield_to_answered};
use super::error::{CallError, connection_error};
use super::pending::{PendingCheck, fail_all};
use super::retry::retry;
use super::script::decode;
use super::server_queue::{NextStep, RuntimeQueue, ServerQueue, WorkerSlot};
use super::settlement::Receipts;
use super::shared::Shared;
use crate::store::receipt::Source;
use crate::store::{StoreError, StoreErrorKind};

/// The maximum time that a reply is awaited after the last deadline of its batch.
const MAX_REPLY_GRACE: Duration = Duration::from_secs(1);

/// The error of a settlement or a renewal of a charge over an earlier connection. Its kind is not counted by the
/// circuit breaker, since the server works.
fn charged_elsewhere() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unusable,
        "the charge cannot be settled: the connection to its server was replaced",
    )
}

/// Queues a check, and starts a worker if the queue needs one.
pub(super) fn submit(
    queue: &Arc<ServerQueue>,
    shared: &Arc<Shared>,
    runtime: &Handle,
    check: PendingCheck,
) {
    let mut rejected = None;
    let slot = queue.with_queue(runtime, |locked| {
        let start_delay = locked.needs_worker(check.timeout);
        if let Err(check) = locked.checks.push(check, shared.max_queue) {
            rejected = Some(check);
            return None;
        }
        Some(WorkerSlot::new(
            queue,
            shared,
            runtime,
            locked,
            start_delay?,
        ))
    });
    if let Some(check) = rejected {
        check.answer(Err(StoreErrorKind::Overloaded.into()));
    }
    if let Some(slot) = slot {
        start(slot);
    }
}

fn start(slot: WorkerSlot) {
    slot.runtime.clone().spawn(Worker { slot }.run());
}

struct Worker {
    slot: WorkerSlot,
}

/// The connection must be closed.
struct ConnectionUnusable;

impl Worker {
    async fn run(mut self) {
        if !self.slot.start_delay.is_zero() {
            sleep(self.slot.start_delay).await;
        }
        loop {
            match self.slot.next_step() {
                NextStep::SendBatch(connection) => self.send_next_batch(&connection).await,
                // Boxed, since this future is large and seldom needed.
                NextStep::Connect => Box::pin(self.connect()).await,
                NextStep::Stop => return,
            }
        }
    }

    /// Connects. If that fails, all queued checks fail.
    async fn connect(&mut self) {
        let recent_error = self.slot.with_queue(|queue| {
            queue.drop_closed_connection();
            queue.recent_connect_error()
        });
        let is_attempt = recent_error.is_none();
        let result = match recent_error {
            Some(error) => Err(error),
            None => self.slot.queue.connect(&self.slot.shared).await,
        };
        if let Some((error, queued)) = self.slot.connected(result, is_attempt) {
            self.refresh_topology();
            fail_all(queued.into_checks(), &error);
        }
    }

    /// Replaces the connection in the background. If that fails, the old connection stays in use.
    fn renew_connection(&self) {
        let (queue, shared) = (self.slot.queue.clone(), self.slot.shared.clone());
        let runtime = self.slot.runtime.clone();
        self.slot.runtime.spawn(async move {
            if let Ok(mut connection) = queue.connect(&shared).await {
                queue.with_queue(&runtime, |queue| {
                    // Charges can be settled over the new connection, unless it is to another server, or
                    // the old one was lost, perhaps with the server's data.
                    if let Some(renewed) = queue.open_connection()
                        && renewed.address == connection.address
                    {
                        connection.number = renewed.number;
                    }
                    queue.connection = Some(Arc::new(connection));
                });
            }
        });
    }

    fn refresh_topology(&self) {
        let shared = &self.slot.shared;
        shared.topology.refresh(shared, &self.slot.runtime);
    }

    async fn send_next_batch(&self, connection: &Connection) {
        let round_trip = connection.round_trip();
        let (mut batch, another) = self.slot.with_queue(|locked| {
            let max_keys = locked.batch_keys(self.slot.shared.max_batch_keys);
            let batch = locked.checks.take_batch(max_keys, round_trip);
            let another = locked
                .needs_another_worker()
                .then(|| self.slot.another(locked));
            (batch, another)
        });
        batch.retain_mut(|item| {
            let is_for = item.is_for(connection.number);
            if !is_for {
                fail_all(mem::take(&mut item.checks), &charged_elsewhere());
            }
            is_for
        });
        let has_several_items = batch.len() > 1;
        if let Some(another) = another {
            start(another);
        }
        batch.retain(|item| item.is_for(connection.number));
        if self.send_batch(connection, batch).await.is_err() {
            connection.abandon();
            self.slot.with_queue(RuntimeQueue::drop_closed_connection);
        }
        let server = &self.slot.queue.server;
        server.verify_primary(connection, &self.slot.runtime);
        if connection.is_due_for_renewal() {
            self.renew_connection();
        }
        if has_several_items {
            yield_to_answered().await;
        }
    }

    async fn send_batch(
        &self,
        connection: &Connection,
        batch: Vec<BatchItem>,
    ) -> Result<(), ConnectionUnusable> {
        let called_at = Instant::now();
        let one_identity_per_call = self.slot.queue.one_identity_per_call();
        let prefix = &self.slot.shared.prefix;
        let calls = calls(batch, one_identity_per_call, prefix, called_at);
        let without_script = self.send_calls(connection, calls, called_at, false).await?;
        self.send_calls(connection, without_script, called_at, true)
            .await?;
        Ok(())
    }

    /// Sends calls in one pipeline and delivers the replies. Returns the calls that failed since the
    /// server has not loaded the script.
    async fn send_calls(
        &self,
        connection: &Connection,
        calls: Vec<Call>,
        called_at: Instant,
        with_source: bool,
    ) -> Result<Vec<Call>, ConnectionUnusable> {
        let Some(last_deadline) = last_deadline(&calls) else {
            return Ok(calls);
        };
        let shared = &self.slot.shared;
        shared.meter.batch(calls.iter().map(Call::checks).sum());
        // With one identity per call, the calls may go to several servers, and each needs the source.
        let source_for_all = self.slot.queue.one_identity_per_call();
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            if call.asking {
                pipeline.cmd("ASKING");
            }
            let with_source = with_source && (index == 0 || source_for_all);
            let now = connection.server_time(called_at);
            pipeline.add_command(shared.script.command(&call.input, now, with_source));
        }

        // A reply after the last deadline still shows that the connection works. But checks that
        // arrived since are queued behind it, so the extra time is bounded.
        let sent_at = Instant::now();
        let timeout = last_deadline.saturating_duration_since(sent_at);
        let reply_deadline = sent_at + timeout + timeout.min(MAX_REPLY_GRACE);
        let sending = connection.send(&pipeline);
        let replies = shared.timeouts.timeout_at(reply_deadline, sending).await;
        let timed_out =
            || StoreError::new(StoreErrorKind::TimedOut, "no reply before the deadline");
        let replies = replies.ok_or_else(timed_out);
        match replies.and_then(|sent| sent.map_err(|error| connection_error(&error))) {
            Ok(replies) => {
                let times = (called_at, sent_at);
                self.deliver_replies(connection, calls, replies, times, with_source)
                    .await
            }
            Err(error) => {
                let error = error.at(&connection.address);
                fail_all(calls.into_iter().flat_map(Call::into_checks), &error);
                self.refresh_topology();
                Err(ConnectionUnusable)
            }
        }
    }

    /// Delivers the replies to calls that were built at `called_at` and sent at `sent_at`.
    async fn deliver_replies(
        &self,
        connection: &Connection,
        calls: Vec<Call>,
        replies: Vec<Value>,
        (called_at, sent_at): (Instant, Instant),
        with_source: bool,
    ) -> Result<Vec<Call>, ConnectionUnusable> {
        let round_trip = sent_at.elapsed();
        let mut replies = replies.into_iter();
        let mut without_script = Vec::new();
        let mut is_usable = true;
        for call in calls {
            if call.asking {
                replies.next();
            }
            let mut is_single_item = false;
            let (undecided, error) = match decode(&call.input, replies.next()) {
                Ok(mut reply) => {
                    connection.record_reply(reply.now, round_trip);
                    let error = reply.error.take();
                    let receipts = Receipts {
                        shared: &self.slot.shared,
                        source: Source {
                            connection: connection.number,
                            runtime: self.slot.runtime.clone(),
                            charged_at: called_at,
                        },
                    };
                    let undecided = deliver(call, reply, &receipts).await;
                    self.retry(connection, undecided.expired, &CallError::Expired, false);
                    match error {
                        Some(error) => (undecided.failed, error),
                        None => continue,
                    }
                }
                Err(CallError::NoScript) if !with_source => {
                    without_script.push(call);
                    continue;
                }
                Err(error) => {
                    is_single_item = call.items.len() == 1;
                    (call.into_checks().collect(), error)
                }
            };
            let mut is_final = error.is_final();
            match error {
                CallError::CrossSlot if is_single_item => is_final = true,
                CallError::CrossSlot => {
                    let queue = &self.slot.queue;
                    queue.one_identity_per_call.store(true, Ordering::Relaxed);
                }
                CallError::NotPrimary(_)
                    if is_usable && !self.slot.with_queue(RuntimeQueue::may_leave_replica) =>
                {
                    is_final = true;
                }
                CallError::NotPrimary(_) | CallError::UnexpectedReply => is_usable = false,
                _ => {}
            }
            self.retry(connection, undecided, &error, is_final);
        }
        if is_usable {
            return Ok(without_script);
        }
        let checks = without_script.into_iter().flat_map(Call::into_checks);
        self.retry(connection, checks, &CallError::NoScript, false);
        Err(ConnectionUnusable)
    }

    fn retry(
        &self,
        connection: &Connection,
        checks: impl IntoIterator<Item = PendingCheck>,
        error: &CallError,
        is_final: bool,
    ) {
        retry(&self.slot, &connection.address, checks, error, is_final);
    }
}
