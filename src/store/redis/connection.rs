use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{ConnectionAddr, Pipeline, RedisResult, Value};
use tokio::time::Instant;

use super::Core;
use super::endpoint::{Client, Endpoint};
use super::refusal::{Refusal, broken, is_one_node};
use super::script::{self, Keys, Question};
#[cfg(feature = "redis-sentinel")]
use super::sentinel::Place;
use crate::random;
use crate::store::StoreError;

/// The timeout for connecting, logging in and reading the clock. Checks have deadlines of their own.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a connection that is too old stays in use after its replacement could not be made.
const RENEWAL_RETRY: Duration = Duration::from_secs(1);

/// The hash tags of two keys that tell whether a server is a cluster. Their slots, 3841 and 15193, are
/// far apart, so that one node of a cluster hardly has both.
const HASH_TAGS: [&str; 2] = ["tollgate:probe", "tollgate:probe-3"];

/// A connection to one server, which knows that server's clock. Closed when dropped.
pub(super) struct Connection {
    client: Client,
    pub(super) address: ConnectionAddr,
    /// Whether the server refused a call with keys in two slots.
    pub(super) is_clustered: bool,
    given_up: AtomicBool,
    /// When to replace it, if ever.
    renew_at: Option<Mutex<Instant>>,
    heard: Mutex<Heard>,
    /// The primary's address, as a sentinel named it.
    #[cfg(feature = "redis-sentinel")]
    pub(super) place: Option<Place>,
}

/// The last answer of the server.
#[derive(Clone, Copy)]
struct Heard {
    /// The server's clock, in microseconds since the Unix epoch.
    now: u64,
    /// When the answer arrived, a little after the server had read its clock.
    at: Instant,
    /// The time from question to answer.
    round_trip: Duration,
}

impl Connection {
    /// Connects to a server that has all keys, or to a proxy before such servers. Reads the clock,
    /// and finds out whether keys of different slots can be in one call.
    pub(super) async fn open(endpoint: &Endpoint, core: &Core) -> Result<Self, StoreError> {
        let mut connection = Self::connect(endpoint, core).await?;
        // Some proxies choose the server by the first key, so no call is without one.
        let keys = HASH_TAGS.map(|tag| format!("{}:{{{tag}}}", core.prefix));
        let mut opened = connection.call(core, &[&keys]).await?;
        if opened == Err(Refusal::CrossSlot) {
            connection.is_clustered = true;
            opened = connection.call(core, &[&keys[..1], &keys[1..]]).await?;
        }
        opened.map_err(|refusal| {
            let error = match refusal {
                Refusal::Elsewhere { .. } => is_one_node(),
                other => other.into(),
            };
            error.at(&endpoint.address)
        })?;
        Ok(connection)
    }

    /// Connects to a node of a cluster, and reads the clock.
    #[cfg(feature = "redis-cluster")]
    pub(super) async fn open_node(endpoint: &Endpoint, core: &Core) -> Result<Self, StoreError> {
        let connection = Self::connect(endpoint, core).await?;
        // A call without keys runs at any node.
        let opened = connection.call(core, &[&[]]).await?;
        opened.map_err(|refusal| StoreError::from(refusal).at(&endpoint.address))?;
        Ok(connection)
    }

    async fn connect(endpoint: &Endpoint, core: &Core) -> Result<Self, StoreError> {
        let client = endpoint.connect().await?;
        let now = Instant::now();
        let nothing_yet = Heard {
            now: 0,
            at: now,
            round_trip: Duration::ZERO,
        };
        let age = core.max_connection_age.map(random::with_jitter);
        Ok(Self {
            client,
            address: endpoint.address.clone(),
            is_clustered: false,
            given_up: AtomicBool::new(false),
            renew_at: age.and_then(|age| Some(Mutex::new(now.checked_add(age)?))),
            heard: Mutex::new(nothing_yet),
            #[cfg(feature = "redis-sentinel")]
            place: None,
        })
    }

    /// Makes calls that name keys and ask nothing: they tell the time, and teach the server the
    /// script.
    async fn call(
        &self,
        core: &Core,
        calls: &[&[String]],
    ) -> Result<Result<(), Refusal>, StoreError> {
        let question = |keys: &&[String]| {
            let mut question = Question {
                keys: Keys::with_capacity(keys.len()),
                groups: Vec::new(),
            };
            for key in *keys {
                question.keys.add(|text| text.push_str(key));
            }
            question
        };
        let questions: Vec<_> = calls.iter().map(question).collect();
        // Before AUTH, a server refuses the script's text for its size, and does not say that a password
        // is missing: so the hash is sent first.
        let mut answer = Ok(());
        for whole in [false, true] {
            let mut pipeline = Pipeline::with_capacity(questions.len());
            for question in &questions {
                pipeline.add_command(core.script.call(question, 0, whole));
            }
            let began = Instant::now();
            let replies = self.send(&pipeline).await;
            let replies = replies.map_err(|error| broken(&error).at(&self.address))?;
            let replies = questions.iter().zip(replies);
            let answers = replies.map(|(question, reply)| script::read(question, Some(reply)));
            answer = answers.collect::<Result<Vec<_>, _>>().map(|answers| {
                for answer in answers {
                    self.answered(answer.now, began.elapsed());
                }
            });
            if answer != Err(Refusal::NoScript) {
                break;
            }
        }
        Ok(answer)
    }

    /// Whether the connection can no longer be used.
    pub(super) fn is_closed(&self) -> bool {
        #[cfg(feature = "redis-sentinel")]
        if self.place.as_ref().is_some_and(Place::is_lost) {
            return true;
        }
        self.given_up.load(Ordering::Relaxed) || self.client.is_closed()
    }

    /// Whether it is time to replace the connection. If so, it is not again for a second.
    pub(super) fn is_due_for_renewal(&self) -> bool {
        let Some(renew_at) = &self.renew_at else {
            return false;
        };
        let mut renew_at = renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = *renew_at <= now;
        if is_due {
            *renew_at = now + RENEWAL_RETRY;
        }
        is_due
    }

    /// Marks the connection as unusable.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an answer that has just arrived: the server's time, and the round trip's duration.
    pub(super) fn answered(&self, now: u64, round_trip: Duration) {
        let at = Instant::now();
        *self.heard() = Heard {
            now,
            at,
            round_trip,
        };
    }

    /// The time on the server's clock at `instant`, or a little less: a call that is void after it is
    /// not run later than `instant`.
    pub(super) fn server_time(&self, instant: Instant) -> u64 {
        let heard = *self.heard();
        let since = instant.saturating_duration_since(heard.at).as_micros() as u64;
        let before = heard.at.saturating_duration_since(instant).as_micros() as u64;
        (heard.now + since).saturating_sub(before)
    }

    /// The duration of the last round trip.
    pub(super) fn round_trip(&self) -> Duration {
        self.heard().round_trip
    }

    /// Writes some commands at once and waits for as many replies, errors among them.
    pub(super) async fn send(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut client = self.client.connection.clone();
        client
            .send_packed_commands(commands, 0, commands.len())
            .await
    }
}
