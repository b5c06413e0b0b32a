use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::Version;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of requests and responses that one connection may make the server hold. With the buffers of
/// HTTP/2 and the tasks of its streams, a connection stays below 1 MiB.
const MAX_HELD: usize = 256 * 1024;

/// The requests of one connection, as its task, its requests and the table of connections see them.
#[derive(Debug)]
pub(super) struct Activity {
    accepted: Instant,
    state: Mutex<State>,
    evicted: Notify,
}

#[derive(Debug)]
struct State {
    /// The version of the first request; `None` until its head is complete.
    version: Option<Version>,
    /// Requests whose response has not been sent completely.
    in_flight: usize,
    /// Bytes of the heads and bodies of the requests in flight, and of their responses.
    held: usize,
    /// When a request last began or ended.
    last: Instant,
    is_evicted: bool,
}

/// The connection holds too much already.
#[derive(Debug)]
pub(super) struct TooMuch;

/// A request in flight. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    held: Mutex<usize>,
}

/// How replaceable a connection without requests in flight is: first those that never sent a request,
/// then those that have been idle for longest.
pub(super) type Idle = (bool, Instant);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            accepted: now,
            state: Mutex::new(State {
                version: None,
                in_flight: 0,
                held: 0,
                last: now,
                is_evicted: false,
            }),
            evicted: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// The version of the first request; `None` until its head is complete.
    pub(super) fn version(&self) -> Option<Version> {
        self.state().version
    }

    /// `None` while a request is in flight, and once the connection is evicted.
    pub(super) fn idle(&self) -> Option<Idle> {
        let state = self.state();
        let is_idle = state.in_flight == 0 && !state.is_evicted;
        is_idle.then_some((state.version.is_some(), state.last))
    }

    /// Begins a request whose head has this many bytes.
    pub(super) fn begin(
        self: &Arc<Self>,
        version: Version,
        head: usize,
    ) -> Result<InFlight, TooMuch> {
        let mut state = self.state();
        state.version.get_or_insert(version);
        if state.is_evicted || state.held + head > MAX_HELD {
            return Err(TooMuch);
        }
        state.held += head;
        state.in_flight += 1;
        state.last = Instant::now();
        Ok(InFlight {
            activity: Arc::clone(self),
            held: Mutex::new(head),
        })
    }

    /// Evicts the connection, if no request is in flight.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.state();
        if state.in_flight > 0 || state.is_evicted {
            return false;
        }
        state.is_evicted = true;
        self.evicted.notify_one();
        true
    }

    /// Waits until the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl InFlight {
    /// Counts bytes that came or that are about to be sent.
    pub(super) fn hold(&self, bytes: usize) -> Result<(), TooMuch> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        *held += bytes;
        state.held += bytes;
        match state.held > MAX_HELD {
            true => Err(TooMuch),
            false => Ok(()),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        state.held -= *held;
        state.in_flight -= 1;
        state.last = Instant::now();
    }
}
