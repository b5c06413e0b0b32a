use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Version;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of requests and responses that one connection may make the server hold. With the buffers of
/// HTTP/2 and the tasks of its streams, a connection stays below 1 MiB
/// (test: `resources::connection_holds_less_than_a_mebibyte`).
const MAX_HELD: usize = 192 * 1024;

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
    /// Requests in flight, by stage.
    requests: [usize; 3],
    /// Bytes of the heads and bodies of the requests in flight, and of their responses.
    held: usize,
    /// When a request last began, came to another stage, or ended.
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
    stage: Stage,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    /// The body has not arrived completely.
    Arriving,
    /// The server works on the response.
    Working,
    /// The response is being sent, which takes no time unless its client reads slowly or it is a
    /// stream.
    Sending,
}

/// How long a request may take to arrive before its connection is the first to be evicted: longer than
/// a round trip, so that new clients have a chance.
const PATIENCE: Duration = Duration::from_secs(1);

/// For what the server waits, in the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waiting {
    /// For a late request, or the late rest of one.
    Late,
    /// For a request.
    Idle,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            accepted: now,
            state: Mutex::new(State {
                version: None,
                requests: [0; 3],
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

    /// For what the server waits, and since when. `None` while it works on a request, and once the
    /// connection is evicted.
    pub(super) fn waiting(&self) -> Option<(Waiting, Instant)> {
        let state = self.state();
        let is_late = state.owes_rest() && state.last.elapsed() >= PATIENCE;
        let waiting = match is_late {
            true => Waiting::Late,
            false => Waiting::Idle,
        };
        state.is_evictable().then_some((waiting, state.last))
    }

    /// Since when the server has neither received a request nor worked on one.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let state = self.state();
        let [arriving, working, _] = state.requests;
        (arriving + working == 0).then_some(state.last)
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
        state.requests[Stage::Arriving as usize] += 1;
        state.last = Instant::now();
        Ok(InFlight {
            activity: Arc::clone(self),
            parts: Mutex::new(Parts {
                held: head,
                stage: Stage::Arriving,
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
        self.requests[Stage::Working as usize] == 0 && !self.is_evicted
    }

    /// Whether the client has sent no request yet, or only a part of one.
    fn owes_rest(&self) -> bool {
        self.version.is_none() || self.requests[Stage::Arriving as usize] > 0
    }
}

impl InFlight {
    /// Notes that the request has come to this stage, unless it has come further.
    pub(super) fn reach(&self, stage: Stage) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.stage < stage {
            let mut state = self.activity.state();
            state.requests[parts.stage as usize] -= 1;
            state.requests[stage as usize] += 1;
            state.last = Instant::now();
            parts.stage = stage;
        }
    }

    /// Counts bytes of the request.
    pub(super) fn hold(&self, bytes: usize) -> Result<(), TooMuch> {
        self.hold_unless(bytes, |held, _| held > MAX_HELD)
    }

    /// Counts bytes of the response. One that is too large alone is not refused.
    pub(super) fn hold_response(&self, bytes: usize) -> Result<(), TooMuch> {
        self.hold_unless(bytes, |held, own| held > MAX_HELD && held > own)
    }

    /// Counts bytes, unless the sums of the connection and of this request are too much.
    fn hold_unless(
        &self,
        bytes: usize,
        is_too_much: impl Fn(usize, usize) -> bool,
    ) -> Result<(), TooMuch> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        let held = state.held.saturating_add(bytes);
        let own = parts.held.saturating_add(bytes);
        if is_too_much(held, own) {
            return Err(TooMuch);
        }
        (state.held, parts.held) = (held, own);
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let parts = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        state.held -= parts.held;
        state.requests[parts.stage as usize] -= 1;
        state.last = Instant::now();
    }
}
