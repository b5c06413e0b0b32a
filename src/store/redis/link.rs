//! The way to one server: a queue, and the task that empties it, a round trip at a time. While one
//! is under way further checks wait, and the next carries them all: no timer, and no added latency
//! at rest.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Pipeline;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::Core;
use super::backoff::Backoff;
use super::batch::{Call, Waiter, calls, take};
use super::connection::{Connection, PATIENCE};
use super::refusal::{Refusal, broken, unavailable};
use super::script::read;
use super::server::Server;
use crate::random::jitter;
use crate::store::{StoreError, StoreErrorKind};

/// How often a check is asked again after the server said that it did not run it.
const MOST_REFUSALS: u32 = 4;

/// A server that is no primary is left for whichever is, but not more often: it may stay so, and
/// what it is asked to deny it still denies.
const FOLLOWED: Duration = Duration::from_secs(1);

/// How long to wait for the rest of a slot to be moved.
const MOVING: Duration = Duration::from_millis(2);

pub(super) struct Link {
    server: Server,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    /// Whether a task empties it.
    driven: bool,
    /// Kept here from one task to the next.
    connection: Option<Connection>,
    backoff: Backoff,
    /// Until when a server that is no primary is not left again.
    followed: Option<Instant>,
}

impl Queue {
    /// Whether to leave a server that is no primary, now.
    fn follows(&mut self) -> bool {
        let now = Instant::now();
        if self.followed.is_some_and(|followed| now < followed) {
            return false;
        }
        self.followed = Some(now + FOLLOWED.mul_f64(0.5 + jitter() / 2.0));
        true
    }
}

impl Link {
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            queue: Mutex::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a waiter in the queue, unless it is full.
    pub(super) fn ask(self: &Arc<Self>, core: &Arc<Core>, runtime: &Handle, waiter: Waiter) {
        let mut queue = self.queue();
        if queue.waiting.len() >= core.longest_queue && !waiter.probes {
            drop(queue);
            waiter.answer(Err(StoreErrorKind::Overloaded.into()));
            return;
        }
        queue.waiting.push_back(waiter);
        if !mem::replace(&mut queue.driven, true) {
            let driver = Driver {
                connection: queue.connection.take(),
                link: self.clone(),
                core: core.clone(),
                runtime: runtime.clone(),
                done: false,
            };
            drop(queue);
            runtime.spawn(driver.run());
        }
    }

    /// Fails everything that waits.
    fn fail(&self, error: &StoreError) {
        let waiting = mem::take(&mut self.queue().waiting);
        for waiter in waiting {
            waiter.answer(Err(error.clone()));
        }
    }
}

/// The task that empties a queue.
struct Driver {
    link: Arc<Link>,
    core: Arc<Core>,
    runtime: Handle,
    connection: Option<Connection>,
    done: bool,
}

/// However it ends, the next waiter starts another.
impl Drop for Driver {
    fn drop(&mut self) {
        if !self.done {
            let mut queue = self.link.queue();
            queue.driven = false;
            queue.waiting.clear();
        }
    }
}

impl Driver {
    async fn run(mut self) {
        while !self.is_done() {
            let Some(mut connection) = self.connect().await else {
                continue;
            };
            let waiters = take(&mut self.link.queue().waiting, self.core.most_keys);
            let calls = calls(waiters, &self.core.prefix);
            if self.round_trip(&mut connection, calls).await.is_ok() {
                self.connection = Some(connection);
            }
        }
    }

    /// Whether nobody waits. Then the connection is put by.
    fn is_done(&mut self) -> bool {
        let mut queue = self.link.queue();
        self.done = queue.waiting.is_empty();
        if self.done {
            queue.driven = false;
            queue.connection = self.connection.take();
        }
        self.done
    }

    /// The connection, or a new one. If there is none to be had, everything that waits fails.
    async fn connect(&mut self) -> Option<Connection> {
        if let Some(connection) = self.connection.take().filter(|open| !open.is_closed()) {
            return Some(connection);
        }
        let too_soon = {
            let queue = self.link.queue();
            queue.backoff.is_on() && !queue.waiting.iter().any(|waiter| waiter.probes)
        };
        let opened = if too_soon {
            Err(unavailable("the server could not be reached a moment ago"))
        } else {
            let opened = timeout(PATIENCE, self.link.server.open(&self.core.script)).await;
            let too_slow = |_| Err(unavailable("the server took too long to connect"));
            let opened = opened.unwrap_or_else(too_slow);
            self.link.queue().backoff.report(opened.is_ok());
            opened
        };
        let failed = |error| {
            self.core.servers.unreachable(&self.core, &self.runtime);
            self.link.fail(&error);
        };
        opened.map_err(failed).ok()
    }

