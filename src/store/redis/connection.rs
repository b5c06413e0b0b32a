use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, Pipeline, PushInfo, RedisResult, Value,
};
use tokio::time::Instant;

use super::refusal::{Refusal, broken};
use super::script::{self, Question, Script};
use crate::store::StoreError;

/// How long it may take to connect, log in and read the clock. Checks do not wait that long.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// A connection to one server, which knows that server's clock. Closed when dropped.
pub(super) struct Connection {
    client: MultiplexedConnection,
    alive: Alive,
    clock: Clock,
}

/// Goes with the task that drives a connection: when the other side closes it, or when the runtime
/// that it was made on ends.
type Alive = Weak<()>;

/// The server's clock, as last seen.
#[derive(Clone, Copy)]
struct Clock {
    /// Microseconds since the Unix epoch.
    now: u64,
    /// When that arrived here: the server read it a little earlier.
    at: Instant,
}

impl Clock {
    /// What the server's clock shows at `instant`, or a little less: whatever is void after that is
    /// not done later than `instant`.
    fn at(&self, instant: Instant) -> u64 {
        self.now + instant.saturating_duration_since(self.at).as_micros() as u64
    }
}

impl Connection {
    /// Connects, and reads the server's clock.
    pub(super) async fn open(info: ConnectionInfo, script: &Script) -> Result<Self, StoreError> {
        let (client, alive) = connect(info).await.map_err(|error| broken(&error))?;
        let clock = Clock {
            now: 0,
            at: Instant::now(),
        };
        let mut connection = Self {
            client,
            alive,
            clock,
        };
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(script.clock());
        let reply = connection
            .send(&pipeline)
            .await
            .map_err(|error| broken(&error))?
            .pop();
        match script::read(&Question::default(), reply) {
            Err(Refusal::TooLate { now }) => connection.set_clock(now),
            Err(refusal) => return Err(refusal.into()),
            Ok(_) => return Err(Refusal::Unintelligible.into()),
        }
        Ok(connection)
    }

    /// Whether nothing comes of it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.alive.strong_count() == 0
    }

    /// Takes note of the server's time, which just arrived.
    pub(super) fn set_clock(&mut self, now: u64) {
        let at = Instant::now();
        self.clock = Clock { now, at };
    }

    pub(super) fn server_time(&self, instant: Instant) -> u64 {
        self.clock.at(instant)
    }

    /// Writes some commands at once and waits for as many replies, errors among them.
    pub(super) async fn send(&mut self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        self.client
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
