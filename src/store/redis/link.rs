//! The way to one server: a queue, and the task that empties it, a round trip at a time. While one
//! is under way further checks wait, and the next carries them all: no timer, and no added latency
//! at rest. Where the server is so far away that they would wait too long, or so many wait that it
//! would wait for this task, more tasks are started, and several round trips are under way at once.
//!
//! Each runtime has a queue, a task and a connection of its own, so that none waits for what another
//! does not get round to.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Core;
use super::batch::{Call, calls, fail};
use super::connection::{Connection, PATIENCE};
use super::pace::{Pace, others_first};
use super::queue::Queue;
use super::refusal::{Refusal, broken, unavailable};
use super::script::read;
use super::server::Server;
use super::waiter::Waiter;
use super::waiting::Entry;
use crate::store::{StoreError, StoreErrorKind};

/// How often a check is asked again after the server said that it did not run it.
const MOST_REFUSALS: u32 = 4;

/// How long to wait for the rest of a slot to be moved.
const MOVING: Duration = Duration::from_millis(2);

pub(super) struct Link {
    pub(super) server: Server,
    queues: Mutex<Vec<Queue>>,
    /// Whether each entry has a call of its own, since the server, or servers behind a proxy, would not
    /// run calls for several identities.
    pub(super) separate: AtomicBool,
}

impl Link {
    pub(super) fn new(server: Server, separate: bool) -> Self {
        Self {
            server,
            queues: Mutex::default(),
            separate: separate.into(),
        }
    }

    fn is_separate(&self) -> bool {
        self.separate.load(Ordering::Relaxed)
    }

    /// Makes a connection, unless that takes too long.
    async fn open(&self, core: &Core) -> Result<Connection, StoreError> {
        let opened = timeout(self.server.patience(), self.server.open(core)).await;
        let too_slow = || unavailable("connecting took too long").at(&self.server.name());
        let connection = opened.unwrap_or_else(|_| Err(too_slow()))?;
        if connection.is_clustered {
            self.separate.store(true, Ordering::Relaxed);
        }
        Ok(connection)
    }

    /// Does something with the queue of a runtime.
    fn with_queue<T>(&self, runtime: &Handle, act: impl FnOnce(&mut Queue) -> T) -> T {
        let id = runtime.id();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let known = queues.iter().position(|queue| queue.runtime == id);
        let place = known.unwrap_or_else(|| {
            // Those of runtimes that have ended are in nobody's use.
            queues.retain(Queue::is_in_use);
            queues.push(Queue::new(id));
            queues.len() - 1
        });
        act(&mut queues[place])
    }

    /// Puts a waiter in the queue, unless it is full.
    pub(super) fn ask(self: &Arc<Self>, core: &Arc<Core>, runtime: &Handle, waiter: Waiter) {
        let mut refused = None;
        let driver = self.with_queue(runtime, |queue| {
            let starts_after = queue.needs_driver(waiter.patience);
            if let Err(waiter) = queue.waiting.push(waiter, core.longest_queue) {
                refused = Some(waiter);
                return None;
            }
            Some(Driver::new(self, core, runtime, queue, starts_after?))
        });
        if let Some(waiter) = refused {
            waiter.answer(Err(StoreErrorKind::Overloaded.into()));
        }
        if let Some(driver) = driver {
            driver.start();
        }
    }
}

/// Empties a queue, in a task that serves one after another.
pub(super) struct Driver {
    link: Arc<Link>,
    core: Arc<Core>,
    runtime: Handle,
    starts_after: Duration,
    connecting: bool,
    done: bool,
    /// How its task is given the next one, once this is done.
    task: Option<UnboundedSender<Driver>>,
}

/// However it ends, the next waiter starts another.
impl Drop for Driver {
    fn drop(&mut self) {
        if !self.done {
            let left = self.with_queue(|queue| {
                queue.drivers -= 1;
                queue.connecting &= !self.connecting;
                mem::take(&mut queue.waiting)
            });
            drop(left);
        }
    }
}

/// How a driver goes on.
enum Next {
    Ask(Arc<Connection>),
    Connect,
    Done,
}

impl Driver {
    fn new(
        link: &Arc<Link>,
        core: &Arc<Core>,
        runtime: &Handle,
        queue: &mut Queue,
        starts_after: Duration,
    ) -> Self {
        queue.drivers += 1;
        Self {
            link: link.clone(),
            core: core.clone(),
            runtime: runtime.clone(),
            starts_after,
            connecting: false,
            done: false,
            task: None,
        }
    }

    /// Goes on in a task that has nothing to do, if there is one: to make one takes longer.
    fn start(mut self) {
        while let Some(task) = self.with_queue(|queue| queue.idle.pop()) {
            self.task = Some(task.clone());
            match task.send(self) {
                Ok(()) => return,
                Err(SendError(driver)) => self = driver,
            }
        }
        let (task, next) = unbounded_channel();
        self.task = Some(task);
        self.runtime.clone().spawn(self.run_and(next));
    }

