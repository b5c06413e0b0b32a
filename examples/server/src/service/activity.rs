//! The requests in flight on a connection, and the memory that they hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Version;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The maximum memory of the requests and responses of one connection, in bytes. With the buffers
/// and tasks of HTTP/2 streams, a connection needs less than 1 MiB (test:
/// `resources::connection_holds_less_than_a_mebibyte`).
const MAX_MEMORY: usize = 192 * 1024;

/// The requests of one connection. Its task, its requests and the connection table share it.
#[derive(Debug)]
pub(super) struct ConnectionActivity {
    accepted: Instant,
    state: Mutex<State>,
    evicted: Notify,
}

#[derive(Debug)]
struct State {
    /// The HTTP version. `None` until the head of the first request is complete.
    version: Option<Version>,
    /// The number of requests in flight, by stage.
    requests: [usize; 3],
    /// The bytes of the heads and bodies of the requests in flight, and of their responses.
    memory: usize,
    /// When a request last began, reached another stage, or ended.
    last_change: Instant,
    is_evicted: bool,
}

/// The error that a connection would exceed [`MAX_MEMORY`].
#[derive(Debug)]
pub(super) struct MemoryLimitExceeded;

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlightRequest {
    activity: Arc<ConnectionActivity>,
    request: Mutex<RequestState>,
}

#[derive(Debug)]
struct RequestState {
    memory: usize,
    stage: Stage,
}

/// The stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    /// The body is incomplete.
    Receiving,
    /// The server computes the response.
    Working,
    /// The response is being sent. This stage is short, unless the client reads slowly or the
    /// response is a stream.
    Sending,
}

/// The time after which an incomplete request is late, so that its connection is evicted first. It
/// is longer than a round trip, to spare new clients.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// Why a connection may be evicted, in the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionClass {
    /// Its first request, or the rest of a request, is late.
    LateRequest,
    /// The server waits for a request.
    Idle,
}

impl ConnectionActivity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            accepted: now,
            state: Mutex::new(State {
                version: None,
                requests: [0; 3],
                memory: 0,
                last_change: now,
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

    /// Returns the HTTP version, or `None` until the head of the first request is complete.
    pub(super) fn version(&self) -> Option<Version> {
        self.state().version
    }

    /// Returns why the connection may be evicted, and since when the server has waited for its
    /// client. Returns `None` while the server computes a response, and after the eviction.
    pub(super) fn eviction_class(&self) -> Option<(EvictionClass, Instant)> {
        let state = self.state();
        let is_late = state.awaits_request() && state.last_change.elapsed() >= LATE_AFTER;
        let eviction_class = match is_late {
            true => EvictionClass::LateRequest,
            false => EvictionClass::Idle,
        };
        state
            .is_evictable()
            .then_some((eviction_class, state.last_change))
    }

    /// Returns since when no request is being received or decided.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        let [receiving, working, _] = state.requests;
        (receiving + working == 0).then_some(state.last_change)
    }

    /// Begins a request whose head needs `head` bytes.
    pub(super) fn begin_request(
        self: &Arc<Self>,
        version: Version,
        head: usize,
    ) -> Result<InFlightRequest, MemoryLimitExceeded> {
        let mut state = self.state();
        state.version.get_or_insert(version);
        if state.is_evicted || state.memory + head > MAX_MEMORY {
            return Err(MemoryLimitExceeded);
        }
        state.memory += head;
        state.requests[Stage::Receiving as usize] += 1;
        state.last_change = Instant::now();
        Ok(InFlightRequest {
            activity: Arc::clone(self),
            request: Mutex::new(RequestState {
                memory: head,
                stage: Stage::Receiving,
            }),
        })
    }

    /// Evicts the connection and returns true, unless the server computes a response.
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

    /// Returns whether the first request, or the rest of a request, is missing.
    fn awaits_request(&self) -> bool {
        self.version.is_none() || self.requests[Stage::Receiving as usize] > 0
    }
}

impl InFlightRequest {
    /// Sets the stage of the request, unless the request has passed it.
    pub(super) fn advance_to(&self, stage: Stage) {
        let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        if request.stage < stage {
            let mut state = self.activity.state();
            state.requests[request.stage as usize] -= 1;
            state.requests[stage as usize] += 1;
            state.last_change = Instant::now();
            request.stage = stage;
        }
    }

    /// Adds bytes of the request.
    pub(super) fn add_request_bytes(&self, bytes: usize) -> Result<(), MemoryLimitExceeded> {
        self.add_bytes_unless(bytes, |connection, _| connection > MAX_MEMORY)
    }

    /// Adds bytes of the response. A single request may exceed the maximum by its response.
    pub(super) fn add_response_bytes(&self, bytes: usize) -> Result<(), MemoryLimitExceeded> {
        self.add_bytes_unless(bytes, |connection, request| {
            connection > MAX_MEMORY && connection > request
        })
    }

    /// Adds bytes, unless the sums for the connection and for the request exceed a maximum.
    fn add_bytes_unless(
        &self,
        bytes: usize,
        exceeds: impl Fn(usize, usize) -> bool,
    ) -> Result<(), MemoryLimitExceeded> {
        let mut request = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        let memory = state.memory.saturating_add(bytes);
        let request_memory = request.memory.saturating_add(bytes);
        if exceeds(memory, request_memory) {
            return Err(MemoryLimitExceeded);
        }
        (state.memory, request.memory) = (memory, request_memory);
        Ok(())
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        let request = self
            .request
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let mut state = self.activity.state();
        state.memory -= request.memory;
        state.requests[request.stage as usize] -= 1;
        state.last_change = Instant::now();
    }
}
