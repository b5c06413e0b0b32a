#[cfg(feature = "redis-sentinel")]
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{ConnectionAddr, Pipeline, RedisResult, Value};
use tokio::time::Instant;

use super::endpoint::{Client, Endpoint};
use super::error::{CallError, connection_error, redirected_by_single_server};
use super::script::{self, Keys, ScriptInput};
use super::shared::Shared;
use crate::random;
use crate::store::StoreError;

/// The delay before another attempt to replace a connection that is too old.
const RENEWAL_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The number of connections so far.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// The hash tags of two keys that tell whether a server is a cluster. Their hash slots, 3841 and 15193,
/// are far apart, so that one node of a cluster is unlikely to own both.
const HASH_TAGS: [&str; 2] = ["tollgate:probe", "tollgate:probe-3"];

/// A connection to one server, with an estimate of that server's clock. Closed when dropped.
pub(super) struct Connection {
    client: Client,
    /// A number that no earlier connection has, unless this one, to the same server, has replaced it for
    /// its age.
    pub(super) number: u64,
    pub(super) address: ConnectionAddr,
    /// Whether the server failed a call with keys in two hash slots.
    pub(super) is_clustered: bool,
    is_abandoned: AtomicBool,
    /// When to replace the connection, if it has a maximum age.
    renew_at: Option<Mutex<Instant>>,
    last_reply: Mutex<LastReply>,
    /// Set if a sentinel named the server.
    #[cfg(feature = "redis-sentinel")]
    pub(super) verification: Option<PrimaryVerification>,
}

/// The last reply of the server.
#[derive(Clone, Copy)]
struct LastReply {
    /// The server's clock, in microseconds since the Unix epoch.
    server_time: u64,
    /// When the reply arrived, shortly after the server had read its clock.
    received_at: Instant,
    round_trip: Duration,
}

/// The last verification, by a sentinel, that the server is still the primary.
#[cfg(feature = "redis-sentinel")]
pub(super) struct PrimaryVerification {
    pub(super) started_at: Mutex<Instant>,
    /// Whether a sentinel named another server as the primary.
    pub(super) is_replaced: Arc<AtomicBool>,
}

impl Connection {
    /// Connects to a server that has all keys, or to a proxy in front of such servers. Finds out whether
    /// one call may have keys in several hash slots.
    pub(super) async fn open(endpoint: &Endpoint, shared: &Shared) -> Result<Self, StoreError> {
        let mut connection = Self::connect(endpoint, shared).await?;
        // Some proxies choose the server by the first key, so each call has one.
        let keys = HASH_TAGS.map(|tag| format!("{}:{{{tag}}}", shared.prefix));
        let mut called = connection.call_without_items(shared, &[&keys]).await?;
        if called == Err(CallError::CrossSlot) {
            connection.is_clustered = true;
            called = connection
                .call_without_items(shared, &[&keys[..1], &keys[1..]])
                .await?;
        }
        called.map_err(|error| {
            let error = match error {
                CallError::Redirect(_) => redirected_by_single_server(),
                other => other.into(),
            };
            error.at(&endpoint.address)
        })?;
        Ok(connection)
    }

    /// Connects to a node of a cluster.
    #[cfg(feature = "redis-cluster")]
    pub(super) async fn open_node(
        endpoint: &Endpoint,
        shared: &Shared,
    ) -> Result<Self, StoreError> {
        let connection = Self::connect(endpoint, shared).await?;
        // Every node runs a call without keys.
        let called = connection.call_without_items(shared, &[&[]]).await?;
        called.map_err(|error| StoreError::from(error).at(&endpoint.address))?;
        Ok(connection)
    }