    /// Asks what the calls ask, and hands out the answers.
    async fn round_trip(
        &self,
        connection: &mut Connection,
        calls: Vec<Call>,
    ) -> Result<(), Unusable> {
        let unknown = self.exchange(connection, calls, false).await?;
        // Where the server does not know the script, it is sent along.
        self.exchange(connection, unknown, true).await?;
        Ok(())
    }

    /// One round trip. Returns the calls that the server did not run since it does not know the
    /// script.
    async fn exchange(
        &self,
        connection: &mut Connection,
        calls: Vec<Call>,
        whole: bool,
    ) -> Result<Vec<Call>, Unusable> {
        let asked = Instant::now();
        let Some(last) = calls.iter().filter_map(Call::until).max() else {
            return Ok(calls);
        };
        self.core.meter.batch(calls.iter().map(Call::len).sum());
        let mut commands = Pipeline::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            if call.asking {
                commands.cmd("ASKING");
            }
            let expiry = connection.server_time(call.until().unwrap_or(asked));
            let script = &self.core.script;
            commands.add_command(script.call(&call.question, expiry, whole && index == 0));
        }

        // The waiters go when their time is up. The reply may still come, and then the connection is
        // good. But those who have come since wait behind it, so not for more than twice as long.
        let patience = 2 * last.saturating_duration_since(asked);
        let replied = timeout(patience, connection.send(&commands)).await;
        let replied = replied.map_err(|_| StoreErrorKind::TimedOut.into());
        let mut replies = match replied.and_then(|sent| sent.map_err(|error| broken(&error))) {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                calls.into_iter().for_each(|call| call.fail(&error));
                self.core.servers.unreachable(&self.core, &self.runtime);
                return Err(Unusable);
            }
        };

        let mut unknown = Vec::new();
        let mut usable = Ok(());
        for call in calls {
            if call.asking {
                replies.next();
            }
            let refused = match read(&call.question, replies.next()) {
                Ok(answer) => {
                    connection.set_clock(answer.now);
                    let refused =
                        call.answer(answer.now, answer.entries, asked, &self.core.denials);
                    answer.refusal.map(|refusal| (refused, refusal))
                }
                Err(Refusal::NoScript) if !whole => {
                    unknown.push(call);
                    None
                }
                Err(refusal) => Some((call.into_waiters().collect(), refusal)),
            };
            let Some((waiters, refusal)) = refused else {
                continue;
            };
            let mut last = refusal.is_final();
            match refusal {
                Refusal::TooLate { now } => connection.set_clock(now),
                Refusal::NotPrimary(_) if usable.is_ok() && !self.link.queue().follows() => {
                    last = true;
                }
                Refusal::NotPrimary(_) | Refusal::Unintelligible => usable = Err(Unusable),
                _ => {}
            }
            self.refused(waiters, &refusal, last);
        }
        if usable.is_err() {
            let waiters = unknown.drain(..).flat_map(Call::into_waiters);
            self.refused(waiters, &Refusal::NoScript, false);
        }
        usable.map(|()| unknown)
    }

    /// Sees to waiters whose call the server did not run: they are asked again, unless this was the
    /// last time.
    fn refused(&self, waiters: impl IntoIterator<Item = Waiter>, refusal: &Refusal, last: bool) {
        if matches!(refusal, Refusal::NotPrimary(_) | Refusal::Busy(_)) {
            self.core.servers.unreachable(&self.core, &self.runtime);
        }
        for mut waiter in waiters {
            waiter.refused += 1;
            if last || waiter.refused > MOST_REFUSALS {
                waiter.answer(Err(refusal.clone().into()));
                continue;
            }
            let (core, runtime) = (&self.core, &self.runtime);
            match refusal {
                Refusal::Elsewhere { .. } => {
                    let from = &self.link.server;
                    core.servers.redirect(core, runtime, waiter, from, refusal);
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
#[derive(Clone, Copy)]
struct Unusable;
