use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, Pipeline, PushInfo, RedisResult, Value,
};
use tokio::time::Instant;

use super::refusal::broken;
use super::script::{self, Question, Script};
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Place;
use crate::store::StoreError;

/// How long it may take to connect, log in and read the clock. Checks do not wait that long.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// A connection to one server, which knows that server's clock. Closed when dropped.
pub(super) struct Connection {
    client: MultiplexedConnection,
    alive: Alive,
    given_up: AtomicBool,
    heard: Mutex<Heard>,
    /// Where a sentinel said that the primary is.
    #[cfg(feature = "redis-sentinel")]
    pub(super) place: Option<Place>,
}

/// Goes with the task that drives a connection: when the other side closes it, or when the runtime
/// that it was made on ends.
type Alive = Weak<()>;

/// What was last heard of the server.
#[derive(Clone, Copy)]
struct Heard {
    /// Its clock, in microseconds since the Unix epoch.
    now: u64,
    /// When that arrived here: the server read it a little earlier.
    at: Instant,
    /// How long the answer took.
    round_trip: Duration,
}

impl Connection {
    /// Connects, and reads the server's clock.
    pub(super) async fn open(info: ConnectionInfo, script: &Script) -> Result<Self, StoreError> {
        let (client, alive) = connect(info).await.map_err(|error| broken(&error))?;
        let nothing_yet = Heard {
            now: 0,
            at: Instant::now(),
            round_trip: Duration::ZERO,
        };
        let connection = Self {
            client,
            alive,
            given_up: AtomicBool::new(false),
            heard: Mutex::new(nothing_yet),
            #[cfg(feature = "redis-sentinel")]
            place: None,
        };
        // A call that asks nothing tells the time, and teaches the server the script.
        let nothing = Question::default();
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(script.call(&nothing, 0, true));
        let began = Instant::now();
        let replied = connection.send(&pipeline).await;
        let reply = replied.map_err(|error| broken(&error))?.pop();
        let answer = script::read(&nothing, reply)?;
        connection.answered(answer.now, began.elapsed());
        Ok(connection)
    }

    /// Whether nothing comes of it any more.
    pub(super) fn is_closed(&self) -> bool {
        #[cfg(feature = "redis-sentinel")]
        if self.place.as_ref().is_some_and(Place::is_lost) {
            return true;
        }
        self.given_up.load(Ordering::Relaxed) || self.alive.strong_count() == 0
    }

    /// Sees to it that it is used no more.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an answer that has just arrived: the server's time, and how long it took.
    pub(super) fn answered(&self, now: u64, round_trip: Duration) {
        let at = Instant::now();
        *self.heard() = Heard {
            now,
            at,
            round_trip,
        };
    }

    /// What the server's clock shows at `instant`, or a little less: whatever is void after that is
    /// not done later than `instant`.
    pub(super) fn server_time(&self, instant: Instant) -> u64 {
        let heard = *self.heard();
        let since = instant.saturating_duration_since(heard.at).as_micros() as u64;
        let before = heard.at.saturating_duration_since(instant).as_micros() as u64;
        (heard.now + since).saturating_sub(before)
    }

    /// How long the last answer took.
    pub(super) fn round_trip(&self) -> Duration {
        self.heard().round_trip
    }

    /// Writes some commands at once and waits for as many replies, errors among them.
    pub(super) async fn send(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut client = self.client.clone();
        client
            .send_packed_commands(commands, 0, commands.len())
            .await
    }
}

/// A connection of the client's.
pub(super) async fn connect(info: ConnectionInfo) -> RedisResult<(MultiplexedConnection, Alive)> {
    let task = Arc::new(());
    let alive = Arc::downgrade(&task);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        // Only the connection's task has it.
        .set_push_sender(move |_: PushInfo| {
            let _ = &task;
            Ok::<(), redis::aio::SendError>(())
        });
    let client = Client::open(info)?;
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    Ok((connection.await?, alive))
}