    /// Runs, and after that whichever is next, until the queue is gone.
    async fn run_and(self, mut next: UnboundedReceiver<Self>) {
        let mut driver = Some(self);
        while let Some(one) = driver {
            one.run().await;
            driver = next.recv().await;
        }
    }

    fn another(&self, queue: &mut Queue) -> Self {
        Self::new(&self.link, &self.core, &self.runtime, queue, Duration::ZERO)
    }

    fn with_queue<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        self.link.with_queue(&self.runtime, act)
    }

    async fn run(mut self) {
        if !self.starts_after.is_zero() {
            sleep(self.starts_after).await;
        }
        loop {
            match self.next() {
                Next::Ask(connection) => {
                    let took = connection.round_trip();
                    let (entries, another) = self.with_queue(|queue| {
                        let most_keys = queue.share(self.core.most_keys);
                        let entries = queue.waiting.take(most_keys, took);
                        let is_left = queue.has_some_left();
                        let another = is_left.then(|| self.another(queue));
                        (entries, another)
                    });
                    let many = entries.len() > 1;
                    if let Some(another) = another {
                        another.start();
                    }
                    if self.ask(&connection, entries).await.is_err() {
                        connection.give_up();
                        self.with_queue(Queue::forget_closed);
                    }
                    self.link.server.watch(&connection, &self.runtime);
                    if connection.is_due_for_renewal() {
                        self.renew();
                    }
                    if many {
                        others_first().await;
                    }
                }
                // Large and seldom: so the task stays small.
                Next::Connect => Box::pin(self.connect()).await,
                Next::Done => return,
            }
        }
    }

    fn next(&mut self) -> Next {
        let mut task = self.task.take();
        let next = self.with_queue(|queue| {
            let next = match queue.open_connection() {
                _ if queue.waiting.is_empty() => Next::Done,
                Some(connection) => Next::Ask(connection.clone()),
                // Whoever is connecting sees to those who wait.
                None if queue.connecting => Next::Done,
                None => Next::Connect,
            };
            match next {
                Next::Ask(_) => {}
                Next::Connect => queue.connecting = true,
                Next::Done => {
                    queue.drivers -= 1;
                    queue.idle.extend(task.take());
                }
            }
            next
        });
        self.task = task;
        self.connecting = matches!(next, Next::Connect);
        self.done = matches!(next, Next::Done);
        next
    }

    /// Makes a connection. If there is none to be had, everything that waits fails.
    async fn connect(&mut self) {
        let failed_lately = self.with_queue(|queue| {
            queue.forget_closed();
            let waits = queue.backoff.is_on() && !queue.waiting.has_probe();
            queue.failure.clone().filter(|_| waits)
        });
        let too_soon = failed_lately.is_some();
        let opened = match failed_lately {
            Some(error) => Err(error),
            None => self.link.open(&self.core).await,
        };
        self.connecting = false;
        let failed = self.with_queue(|queue| {
            queue.connecting = false;
            if !too_soon {
                queue.backoff.report(opened.is_ok());
            }
            queue.failure = opened.as_ref().err().cloned();
            match opened {
                Ok(connection) => {
                    queue.connection = Some(Arc::new(connection));
                    None
                }
                Err(error) => Some((error, mem::take(&mut queue.waiting))),
            }
        });
        if let Some((error, waiting)) = failed {
            self.core.servers.unreachable(&self.core, &self.runtime);
            fail(waiting.into_waiters(), &error);
        }
    }

    /// Replaces the connection by a new one in the background. If that fails, the old one stays.
    fn renew(&self) {
        let (link, core, runtime) = (self.link.clone(), self.core.clone(), self.runtime.clone());
        self.runtime.spawn(async move {
            if let Ok(connection) = link.open(&core).await {
                let connection = Some(Arc::new(connection));
                link.with_queue(&runtime, |queue| queue.connection = connection);
            }
        });
    }

    /// Asks what the waiters ask, and hands out the answers.
    async fn ask(&self, connection: &Connection, entries: Vec<Entry>) -> Result<(), Unusable> {
        let asked = Instant::now();
        let separate = self.link.is_separate();
        let calls = calls(entries, separate, &self.core.prefix, asked);
        let unknown = self.round_trip(connection, calls, asked, false).await?;
        // Where the server does not know the script, it is sent along.
        self.round_trip(connection, unknown, asked, true).await?;
        Ok(())
    }

    /// Returns the calls that the server did not run since it does not know the script.
    async fn round_trip(
        &self,
        connection: &Connection,
        calls: Vec<Call>,
        asked: Instant,
        whole: bool,
    ) -> Result<Vec<Call>, Unusable> {
        let Some(last_gone) = calls.iter().filter_map(Call::last_gone).max() else {
            return Ok(calls);
        };
        self.core.meter.batch(calls.iter().map(Call::len).sum());
        // Separate calls may go to several servers, each of which has to be sent the script.
        let separate = self.link.is_separate();
        let mut commands = Pipeline::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            if call.asking {
                commands.cmd("ASKING");
            }
            let (script, now) = (&self.core.script, connection.server_time(asked));
            let whole = whole && (index == 0 || separate);
            commands.add_command(script.call(&call.question, now, whole));
        }

        // The waiters go when their time is up. The reply may still come, and then the connection is
        // good. But those who have come since wait behind it, so not for much longer.
        let began = Instant::now();
        let patience = last_gone.saturating_duration_since(began);
        let end = began + patience + patience.min(PATIENCE);
        let sent = connection.send(&commands);
        let replied = timeout_at(end, sent).await.ok();
        let timed_out = || StoreError::new(StoreErrorKind::TimedOut, "no answer in time");
        let replied = replied.ok_or_else(timed_out);
        match replied.and_then(|sent| sent.map_err(|error| broken(&error))) {
            Ok(replies) => {
                self.hand_out(connection, calls, replies, (asked, began), whole)
                    .await
            }
            Err(error) => {
                let error = error.at(&connection.address);
                fail(calls.into_iter().flat_map(Call::into_waiters), &error);
                self.core.servers.unreachable(&self.core, &self.runtime);
                Err(Unusable)
            }
        }
    }

    /// Hands out the replies to calls that were made, and sent, at these instants.
    async fn hand_out(
        &self,
        connection: &Connection,
        calls: Vec<Call>,
        replies: Vec<Value>,
        (asked, sent): (Instant, Instant),
        whole: bool,
    ) -> Result<Vec<Call>, Unusable> {
        let took = sent.elapsed();
        let mut replies = replies.into_iter();
        let mut unknown = Vec::new();
        let mut usable = true;
        let mut pace = Pace::default();
        for call in calls {
            if call.asking {
                replies.next();
            }
            let mut single = false;
            let (refused, refusal) = match read(&call.question, replies.next()) {
                Ok(answer) => {
                    connection.answered(answer.now, took);
                    let denials = &self.core.denials;
                    let undone = call.answer(answer.now, answer.entries, asked, denials, &mut pace);
                    let undone = undone.await;
                    self.refused(connection, undone.late, &Refusal::TooLate, false);
                    match answer.refusal {
                        Some(refusal) => (undone.refused, refusal),
                        None => continue,
                    }
                }
                Err(Refusal::NoScript) if !whole => {
                    unknown.push(call);
                    continue;
                }
                Err(refusal) => {
                    single = call.entries() == 1;
                    (call.into_waiters().collect(), refusal)
                }
            };
            let mut last = refusal.is_final();
            match refusal {
                Refusal::CrossSlot if single => last = true,
                Refusal::CrossSlot => self.link.separate.store(true, Ordering::Relaxed),
                Refusal::NotPrimary(_) if usable && !self.with_queue(Queue::follows) => last = true,
                Refusal::NotPrimary(_) | Refusal::Unintelligible => usable = false,
                _ => {}
            }
            self.refused(connection, refused, &refusal, last);
        }
        if usable {
            return Ok(unknown);
        }
        let unknown = unknown.into_iter().flat_map(Call::into_waiters);
        self.refused(connection, unknown, &Refusal::NoScript, false);
        Err(Unusable)
    }

    /// Sees to waiters whose call the server did not run: they are asked again, unless this was the
    /// last time.
    fn refused(
        &self,
        connection: &Connection,
        waiters: impl IntoIterator<Item = Waiter>,
        refusal: &Refusal,
        last: bool,
    ) {
        let (core, runtime) = (&self.core, &self.runtime);
        if matches!(refusal, Refusal::NotPrimary(_) | Refusal::Busy(_)) {
            core.servers.unreachable(core, runtime);
        }
        for mut waiter in waiters {
            if refusal.is_of_moving() && !mem::replace(&mut waiter.alone, true) {
                // The reason may be the keys of other checks in the call: Redis 6.2 sends a call on if
                // any of its keys is missing.
                core.servers.ask(core, runtime, waiter);
                continue;
            }
            waiter.refusals += 1;
            if last || waiter.refusals > MOST_REFUSALS {
                let error = StoreError::from(refusal.clone()).at(&connection.address);
                waiter.answer(Err(error));
                continue;
            }
            match refusal {
                Refusal::Elsewhere { .. } => {
                    core.servers
                        .redirect(core, runtime, waiter, &self.link.server, refusal);
                }
                Refusal::TryAgain => {
                    let core = core.clone();
                    let later = runtime.clone();
                    runtime.spawn(async move {
                        sleep(MOVING).await;
                        core.servers.ask(&core, &later, waiter);
                    });
                }
                _ => core.servers.ask(core, runtime, waiter),
            }
        }
    }
}

/// The connection is not to be used any more.
struct Unusable;
