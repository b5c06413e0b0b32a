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
    /// Those of them whose body has not arrived completely.
    arriving: usize,
    /// Bytes of the heads and bodies of the requests in flight, and of their responses.
    held: usize,
    /// When a request last began, had arrived completely, or ended.
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
    parts: Mutex<Parts>,
}

#[derive(Debug)]
struct Parts {
    held: usize,
    is_complete: bool,
}

/// A connection on which the server waits for its client. In the order of eviction: first those that
/// owe a request or the rest of one, then those between two requests; of each, first the one that
/// keeps the server waiting for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waiting {
    ForRest(Instant),
    ForNext(Instant),
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            accepted: now,
            state: Mutex::new(State {
                version: None,
                in_flight: 0,
                arriving: 0,
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

    /// `None` while the server works on a request, and once the connection is evicted.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        let state = self.state();
        match state {
            _ if !state.is_evictable() => None,
            _ if state.version.is_none() || state.arriving > 0 => {
                Some(Waiting::ForRest(state.last))
            }
            _ => Some(Waiting::ForNext(state.last)),
        }
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
        state.arriving += 1;
        state.last = Instant::now();
        Ok(InFlight {
            activity: Arc::clone(self),
            parts: Mutex::new(Parts {
                held: head,
                is_complete: false,
            }),
        })
    }

    /// Evicts the connection, unless the server works on a request.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.state();
        if !state.is_evictable() {
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

impl State {
    fn is_evictable(&self) -> bool {
        self.in_flight == self.arriving && !self.is_evicted
    }
}

impl InFlight {
    /// The request has arrived completely.
    pub(super) fn complete(&self) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if !parts.is_complete {
            parts.is_complete = true;
            let mut state = self.activity.state();
            state.arriving -= 1;
            state.last = Instant::now();
        }
    }

    /// Counts bytes that came or that are about to be sent.
    pub(super) fn hold(&self, bytes: usize) -> Result<(), TooMuch> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        parts.held += bytes;
        state.held += bytes;
        match state.held > MAX_HELD {
            true => Err(TooMuch),
            false => Ok(()),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let parts = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        state.held -= parts.held;
        state.arriving -= usize::from(!parts.is_complete);
        state.in_flight -= 1;
        state.last = Instant::now();
    }
}