    async fn connect(endpoint: &Endpoint, shared: &Shared) -> Result<Self, StoreError> {
        let client = endpoint.connect().await?;
        let now = Instant::now();
        let no_reply = LastReply {
            server_time: 0,
            received_at: now,
            round_trip: Duration::ZERO,
        };
        let age = shared.max_connection_age.map(random::with_jitter);
        Ok(Self {
            client,
            number: 1 + CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            address: endpoint.address.clone(),
            is_clustered: false,
            is_abandoned: AtomicBool::new(false),
            renew_at: age.and_then(|age| Some(Mutex::new(now.checked_add(age)?))),
            last_reply: Mutex::new(no_reply),
            #[cfg(feature = "redis-sentinel")]
            verification: None,
        })
    }

    /// Calls the script once for each element of `calls`, with these keys and no batch items. This reads
    /// the server's clock, and loads the script.
    async fn call_without_items(
        &self,
        shared: &Shared,
        calls: &[&[String]],
    ) -> Result<Result<(), CallError>, StoreError> {
        let input = |keys: &&[String]| {
            let mut input = ScriptInput {
                keys: Keys::with_capacity(keys.len()),
                groups: Vec::new(),
            };
            for (index, key) in keys.iter().enumerate() {
                input.keys.add(index as u128, |text| text.push_str(key));
            }
            input
        };
        let inputs: Vec<_> = calls.iter().map(input).collect();
        let mut result = Ok(());
        // Before AUTH, a server refuses the source for its size, which hides that a password is missing:
        // so the hash is sent first.
        for with_source in [false, true] {
            let mut pipeline = Pipeline::with_capacity(inputs.len());
            for input in &inputs {
                pipeline.add_command(shared.script.command(input, 0, with_source));
            }
            let sent_at = Instant::now();
            let replies = self.send(&pipeline).await;
            let replies = replies.map_err(|error| connection_error(&error).at(&self.address))?;
            let replies = inputs.iter().zip(replies);
            let replies = replies.map(|(input, reply)| script::decode(input, Some(reply)));
            result = replies.collect::<Result<Vec<_>, _>>().map(|replies| {
                for reply in replies {
                    self.record_reply(reply.now, sent_at.elapsed());
                }
            });
            if result != Err(CallError::NoScript) {
                break;
            }
        }
        Ok(result)
    }

    /// Returns whether the connection can no longer be used.
    pub(super) fn is_closed(&self) -> bool {
        #[cfg(feature = "redis-sentinel")]
        if let Some(verification) = &self.verification
            && verification.is_replaced.load(Ordering::Relaxed)
        {
            return true;
        }
        self.is_abandoned.load(Ordering::Relaxed) || self.client.is_closed()
    }

    /// Returns whether the connection should be replaced now. After `true`, returns `false` for a
    /// second.
    pub(super) fn is_due_for_renewal(&self) -> bool {
        let Some(renew_at) = &self.renew_at else {
            return false;
        };
        let mut renew_at = renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = *renew_at <= now;
        if is_due {
            *renew_at = now + RENEWAL_RETRY_DELAY;
        }
        is_due
    }

    /// Marks the connection as unusable.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    fn last_reply(&self) -> MutexGuard<'_, LastReply> {
        self.last_reply
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a reply that has just arrived.
    pub(super) fn record_reply(&self, server_time: u64, round_trip: Duration) {
        let received_at = Instant::now();
        *self.last_reply() = LastReply {
            server_time,
            received_at,
            round_trip,
        };
    }

    /// Estimates the server's clock at `instant`. The estimate may lag but is never ahead, so that a call
    /// that expires at the estimate is not run after `instant`.
    pub(super) fn server_time(&self, instant: Instant) -> u64 {
        let last = *self.last_reply();
        let since = instant
            .saturating_duration_since(last.received_at)
            .as_micros() as u64;
        let before = last
            .received_at
            .saturating_duration_since(instant)
            .as_micros() as u64;
        (last.server_time + since).saturating_sub(before)
    }

    /// The duration of the last round trip.
    pub(super) fn round_trip(&self) -> Duration {
        self.last_reply().round_trip
    }

    /// Sends commands in one pipeline. Returns the reply to each, which may be an error reply.
    pub(super) async fn send(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut client = self.client.connection.clone();
        client
            .send_packed_commands(commands, 0, commands.len())
            .await
    }
}
